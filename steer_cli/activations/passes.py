"""Read which tokens a pass of a transformers model runs, and which of them are a prompt's.

Columns are those of the batch, cached ones first; positions are a row's own, without its padding.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from steer_cli.errors import PlanError


@dataclass(frozen=True)
class Pass:
    """One call of the model."""

    ids: Tensor  # [rows, tokens]
    past: int  # columns in the KV cache, in front of these tokens
    kept: Tensor | None  # [rows, past + tokens]: False for padding; None if there is none
    positions: Tensor | None  # the model's `position_ids`, [rows or 1, tokens]

    @property
    def end(self) -> int:
        """The column after the last token."""
        return self.past + self.ids.shape[1]


def read_pass(arguments: Mapping[str, Any]) -> Pass:
    """The pass that the arguments of a model's `forward` ask for.

    Raises:
        PlanError: they do not say at which positions its tokens stand.
    """
    ids, cache = arguments.get("input_ids"), arguments.get("past_key_values")
    if ids is None:
        raise PlanError("steering: a pass without input_ids, so token positions are unknown; pass input_ids")
    past = 0 if cache is None else int(cache.get_seq_length())
    kept = _kept(arguments.get("attention_mask"), past, *ids.shape)
    positions = arguments.get("position_ids")
    return Pass(ids, past, kept, positions if positions is not None and positions.ndim == 2 else None)


def _kept(mask: Any, past: int, rows: int, tokens: int) -> Tensor | None:
    """Which columns are tokens, [rows, past + tokens]; None if all are.

    Args:
        mask: of two dimensions, or of four ([rows, heads, tokens, columns]), or one for each kind of block.
    """
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return None
    columns = past + tokens
    shape = tuple(getattr(mask, "shape", ()))
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4) or mask.shape[-1] < columns:
        raise PlanError(
            f"steering: attention_mask is a {type(mask).__name__} of shape {list(shape)}, from which the "
            f"padding of {rows} rows and {columns} columns (cached ones included) cannot be read; use "
            "[rows, columns]"
        )
    if mask.ndim == 2:
        return mask[:, :columns].bool().expand(rows, -1)
    attends = (mask > torch.finfo(mask.dtype).min / 2 if mask.is_floating_point() else mask.bool())[:, 0]
    return _attended(attends, past, columns).expand(rows, -1)


def _attended(attends: Tensor, past: int, columns: int) -> Tensor:
    """Which columns are tokens, given which columns each of a pass's queries attends to.

    Padding attends to nothing or, so that softmax is defined, to itself alone or to everything; and nothing
    but padding attends to it.
    """
    column = torch.arange(attends.shape[-1], device=attends.device)
    query = column[past:columns, None]
    attends = attends & ~(attends & (column > query)).any(-1, keepdim=True)
    by_later = (attends & (column < query)).any(1)
    earlier = (attends & (column < query)).any(-1)
    earlier[:, -1] = True  # of the last there is no later one
    itself = attends[:, torch.arange(columns - past), column[past:columns]] & earlier
    return by_later[:, :columns] | torch.cat([itself.new_zeros(len(itself), past), itself], 1)


@dataclass(frozen=True)
class PromptRow:
    """One row of a prompt."""

    ids: tuple[int, ...]  # without those that an earlier pass has cached and nobody names here
    columns: tuple[int, ...]  # of all its tokens, those too

    @property
    def unnamed(self) -> int:
        """How many of its first tokens are cached, with ids that are not known."""
        return len(self.columns) - len(self.ids)

    def positions(self, start: int, stop: int) -> range:
        """Its positions that stand in these columns."""
        return range(bisect_left(self.columns, start), bisect_left(self.columns, stop))


@dataclass(frozen=True)
class Prompt:
    """The rows that a generation starts from, or that a pass brings."""

    rows: tuple[PromptRow, ...]
    width: int  # columns; what stands in later ones is new
    ends: bool = True  # whether the last column is known to end it


def prompt_in(current: Pass) -> Prompt | None:
    """The prompt in a pass outside of `generate`; None if its tokens are new ones.

    Without cached columns every token is a prompt's. After them, one token per row is new, and several are
    the next part of a prompt.
    """
    if current.past and current.ids.shape[1] == 1:
        return None
    rows = _rows(current.ids, current.past, current.kept, current.end)
    _check_unpacked(current, rows)
    return Prompt(rows, current.end, ends=current.past == 0)


@dataclass(frozen=True)
class Generation:
    """What `generate` was called with."""

    ids: Tensor | None
    mask: Tensor | None

    def prompt(self, first: Pass) -> Prompt:
        """Its prompt, given its first pass.

        As transformers has it, `input_ids` may hold a whole conversation whose beginning is cached, or only
        what follows the cached part, and then the mask is longer.
        """
        if self.ids is None:
            return Prompt(_rows(first.ids, 0, first.kept, first.end), first.end)
        length = self.ids.shape[1]
        start = first.past if self.mask is not None and self.mask.shape[1] == first.past + length else 0
        if first.past and start + length <= first.past:
            raise PlanError(
                f"steering: input_ids has {length} tokens per row, and the KV cache already holds "
                f"{first.past}; pass the whole conversation as input_ids, or an attention_mask of its "
                "whole length"
            )
        width = start + length
        if self.mask is not None:
            kept: Tensor | None = self.mask.bool()
        elif first.kept is None:
            kept = None
        else:
            # Of a prompt that comes in parts, columns that are still to come are taken for tokens.
            kept = torch.ones(len(self.ids), width, dtype=torch.bool)
            shared = min(width, first.end)
            kept[:, :shared] = first.kept[:: len(first.kept) // len(self.ids), :shared]
        rows = _rows(self.ids, start, kept, width)
        _check_unpacked(first, rows)
        return Prompt(rows, width)

    def check(self, current: Pass, prompt: Prompt) -> None:
        """Raise PlanError unless a pass runs the prompt's tokens where it runs any."""
        each = max(1, len(current.ids) // len(prompt.rows))  # rows per prompt, of beams or samples
        ids = current.ids.tolist()
        kept = None if current.kept is None else current.kept[:, current.past :].tolist()
        for number, row in enumerate(ids):
            of_prompt = prompt.rows[min(number // each, len(prompt.rows) - 1)]
            span = of_prompt.positions(current.past, current.end)
            wanted = [
                (of_prompt.columns[p] - current.past, of_prompt.ids[p - of_prompt.unnamed]) for p in span
            ]
            size = min(len(row), max(0, prompt.width - current.past))
            tokens = [(c, row[c]) for c in range(size) if kept is None or kept[number][c]]
            if tokens != wanted:
                raise PlanError(
                    "steering: `generate` runs other tokens than the prompt's at its positions, as with "
                    "guidance_scale and token_healing, or padding without attention_mask; steering cannot "
                    "place additions there; leave these out, or pass attention_mask"
                )


def _rows(ids: Tensor, start: int, kept: Tensor | None, width: int) -> tuple[PromptRow, ...]:
    """The rows of a prompt of `width` columns, whose ids begin at column `start`."""
    rows = []
    for number, row in enumerate(ids.tolist()):
        inside = [True] * width if kept is None else kept[number].tolist()
        columns = tuple(column for column in range(width) if inside[column])
        rows.append(PromptRow(tuple(row[column - start] for column in columns if column >= start), columns))
    return tuple(rows)


def _check_unpacked(current: Pass, rows: tuple[PromptRow, ...]) -> None:
    """Raise PlanError if a row holds several texts, one after the other."""
    if current.positions is None:
        return
    positions = current.positions.tolist()
    each = max(1, len(current.ids) // len(rows))
    for number, of_row in enumerate(positions):
        row = rows[min(number // each, len(rows) - 1)] if len(positions) > 1 else rows[0]
        inside = [row.columns[p] - current.past for p in row.positions(current.past, current.end)]
        placed = [of_row[column] for column in inside if column < len(of_row)]
        if any(after != before + 1 for before, after in pairwise(placed)):
            raise PlanError(
                "steering: the position_ids of a row do not count up by one, as where several texts share "
                "it; give each text a row of its own"
            )
