"""What one layer does to the stream: add a sum, then ablate directions, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Ablation(NamedTuple):
    """Remove a multiple of the stream's component along a direction: h - (h . unit) scaled.

    `unit` has length 1, `scaled` is the coefficient times it; both [..., width]. Where they are zeros, the
    stream stays as it is, to the bit.
    """

    unit: Tensor
    scaled: Tensor

    @classmethod
    def along(cls, vector: Tensor, coefficient: float) -> Ablation:
        """The ablation of each row of `vector`, [..., width]; a row of zeros has no direction."""
        length = vector.norm(dim=-1, keepdim=True)
        unit = torch.where(length > 0, vector / length, torch.zeros_like(vector))
        return cls(unit, coefficient * unit)


@dataclass(frozen=True)
class Change:
    """First `added` is added to the stream, then the ablations are made in turn; all are [..., width]."""

    added: Tensor
    ablations: tuple[Ablation, ...] = ()

    def of(self, stream: Tensor) -> Tensor:
        """The changed stream, a new tensor: the previous block still owns the old one.

        Ablations are computed in float32 and rounded once, at the end.
        """
        after = stream + self.added.to(stream)
        if not self.ablations:
            return after
        exact = after.to(torch.promote_types(after.dtype, torch.float32))
        for unit, scaled in self.ablations:
            exact = exact - (exact * unit.to(exact)).sum(-1, keepdim=True) * scaled.to(exact)
        return exact.to(stream)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.added, *(side for ablation in self.ablations for side in ablation))

    def each(self, function: Callable[[Tensor], Tensor]) -> Change:
        """The same change with every tensor replaced by what the function makes of it."""
        ablations = (Ablation(*map(function, ablation)) for ablation in self.ablations)
        return Change(function(self.added), tuple(ablations))

    def fill(self, rows: slice, change: Change | None) -> None:
        """Write a change of one row, [width], into some rows of this one; None makes them change nothing."""
        given = () if change is None else change.tensors
        for own in self.tensors:
            own[rows] = 0
        for own, values in zip(self.tensors, given, strict=False):
            own[rows] = values


def with_room(kept: Change | None, change: Change, rows: int) -> Change:
    """A change of many rows, [rows, width], into which `change`, of a single row, can be written.

    The tensors of `kept` stay in it, because a CUDA graph reads the tensors that it has recorded.
    """

    def zeros() -> Tensor:
        return torch.zeros(rows, *change.added.shape, device=change.added.device)

    kept = Change(zeros()) if kept is None else kept
    more = range(len(kept.ablations), len(change.ablations))
    return Change(kept.added, (*kept.ablations, *(Ablation(zeros(), zeros()) for _ in more)))
