"""Which positions attend to which, and where keys and values are kept.

Recording, prefill, scoring and decoding use the same forward pass and differ only in the attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Attention(Protocol):
    """Attention for rows of new positions, including any past positions."""

    @property
    def positions(self) -> Tensor:
        """The place of each new position in its row, [rows or 1, positions]."""

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
    ) -> Tensor:
        """Attention output of block `layer`; each query sees its own position and those before it.

        Args:
            queries: [rows, heads, positions, head width].
            keys, values: of the new positions, [rows, groups, positions, head width]; heads are a multiple
                of groups, and neighbouring heads share a group.
            window: how many positions are seen, the query's own included; None for all.

        Returns:
            [rows, heads, positions, head width].
        """


@dataclass(frozen=True)
class Prefix:
    """Keys and values of rows after their prompt: for each block [rows, groups, positions, head width].

    Rows may be shorter than `positions`; nothing after their end is read.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def row(self, index: int, length: int) -> Prefix:
        """A copy of one row, cut to its length."""
        sides = [
            tuple(tensor[index : index + 1, :, :length].clone() for tensor in side)
            for side in (self.keys, self.values)
        ]
        return Prefix(*sides)


@dataclass
class Causal:
    """Rows from their first position.

    Rows of different lengths share a pass by padding on the right, which cannot affect earlier positions.

    Args:
        length: positions of the pass.
        keep: whether to keep the keys and values, for `prefix`.
    """

    length: int
    device: torch.device | str = "cpu"
    keep: bool = False
    _keys: list[Tensor] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)

    @property
    def positions(self) -> Tensor:
        return torch.arange(self.length, device=self.device)[None]

    @property
    def prefix(self) -> Prefix:
        """The keys and values of all blocks that a pass from block 0 has run."""
        return Prefix(tuple(self._keys), tuple(self._values))

    def took(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Keep the keys and values of all blocks from a network that computes its own attention."""
        self._keys, self._values = list(keys), list(values)

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
    ) -> Tensor:
        if self.keep:
            self._keys.append(keys)
            self._values.append(values)
        shares = queries.shape[1] // keys.shape[1]
        keys, values = _shared(keys, shares), _shared(values, shares)
        if window is None or window >= self.length:
            return scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
        mask = visible(self.positions, self.length, window)[:, None]
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)


@dataclass(frozen=True)
class AfterPrefix:
    """Rows that continue the same prompt.

    Args:
        prefix: keys and values of the prompt, one row.
        rows: number of rows in the pass.
        length: positions per row.
    """

    prefix: Prefix
    rows: int
    length: int

    @property
    def positions(self) -> Tensor:
        keys = self.prefix.keys[0]
        return torch.arange(keys.shape[2], keys.shape[2] + self.length, device=keys.device)[None]

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
    ) -> Tensor:
        rows, shares = queries.shape[0], queries.shape[1] // keys.shape[1]
        all_keys, all_values = (
            _shared(torch.cat([past.expand(rows, -1, -1, -1), new], 2), shares)
            for past, new in ((self.prefix.keys[layer], keys), (self.prefix.values[layer], values))
        )
        mask = visible(self.positions.to(queries.device), all_keys.shape[2], window)[:, None]
        return scaled_dot_product_attention(queries, all_keys, all_values, attn_mask=mask, scale=scale)


def visible(positions: Tensor, count: int, window: int | None) -> Tensor:
    """Which of `count` positions each of [rows, positions] sees: bool [rows, positions, count]."""
    places = torch.arange(count, device=positions.device)
    seen = places <= positions[..., None]
    return seen if window is None else seen & (places > positions[..., None] - window)


def _shared(heads: Tensor, shares: int) -> Tensor:
    """Repeat each group's keys or values for every head that shares them."""
    return heads if shares == 1 else heads.repeat_interleave(shares, 1)
