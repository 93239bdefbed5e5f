"""Turn vectors and placements into what one arm does to the stream of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from steer_cli.activations.change import Ablation, Change
from steer_cli.activations.relative import NO_LENGTHS, StreamLengths, comes_to, lengths_of
from steer_cli.errors import VectorError
from steer_cli.planning.placement import Alignment, Placement
from steer_cli.recipe.relative import Relative
from steer_cli.results import Agreement


@dataclass(frozen=True)
class Arm:
    """One way to run a text: with vectors placed on it, or without any (UNSTEERED).

    The pass that uses them makes the tensors, so an arm uses no memory before that.
    """

    placements: tuple[Placement, ...] = ()
    vectors: tuple[Tensor, ...] = ()  # one for each placement, [positions, width] ([1, width] for `every`)

    @cached_property
    def by_layer(self) -> dict[int, list[tuple[Placement, Tensor]]]:
        """layer -> its placements and vectors; cached, as there may be thousands of additions."""
        grouped: dict[int, list[tuple[Placement, Tensor]]] = {}
        for placement, vector in zip(self.placements, self.vectors, strict=True):
            grouped.setdefault(placement.layer, []).append((placement, vector))
        return grouped

    @property
    def layers(self) -> set[int]:
        return set(self.by_layer)

    @cached_property
    def acting(self) -> dict[int, list[Placement]]:
        """layer -> the additions that should change the stream there, at any position."""
        kept = {
            layer: [placement for placement, _ in additions if placement.acts]
            for layer, additions in self.by_layer.items()
        }
        return {layer: placements for layer, placements in kept.items() if placements}

    @cached_property
    def acting_on_prompt(self) -> dict[int, list[Placement]]:
        """layer -> those of `acting` that reach a position of the prompt."""
        reaching = {
            layer: [placement for placement in placements if placement.start < placement.end]
            for layer, placements in self.acting.items()
        }
        return {layer: placements for layer, placements in reaching.items() if placements}

    @cached_property
    def acting_later(self) -> dict[int, list[Placement]]:
        """layer -> those of `acting` that reach only new tokens."""
        later = {
            layer: [each for each in placements if each.on_new_tokens and each.start >= each.end]
            for layer, placements in self.acting.items()
        }
        return {layer: placements for layer, placements in later.items() if placements}

    def add_to(self, total: Tensor, layer: int) -> None:
        """Add a layer's additions to `total`, [positions, width], in place; ablations are not in it.

        Raises:
            VectorError: only zeros of an addition fall on the text, such as its BOS row.
        """
        for placement, vector in self.by_layer.get(layer, ()):
            if not placement.ablates:
                rows = _checked(placement, rows_of(placement, vector))
                total[placement.start : placement.end] += placement.coefficient * rows

    def ablating(self, layer: int) -> list[tuple[Placement, Tensor]]:
        """The ablations of a layer that change anything, with their vectors, in the order of the recipe."""
        return [
            (placement, vector)
            for placement, vector in self.by_layer.get(layer, ())
            if placement.ablates and placement.acts
        ]

    @cached_property
    def on_new_tokens(self) -> Mapping[int, Change]:
        """layer -> what is done to the stream of each new token, in tensors [width]."""
        changes: dict[int, Change] = {}
        for placement, vector in zip(self.placements, self.vectors, strict=True):
            if not placement.on_new_tokens:
                continue
            row = vector[0]
            change = changes.get(placement.layer, Change(torch.zeros_like(row)))
            if not placement.ablates:
                change = Change(change.added + placement.coefficient * row, change.ablations)
            elif placement.acts:
                ablation = Ablation.along(row, placement.coefficient)
                change = Change(change.added, (*change.ablations, ablation))
            changes[placement.layer] = change
        return changes


UNSTEERED = Arm()


@dataclass(frozen=True)
class Steering:
    """The vectors of a recipe, before they are placed on texts."""

    alignments: tuple[Alignment, ...]
    vectors: tuple[Tensor, ...]
    agreements: tuple[Agreement | None, ...] = ()  # of the texts of each alignment, where they are many

    @property
    def layer(self) -> int:
        """The first block whose stream changes."""
        return min(alignment.block for alignment in self.alignments)

    @property
    def adds_nothing(self) -> bool:
        """Whether texts run as they would unsteered."""
        return all(alignment.addition.adds_nothing for alignment in self.alignments)

    @cached_property
    def relative_layers(self) -> frozenset[int]:
        """The layers whose stream must be measured, on every text, for the relative coefficients there."""
        return frozenset(
            alignment.block
            for alignment in self.alignments
            if isinstance(alignment.addition.coefficient, Relative) and not alignment.addition.adds_nothing
        )

    @cached_property
    def _row_lengths(self) -> tuple[Tensor, ...]:
        return tuple(map(lengths_of, self.vectors))

    def on(self, placements: Sequence[Placement], lengths: StreamLengths = NO_LENGTHS) -> Arm:
        """The arm for one text, given the placements of the alignments on it.

        A relative coefficient that has come to a number keeps it: a control's vector is as long as the one it
        replaces, up to rounding, and so is what is added.

        Args:
            lengths: of the text's unsteered stream, at `relative_layers`.
        """
        placed = []
        for number, placement in enumerate(placements):
            if placement.relative is not None and placement.acts and placement.comes_to is None:
                coefficient = comes_to(placement, self._row_lengths[number], lengths)
                placement = replace(placement, comes_to=coefficient)
            placed.append(placement)
        return Arm(tuple(placed), self.vectors)


def rows_of(placement: Placement, vector: Tensor) -> Tensor:
    """The vector's rows that land on [start, end): [positions, width]."""
    length = placement.end - placement.start
    return vector.expand(length, -1) if placement.every else vector[placement.first_row :][:length]


def _checked(placement: Placement, rows: Tensor) -> Tensor:
    if placement.acts and not placement.every and not rows.any():
        raise VectorError(
            f"{placement.alignment.label}: does nothing: the part on [{placement.start}, {placement.end}) is "
            "all zeros; use a longer prompt or another position"
        )
    return rows


def _placed(placement: Placement) -> tuple[int, int, int, float]:
    return placement.start, placement.end, placement.first_row, placement.coefficient


def change_of(arms: Sequence[Arm], layer: int, positions: int, width: int, device: torch.device) -> Change:
    """What the arms do at a layer, [arms, positions, width]; nothing in rows whose arm does not act.

    All additions of a layer form one tensor, so many cost no more than one. Ablations stand in the order of
    each arm's recipe.

    Raises:
        VectorError: only zeros of an addition fall on a text, such as its BOS row.
    """
    total = torch.zeros(len(arms), positions, width, device=device)
    made: dict[tuple, Tensor] = {}  # an arm often adds the same tensor to many texts
    for row, arm in zip(total, arms, strict=True):
        key = (id(arm.vectors), tuple(map(_placed, arm.placements)))
        if key in made:
            row.copy_(made[key])
        else:
            arm.add_to(row, layer)
            made[key] = row
    ablating = [arm.ablating(layer) for arm in arms]
    ablations = []
    for nth in range(max(map(len, ablating), default=0)):
        ablation = Ablation(torch.zeros_like(total), torch.zeros_like(total))
        for row, of_arm in enumerate(ablating):
            for placement, vector in of_arm[nth : nth + 1]:
                rows = _checked(placement, rows_of(placement, vector))
                for side, values in zip(ablation, Ablation.along(rows, placement.coefficient), strict=True):
                    side[row, placement.start : placement.end] = values
        ablations.append(ablation)
    return Change(total, tuple(ablations))
