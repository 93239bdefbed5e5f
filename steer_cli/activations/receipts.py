"""Where an arm's additions acted and how strongly, measured by the pass that was changed."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.nn.functional import cosine_similarity

from steer_cli.activations.arms import Arm, rows_of
from steer_cli.planning.placement import meetings
from steer_cli.results import Receipt, Sum


class ReceiptTaker:
    """Takes the receipts of one arm while its text runs."""

    def __init__(self, arm: Arm):
        self._arm = arm
        self._indices: dict[int, list[int]] = {}  # layer -> its placements, by number
        for index, placement in enumerate(arm.placements):
            self._indices.setdefault(placement.layer, []).append(index)
        self._receipts: dict[int, Receipt] = {}
        self.sums: list[Sum] = []

    def see(self, layer: int, before: Tensor, after: Tensor) -> None:
        """Measure a layer's additions; both are the text's stream there, [positions, width]."""
        indices = self._indices.get(layer, ())
        for index in indices:
            placement = self._arm.placements[index]
            stream = before[placement.start : placement.end].float()
            rows = rows_of(placement, self._arm.vectors[index]).to(stream)
            self._receipts[index] = Receipt(placement, *_figures(rows, stream))
        for start, end in meetings(self._arm.placements[index] for index in indices):
            stream, changed = _exact(before[start:end]), _exact(after[start:end])
            self.sums.append(Sum(layer, start, end, *_figures(changed - stream, stream)))

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """In the order of the placements."""
        return tuple(self._receipts[index] for index in range(len(self._arm.placements)))


def _figures(rows: Tensor, stream: Tensor) -> Iterator[tuple[float, ...]]:
    """Of each position: |rows|, |stream|, their ratio, and the cosine between them."""
    rows, stream = _exact(rows), _exact(stream)
    size, length = rows.norm(dim=-1), stream.norm(dim=-1)
    for values in (size, length, size / length, cosine_similarity(rows, stream, dim=-1)):
        yield tuple(values.tolist())


def _exact(values: Tensor) -> Tensor:
    """In float64, where no norm overflows; MPS has none."""
    return values.float() if values.device.type == "mps" else values.double()
