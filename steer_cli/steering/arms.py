"""Vectors and placements -> the tensors of an arm, and the receipt of where they acted.

The receipt is measured by the pass that was changed. This module does not know tokens, nor how a
receipt is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, zeros
from torch.nn.functional import cosine_similarity

from steer_cli.decoding.prefill import Arm
from steer_cli.errors import VectorError
from steer_cli.models.load import Model
from steer_cli.planning.placement import Alignment, Placement, meetings
from steer_cli.results import Receipt, Sum


def rows_of(placement: Placement, vector: Tensor) -> Tensor:
    """The vector's rows that land on [start, end): [positions, width]."""
    length = placement.end - placement.start
    return vector.expand(length, -1) if placement.every else vector[placement.first_row :][:length]


def added(placement: Placement, vector: Tensor) -> Tensor:
    """What a placement adds on [start, end): [positions, width].

    Raises:
        VectorError: nothing but zeros of an addition is left on the prompt (its BOS row, say).
    """
    alignment = placement.alignment
    rows = rows_of(placement, vector)
    if alignment.addition.coefficient != 0 and not placement.every and not rows.any():
        raise VectorError(
            f"{alignment.label}: does nothing: the part on [{placement.start}, {placement.end}) is all "
            "zeros; use a longer prompt or another position"
        )
    return alignment.addition.coefficient * rows


@dataclass(frozen=True)
class Placed:
    """What is added to one text, as integers and vectors; the tensors of a pass are made where it runs."""

    placements: tuple[Placement, ...] = ()
    vectors: tuple[Tensor, ...] = ()

    @cached_property
    def by_layer(self) -> dict[int, list[tuple[Placement, Tensor]]]:
        """Grouped once: there may be thousands of additions, at all layers."""
        grouped: dict[int, list[tuple[Placement, Tensor]]] = {}
        for placement, vector in zip(self.placements, self.vectors, strict=True):
            grouped.setdefault(placement.alignment.layer, []).append((placement, vector))
        return grouped

    @property
    def layers(self) -> set[int]:
        return set(self.by_layer)

    @cached_property
    def acting(self) -> dict[int, list[Placement]]:
        """layer -> what has to change the stream there, on whatever positions."""
        kept = {
            layer: [placement for placement, _ in here if placement.alignment.addition.coefficient != 0]
            for layer, here in self.by_layer.items()
        }
        return {layer: placements for layer, placements in kept.items() if placements}

    @property
    def spans(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((at.start, at.end, at.first_row) for at in self.placements)

    def add_to(self, total: Tensor, layer: int) -> None:
        """Add what acts at a layer to `total`, [positions, width], in place.

        Raises:
            VectorError: see `added`.
        """
        for placement, vector in self.by_layer.get(layer, ()):
            total[placement.start : placement.end] += added(placement, vector)


NOTHING = Placed()


def arm_of(model: Model, placements: Sequence[Placement], vectors: Sequence[Tensor], positions: int) -> Arm:
    """All additions of a layer summed into one tensor, [positions, width], so that many cost what one does.

    Raises:
        VectorError: see `added`.
    """
    placed = Placed(tuple(placements), tuple(vectors))
    prompt: dict[int, Tensor] = {}
    decode: dict[int, Tensor] = {}
    for layer in sorted(placed.layers):
        prompt[layer] = zeros(positions, model.width, device=model.device)
        placed.add_to(prompt[layer], layer)
    for placement, vector in zip(placements, vectors, strict=True):
        if placement.every:
            alignment = placement.alignment
            step = alignment.addition.coefficient * vector[0]
            decode[alignment.layer] = decode.get(alignment.layer, 0) + step
    acting = {
        layer: [placement for placement in here if placement.start < placement.end]
        for layer, here in placed.acting.items()
    }
    acting_later = {layer: placed.acting[layer] for layer, here in acting.items() if not here}
    return Arm(prompt, decode, {layer: here for layer, here in acting.items() if here}, acting_later)


@dataclass(frozen=True)
class Unplaced:
    """What is added in one arm, before it is placed on texts."""

    alignments: tuple[Alignment, ...]
    vectors: tuple[Tensor, ...]

    @property
    def layer(self) -> int:
        """The first block that it changes."""
        return min(alignment.layer for alignment in self.alignments)

    @property
    def nothing(self) -> bool:
        """Whether this is the unsteered arm."""
        return all(alignment.addition.coefficient == 0 for alignment in self.alignments)


@dataclass
class Observer:
    """Takes the receipts of one arm while the prompt runs; give `see` to its job."""

    arm: int
    placements: Sequence[Placement]
    vectors: Sequence[Tensor]
    receipts: dict[int, Receipt] = field(default_factory=dict)
    sums: list[Sum] = field(default_factory=list)

    @property
    def see(self) -> Callable[[int, Tensor, Tensor], None]:
        by_layer: dict[int, list[int]] = {}
        for number, placement in enumerate(self.placements):
            by_layer.setdefault(placement.alignment.layer, []).append(number)

        def measure(layer: int, before: Tensor, after: Tensor) -> None:
            numbers = by_layer.get(layer, ())
            for number in numbers:
                placement = self.placements[number]
                met = before[self.arm, placement.start : placement.end].float()
                rows = rows_of(placement, self.vectors[number]).to(met)
                self.receipts[number] = Receipt(placement, *_figures(rows, met))
            for start, end in meetings(self.placements[number] for number in numbers):
                met, changed = (_exact(stream[self.arm, start:end]) for stream in (before, after))
                self.sums.append(Sum(layer, start, end, *_figures(changed - met, met)))

        return measure

    def taken(self) -> tuple[Receipt, ...]:
        """The receipts in the order of the placements."""
        return tuple(self.receipts[number] for number in range(len(self.placements)))


def _figures(rows: Tensor, stream: Tensor) -> Iterator[tuple[float, ...]]:
    """Of each position: |rows|, |stream|, their ratio, and the cosine between them."""
    rows, stream = _exact(rows), _exact(stream)
    size, met = rows.norm(dim=-1), stream.norm(dim=-1)
    for values in (size, met, size / met, cosine_similarity(rows, stream, dim=-1)):
        yield tuple(values.tolist())


def _exact(values: Tensor) -> Tensor:
    """In float64, where no norm overflows; MPS has none."""
    return values.float() if values.device.type == "mps" else values.double()
