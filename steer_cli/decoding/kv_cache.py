"""The KV cache of rows that decode together, in tensors allocated once.

Each row has a slot, whatever its length; when the row ends, the slot is free for another.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from steer_cli.networks.attention import Prefix, visible

MOST_BY_POSITION = 512  # up to this many positions, memory is ordered by position


class KVCache:
    """An `Attention` for one new position per row, appended at the row's own end.

    `lengths` [rows] is how many positions of each slot are filled. With `fixed`, every step runs all rows
    over the whole capacity, so that shapes never change and a CUDA graph can record the step.

    Args:
        like: keys and values of any prompt of the model, for shapes.
        rows: number of slots.
        capacity: the most positions per row.
    """

    def __init__(self, like: Prefix, rows: int, capacity: int, fixed: bool = False):
        device = like.keys[0].device
        self.rows, self.capacity, self.fixed = rows, capacity, fixed
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        # [positions, rows, groups, head width]
        self._buffers = [
            [_buffer(tensor, rows, capacity) for tensor in side] for side in (like.keys, like.values)
        ]
        self._index = torch.arange(rows, device=device)
        self.used = self._filled = self._longest = 0
        self._level = False
        self._masks: dict[int | None, Tensor | None] = {}  # for this step, by window

    def fill(self, slots: slice, prefix: Prefix, length: int) -> None:
        """Copy the single row of `prefix`, of `length` positions, into each of the slots."""
        for buffers, side in zip(self._buffers, (prefix.keys, prefix.values), strict=True):
            for buffer, tensor in zip(buffers, side, strict=True):
                buffer[:length, slots] = tensor[:, :, :length].permute(2, 0, 1, 3)
        self.lengths[slots] = length

    def copy(self, sources: Tensor, targets: Tensor, positions: int) -> None:
        """Copy the `sources` slots, up to `positions` positions each, over the `targets`."""
        for buffers in self._buffers:
            for buffer in buffers:
                held = buffer[:positions]
                held[:, targets.to(buffer.device)] = held[:, sources.to(buffer.device)]
        self.lengths[targets] = self.lengths[sources]

    def begin_step(self, used: int, longest: int, level: bool = False, run: int = 0) -> None:
        """Begin a step over the first `used` slots, the longest of which holds `longest` positions.

        Args:
            level: all slots hold that many, as those of one prompt do; the step is then a little faster.
            run: run at least this many slots; the results of free slots are meaningless.
        """
        self._level = level and not self.fixed and run <= used
        self._filled = used
        self.used = self.rows if self.fixed else min(self.rows, max(used, run))
        self._longest = self.capacity if self.fixed else longest + 1
        self._masks = {}

    def forget_masks(self) -> None:
        """Compute this step's masks again when they are next needed."""
        self._masks = {}

    def end_step(self) -> None:
        """Count the position appended to every filled slot."""
        self.lengths[: self._filled] += 1

    @property
    def positions(self) -> Tensor:
        return self.lengths[: self.used, None]

    def attend(
        self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scale: float, window: int | None
    ) -> Tensor:
        rows, heads, _, width = queries.shape
        keys, values = self.append(layer, keys[:, :, 0], values[:, :, 0])
        # The query heads that share a group are treated as positions, so that no key is copied.
        queries = queries.reshape(rows, keys.shape[1], -1, width)
        mask = self.mask(window, queries.dtype)
        seen = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
        return seen.reshape(rows, heads, 1, width)

    def mask(self, window: int | None, dtype: torch.dtype, always: bool = False) -> Tensor | None:
        """The additive mask of what each row sees in this step, [rows, 1, 1, positions].

        None if rows see everything, unless `always` is set: transformers would then make its own mask.
        """
        if not always and self._level and (window is None or self._longest <= window):
            return None
        if window not in self._masks:
            seen = visible(self.lengths[: self.used, None], self._longest, window)[:, None]
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window] = mask.masked_fill_(~seen, torch.finfo(dtype).min)
        return self._masks[window]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append one position, [rows, groups, head width], to each row of a block.

        Returns:
            All keys and values of the rows in use, [rows, groups, positions, head width].
        """
        used, longest = self.used, self._longest
        seen = []
        for buffers, new in zip(self._buffers, (keys, values), strict=True):
            buffer = buffers[layer]
            seen.append(buffer[:longest, :used].permute(1, 2, 0, 3))
            if self._level:
                buffer[longest - 1, :used] = new
                continue
            # If a model is spread over devices, each block's cache is on the block's device.
            index, ends = self._index[:used].to(buffer.device), self.lengths[:used].to(buffer.device)
            buffer[ends, index] = new
        return seen[0], seen[1]

    # The two methods that transformers' models call on a cache.

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object) -> tuple:
        return self.append(layer_idx, keys[:, :, 0], values[:, :, 0])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Length of the longest row; some models ask for it although positions are given."""
        return self._longest - 1


def _buffer(like: Tensor, rows: int, capacity: int) -> Tensor:
    heads, width = like.shape[1], like.shape[3]
    # The positions that a step appends are contiguous. If there are many positions, those of a row and head
    # are contiguous instead, since attention, which reads them in order, then takes most of a step.
    short = capacity <= MOST_BY_POSITION
    shape = (capacity, rows, heads, width) if short else (rows, heads, capacity, width)
    buffer = torch.zeros(shape, dtype=like.dtype, device=like.device)
    return buffer if short else buffer.permute(2, 0, 1, 3)


def slot_bytes(like: Prefix, capacity: int) -> int:
    """Memory of one slot, in bytes."""
    sides = (like.keys, like.values)
    return capacity * sum(t.shape[1] * t.shape[3] * t.element_size() for side in sides for t in side)
