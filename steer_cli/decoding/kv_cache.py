"""The keys and values of rows that decode together, in tensors allocated once.

A row lives in a slot; rows of any length stand side by side, and a slot is free for another row as soon as
its own is done. This module does not know tokens or sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_cli.models.load import Model

MOST_BY_POSITION = 512  # positions up to which a cache lies position by position


@dataclass(frozen=True)
class Prefix:
    """Keys and values of rows after their prompt: for each block [rows, heads, positions, width of a head].

    Rows may be shorter than `positions`; what stands behind their end is never read.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def row(self, index: int, length: int) -> Prefix:
        """One row, cut to its length, in memory of its own."""
        cut = [
            tuple(t[index : index + 1, :, :length].clone() for t in side) for side in (self.keys, self.values)
        ]
        return Prefix(*cut)


class Slots:
    """A cache for transformers' models: each step appends a position to every row, at that row's own end.

    `lengths` [rows] is how many positions of each slot are filled. With `fixed`, every step runs all rows
    over the whole capacity, so that shapes never change and a CUDA graph can hold the step.
    """

    def __init__(self, model: Model, like: Prefix, rows: int, capacity: int, fixed: bool = False):
        self.rows, self.capacity, self.fixed = rows, capacity, fixed
        self.lengths = torch.zeros(rows, dtype=torch.long, device=model.device)
        # [positions, rows, heads, width of a head]
        self._buffers = [[_buffer(t, rows, capacity) for t in side] for side in (like.keys, like.values)]
        self._index = torch.arange(rows, device=model.device)
        self._positions = torch.arange(capacity, device=model.device)
        self._window = _window(model)
        self._mixed = _has_both_kinds(model)
        self.used = self._filled = self._longest = 0
        self._level = False

    def fill(self, slots: slice, prefix: Prefix, length: int) -> None:
        """Put a row of `length` positions into each of some slots; `prefix` holds that one row."""
        for buffers, side in zip(self._buffers, (prefix.keys, prefix.values), strict=True):
            for buffer, tensor in zip(buffers, side, strict=True):
                buffer[:length, slots] = tensor[:, :, :length].permute(2, 0, 1, 3)
        self.lengths[slots] = length

    def copy(self, sources: Tensor, targets: Tensor, positions: int) -> None:
        """Copy some slots, of up to `positions` positions each, over as many others."""
        for buffers in self._buffers:
            for buffer in buffers:
                held = buffer[:positions]
                held[:, targets.to(buffer.device)] = held[:, sources.to(buffer.device)]
        self.lengths[targets] = self.lengths[sources]

    def begin_step(self, used: int, longest: int, level: bool = False) -> None:
        """Announce a step over the first `used` slots, the longest of which holds `longest` positions.

        Args:
            level: all of them hold that many, as those of one prompt do; a step is then a little quicker.
        """
        self._level = level and not self.fixed
        self.used, self._filled = self.rows if self.fixed else used, used
        self._longest = self.capacity if self.fixed else longest + 1

    def run_at_least(self, rows: int) -> None:
        """Let this step run free slots too; what comes of them means nothing."""
        self.used = max(self.used, min(rows, self.rows))

    @property
    def hides_nothing(self) -> bool:
        """Whether each row may attend to all positions of this step, so that no mask is needed."""
        return self._level and (self._window is None or self._longest <= self._window)

    def mask(self, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
        """What each row may attend to in this step: additive, [rows, 1, 1, positions]."""
        ends = self.lengths[: self.used, None]
        at = self._positions[None, : self._longest]
        whole = at <= ends
        if self._window is None:
            return _additive(whole, dtype)
        near = _additive(whole & (at > ends - self._window), dtype)
        if not self._mixed:
            return near
        return {"full_attention": _additive(whole, dtype), "sliding_attention": near}

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """`append` under transformers' name, called by the model: [rows, heads, 1, width of a head]."""
        return self.append(layer_idx, keys[:, :, 0], values[:, :, 0])

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one position to each row of a block: [rows, heads, width of a head].

        Returns:
            All keys and values of the rows in use, [rows, heads, positions, width of a head].
        """
        used, longest = self.used, self._longest
        seen = []
        for buffers, new in zip(self._buffers, (keys, values), strict=True):
            buffer = buffers[layer]
            seen.append(buffer[:longest, :used].permute(1, 2, 0, 3))
            if self._level:
                buffer[longest - 1, :used] = new
                continue
            # A model spread over devices keeps each block's cache beside the block.
            index, ends = self._index[:used].to(buffer.device), self.lengths[:used].to(buffer.device)
            buffer[ends, index] = new
        return seen[0], seen[1]

    def end_step(self) -> None:
        """Count the position that every filled slot has got."""
        self.lengths[: self._filled] += 1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked for by some models although positions are given; the longest row's."""
        return self._longest - 1


def _buffer(like: Tensor, rows: int, capacity: int) -> Tensor:
    heads, width = like.shape[1], like.shape[3]
    # What a step appends lies in one piece; where there are many positions, those of a row and head do, since
    # attention, which reads them one after the other, is then most of a step.
    short = capacity <= MOST_BY_POSITION
    shape = (capacity, rows, heads, width) if short else (rows, heads, capacity, width)
    buffer = torch.zeros(shape, dtype=like.dtype, device=like.device)
    return buffer if short else buffer.permute(2, 0, 1, 3)


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None, None]


def _kinds(model: Model) -> Sequence[str]:
    return getattr(model.network.config.get_text_config(), "layer_types", None) or []


def _window(model: Model) -> int | None:
    """Positions that a sliding block sees, its own included; None where no block slides."""
    config = model.network.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = _kinds(model)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return window if slides and isinstance(window, int) else None


def _has_both_kinds(model: Model) -> bool:
    """Such models take a mask for each kind of block."""
    return bool({"full_attention", "sliding_attention"} <= set(_kinds(model)))


def slot_bytes(like: Prefix, capacity: int) -> int:
    """Memory of one slot."""
    values = sum(
        t.shape[1] * t.shape[3] * t.element_size() for side in (like.keys, like.values) for t in side
    )
    return values * capacity
