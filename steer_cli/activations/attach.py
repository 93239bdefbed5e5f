"""Steer a transformers model that the user has loaded: in generate, with beams, in padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steer_cli.activations.arms import Arm, Steering, change_of
from steer_cli.activations.effect import ChangedRows, lost
from steer_cli.errors import PlanError
from steer_cli.networks.adapter import replace_stream
from steer_cli.planning.placement import Placement, place
from steer_cli.planning.tokens import Tokenizer


@contextmanager
def attached(
    model: nn.Module, blocks: nn.ModuleList, steering: Steering, tokenizer: Tokenizer
) -> Iterator[None]:
    """Within the `with`, steer every pass of `model`: prompts, and later passes as new tokens.

    Positions are counted from each row's own first token, so rows may be padded on the left or on the right.

    Args:
        model: a ...ForCausalLM, called with `input_ids`, and with `attention_mask` if they are padded.
        blocks: its transformer blocks.
    """
    now = _Pass(steering, tokenizer)

    def begin(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        now.begin(kwargs.get("input_ids", args[0] if args else None), kwargs)

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for layer in sorted({alignment.block for alignment in steering.alignments}):

            def hook(_: nn.Module, args: tuple, kwargs: dict, layer: int = layer) -> tuple[tuple, dict]:
                return replace_stream(args, kwargs, lambda stream: now.change(layer, stream))

            stack.callback(blocks[layer].register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


class _Pass:
    """What is done in the current pass."""

    def __init__(self, steering: Steering, tokenizer: Tokenizer):
        self._steering, self._tokenizer = steering, tokenizer
        self._arms: list[tuple[int, Arm]] = []  # per row of a prompt: where its tokens begin, and its arm
        # Nothing of this arm is on a prompt: it is what the recipe does to new tokens.
        self._later = steering.on([Placement(alignment, 0, 0) for alignment in steering.alignments])
        # Those that have not run yet: the first pass shows whether they change anything.
        self._unseen = {
            layer: [placement for placement in placements if placement.on_new_tokens]
            for layer, placements in self._later.acting.items()
            if any(placement.every == "new" for placement in placements)
        }
        self._new: Tensor | None = None  # [rows, positions] of a later pass: 1 for tokens, 0 for padding

    def begin(self, ids: Tensor | None, arguments: dict[str, Any]) -> None:
        if ids is None:
            raise PlanError(
                "steering: a pass without input_ids, so token positions are unknown; pass input_ids"
            )
        cache = arguments.get("past_key_values")
        mask = arguments.get("attention_mask")
        if cache is not None and cache.get_seq_length():
            whole = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask[:, -ids.shape[1] :]
            self._arms, self._new = [], whole
            return
        if arguments.get("use_cache") is False and self._unseen:
            raise PlanError(
                "steering: {every: new} acts on new tokens alone, and without a KV cache they cannot be told "
                "from the prompt; use `use_cache=True`"
            )
        self._new = None
        tokens = torch.ones_like(ids) if mask is None else mask
        self._arms = [self._row(*row) for row in zip(ids.tolist(), tokens.tolist(), strict=True)]

    def _row(self, ids: Sequence[int], mask: Sequence[int]) -> tuple[int, Arm]:
        own = [index for index, kept in enumerate(mask) if kept]
        row = tuple(ids[index] for index in own)
        bos = self._tokenizer.bos
        with_bos = bos is not None and row[:1] == (bos,)
        is_chat = not with_bos and bool(self._tokenizer.chat_starts.intersection(row[:1]))
        if bos is not None and not with_bos and not is_chat:
            raise PlanError(
                f"steering: a row does not begin with BOS ({self._tokenizer.piece(bos)!r}); put it in "
                "front of the text, or set `bos: none` in the recipe"
            )
        text = self._tokenizer.decode(row)
        placements = place(self._steering.alignments, self._tokenizer, row, text, is_chat)
        return own[0], self._steering.on(placements)

    def change(self, layer: int, stream: Tensor) -> Tensor:
        """The stream that enters a block, [rows, positions, width], steered."""
        if self._new is not None:
            return self._change_new(layer, stream, self._new.to(stream.device, torch.bool))
        after = stream.clone()
        for row, (first, arm) in enumerate(self._arms):
            own = stream[row : row + 1, first:]
            change = change_of([arm], layer, own.shape[1], own.shape[2], stream.device)
            after[row, first:] = change.of(own)[0]
        changed = ChangedRows([stream.shape[1]] * len(stream))
        changed.see(layer, stream, after)
        for row, _ in changed.missing([arm.acting_on_prompt for _, arm in self._arms]):
            raise lost(self._arms[row][1].acting_on_prompt[layer], layer, changed.dtype)
        return after

    def _change_new(self, layer: int, stream: Tensor, tokens: Tensor) -> Tensor:
        change = self._later.on_new_tokens.get(layer)
        if change is None:
            return stream
        after = torch.where(tokens[..., None], change.of(stream), stream)
        unseen = self._unseen.pop(layer, None)
        if unseen is not None and tokens.any() and torch.equal(after, stream):
            raise lost(unseen, layer, stream.dtype)
        return after
