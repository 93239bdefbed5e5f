"""Steer a transformers model that the user has loaded: in generate, with beams, in padded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steer_cli.activations.arms import Arm, Steering, change_of
from steer_cli.activations.effect import ChangedRows, lost
from steer_cli.activations.relative import StreamLengths, stream_lengths
from steer_cli.errors import PlanError
from steer_cli.networks.adapter import Adapter, replace_stream
from steer_cli.planning.placement import Placement, place
from steer_cli.planning.tokens import Tokenizer

Placements = tuple[Placement, ...]


@contextmanager
def attached(model: nn.Module, network: Adapter, steering: Steering, tokenizer: Tokenizer) -> Iterator[None]:
    """Within the `with`, steer every pass of `model`: prompts, and later passes as new tokens.

    Positions are counted from each row's own first token, so rows may be padded on the left or on the right.
    For relative coefficients, each prompt is run once more before its pass, unsteered, up to their layers.

    Args:
        model: a ...ForCausalLM, called with `input_ids`, and with `attention_mask` if they are padded.
        network: the same model.
    """
    now = _Pass(network, steering, tokenizer)

    def begin(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        now.begin(kwargs.get("input_ids", args[0] if args else None), kwargs)

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for layer in sorted({alignment.block for alignment in steering.alignments}):

            def hook(_: nn.Module, args: tuple, kwargs: dict, layer: int = layer) -> tuple[tuple, dict]:
                return replace_stream(args, kwargs, lambda stream: now.change(layer, stream))

            stack.callback(network.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


class _Pass:
    """What is done in the current pass."""

    def __init__(self, network: Adapter, steering: Steering, tokenizer: Tokenizer):
        self._network, self._steering, self._tokenizer = network, steering, tokenizer
        self._measuring = False  # whether the pass is one that only measures the stream
        self._arms: list[tuple[int, Arm]] = []  # per row of a prompt: where its tokens begin, and its arm
        self._positions = 0  # run so far, in every row
        # What the recipe does to new tokens: all rows alike, or each in its own way.
        nowhere = tuple(Placement(alignment, 0, 0) for alignment in steering.alignments)
        self._later = [Arm(nowhere, steering.vectors)]
        # Those that have not run yet: the first pass shows whether they change anything.
        self._unseen = {
            layer: [placement for placement in placements if placement.on_new_tokens]
            for layer, placements in self._later[0].acting.items()
            if any(placement.every == "new" for placement in placements)
        }
        self._new: Tensor | None = None  # [rows, positions] of a later pass: 1 for tokens, 0 for padding

    def begin(self, ids: Tensor | None, arguments: dict[str, Any]) -> None:
        if self._measuring:
            return
        if ids is None:
            raise PlanError(
                "steering: a pass without input_ids, so token positions are unknown; pass input_ids"
            )
        cache = arguments.get("past_key_values")
        mask = arguments.get("attention_mask")
        if cache is not None and cache.get_seq_length():
            whole = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask[:, -ids.shape[1] :]
            self._check_same_prompts(len(ids), cache.get_seq_length())
            self._arms, self._new = [], whole
            self._positions += ids.shape[1]
            return
        if arguments.get("use_cache") is False and self._unseen:
            raise PlanError(
                "steering: {every: new} acts on new tokens alone, and without a KV cache they cannot be told "
                "from the prompt; use `use_cache=True`"
            )
        self._new = None
        tokens = torch.ones_like(ids) if mask is None else mask
        rows = [self._row(*row) for row in zip(ids.tolist(), tokens.tolist(), strict=True)]
        lengths = self._measured([row for _, row, _ in rows])
        self._arms = [
            (first, self._steering.on(placements, of_row))
            for (first, _, placements), of_row in zip(rows, lengths, strict=True)
        ]
        self._positions = ids.shape[1]
        if self._steering.relative_layers:
            self._later = [arm for _, arm in self._arms]

    def _measured(self, rows: Sequence[tuple[int, ...]]) -> list[StreamLengths]:
        self._measuring = True
        try:
            return stream_lengths(self._network, rows, self._steering.relative_layers)
        finally:
            self._measuring = False

    def _check_same_prompts(self, rows: int, positions: int) -> None:
        """Raise PlanError if a pass does not go on from the last prompts, whose lengths are measured."""
        if self._steering.relative_layers and (rows, positions) != (len(self._later), self._positions):
            raise PlanError(
                "steering: a relative coefficient is measured on the prompts that ran last, and this pass "
                "goes on from another KV cache; run each prompt and its new tokens in turn, or use a plain "
                "number"
            )

    def _row(self, ids: Sequence[int], mask: Sequence[int]) -> tuple[int, tuple[int, ...], Placements]:
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
        return own[0], row, placements

    def change(self, layer: int, stream: Tensor) -> Tensor:
        """The stream that enters a block, [rows, positions, width], steered."""
        if self._measuring:
            return stream
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
        changes = [arm.on_new_tokens.get(layer) for arm in self._later]
        if changes[0] is None:
            return stream
        parts = stream.split(1) if len(changes) > 1 else (stream,)
        changed = [change.of(part) for change, part in zip(changes, parts, strict=True) if change is not None]
        after = torch.where(tokens[..., None], torch.cat(changed), stream)
        unseen = self._unseen.pop(layer, None)
        if unseen is not None and tokens.any() and torch.equal(after, stream):
            raise lost(unseen, layer, stream.dtype)
        return after
