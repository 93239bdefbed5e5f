"""Check that steering changed the stream, by comparing it before and after in its own dtype.

Vectors and coefficients do not show it: additions may cancel or be rounded away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from steer_cli.errors import VectorError
from steer_cli.planning.placement import Placement

NAMED = 3  # most additions that an error names


class ChangedRows:
    """Record which rows of a pass changed at each layer; pass `see` to the pass.

    Args:
        lengths: for each row, how many positions from its start count.
    """

    def __init__(self, lengths: Sequence[int]):
        self._lengths = torch.tensor(lengths)[:, None]
        self._changed: dict[int, Tensor] = {}  # layer -> [rows]
        self.dtype: torch.dtype | None = None

    def see(self, layer: int, before: Tensor, after: Tensor) -> None:
        """Compare a layer's stream before and after, both [rows, positions, width]."""
        inside = torch.arange(before.shape[1]) < self._lengths
        self._changed[layer] = ((after != before).any(-1) & inside.to(before.device)).any(-1)
        self.dtype = before.dtype

    def missing(self, acting: Sequence[Collection[int]]) -> Iterator[tuple[int, int]]:
        """(row, layer) where nothing changed but something should have; `acting` holds each row's layers."""
        for layer, changed in self._changed.items():
            for row, (some, layers) in enumerate(zip(changed.tolist(), acting, strict=True)):
                if layer in layers and not some:
                    yield row, layer


def lost(placements: Sequence[Placement], layer: int, dtype: torch.dtype | None) -> VectorError:
    """The error for additions of a layer that did not change any value of the stream."""
    why, ways = "the coefficient is too small", "a larger one"
    if any(placement.ablates for placement in placements):
        why += ", or the stream has no component along the vector"
    if len(placements) > 1:
        why, ways = "they cancel, or the coefficients are too small", "other coefficients"
    if dtype != torch.float32:
        ways += ", or `dtype=float32`"
    precision = str(dtype).removeprefix("torch.")
    return VectorError(
        f"{_names(placements)}: does nothing: no value of the stream changed at layer {layer}, in "
        f"{precision}: {why}; use {ways}"
    )


def out_of_reach(placements: Sequence[Placement], last: int) -> VectorError:
    """The error for additions that act on no position up to `last`, the last that counts."""
    return VectorError(
        f"{_names(placements)}: does nothing: it acts on no position up to {last} (BOS is 0), the last one "
        "that counts here; use a longer prompt, a later position to predict from, or more new tokens"
    )


def _names(placements: Sequence[Placement]) -> str:
    labels = ", ".join(placement.alignment.label for placement in placements[:NAMED])
    more = len(placements) - NAMED
    return f"{labels} and {more} more" if more > 0 else labels
