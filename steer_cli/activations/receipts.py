"""Measure, during a steered pass, where an arm's additions act and how strongly."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import cosine_similarity

from steer_cli.activations.arms import Arm, rows_of
from steer_cli.activations.change import Ablation
from steer_cli.planning.placement import meetings
from steer_cli.results import Receipt, Sum


class ReceiptTaker:
    """Collect the receipts of one arm while its text runs."""

    def __init__(self, arm: Arm):
        self._arm = arm
        self._indices: dict[int, list[int]] = {}  # layer -> indices of its placements
        for index, placement in enumerate(arm.placements):
            self._indices.setdefault(placement.layer, []).append(index)
        self._receipts: dict[int, Receipt] = {}
        self.sums: list[Sum] = []

    def see(self, layer: int, before: Tensor, after: Tensor) -> None:
        """Measure a layer's additions, given the text's stream there, [positions, width]."""
        indices = self._indices.get(layer, ())
        for index in indices:
            placement = self._arm.placements[index]
            stream = before[placement.start : placement.end].float()
            rows = rows_of(placement, self._arm.vectors[index]).to(stream)
            sides = before, after
            along = (_component(side[placement.start : placement.end], rows) for side in sides)
            components = along if placement.ablates else ()
            self._receipts[index] = Receipt(placement, *_figures(rows, stream), *components)
        for start, end in meetings(self._arm.placements[index] for index in indices):
            stream, changed = _exact(before[start:end]), _exact(after[start:end])
            self.sums.append(Sum(layer, start, end, *_figures(changed - stream, stream)))

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """The receipts, in the order of the placements."""
        return tuple(self._receipts[index] for index in range(len(self._arm.placements)))


def _figures(rows: Tensor, stream: Tensor) -> Iterator[tuple[float, ...]]:
    """For each position: |rows|, |stream|, their ratio, and the cosine between them."""
    rows, stream = _exact(rows), _exact(stream)
    size, length = rows.norm(dim=-1), stream.norm(dim=-1)
    for values in (size, length, size / length, cosine_similarity(rows, stream, dim=-1)):
        yield tuple(values.tolist())


def _component(stream: Tensor, rows: Tensor) -> tuple[float, ...]:
    """At each position, the component of the stream along the vector's row."""
    return tuple((_exact(stream) * Ablation.along(_exact(rows), 1).unit).sum(-1).tolist())


def _exact(values: Tensor) -> Tensor:
    """Convert to float64, in which no norm overflows; on MPS, which lacks it, to float32."""
    return values.float() if values.device.type == "mps" else values.double()
