"""Steer one pass of a transformers model, whose rows may hold parts of prompts, new tokens, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter

import torch
from torch import Tensor

from steer_cli.activations.arms import Arm, Steering, change_of
from steer_cli.activations.change import Change
from steer_cli.activations.effect import lost
from steer_cli.activations.passes import Pass, Prompt, PromptRow, prompt_in
from steer_cli.activations.relative import NO_LENGTHS, StreamLengths
from steer_cli.errors import PlanError
from steer_cli.planning.chat_starts import begins_chat, chat_starts
from steer_cli.planning.placement import Placement, place
from steer_cli.planning.span import name_of
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.schema import AtToken

# The lengths of the unsteered stream of some texts.
Measure = Callable[[Sequence[tuple[int, ...]]], Sequence[StreamLengths]]


@dataclass
class Rows:
    """The rows of a prompt with what is done to each, and what has been seen of that so far."""

    prompt: Prompt
    arms: tuple[Arm, ...]
    start: int  # the first column that is not cached
    changed: dict[int, Tensor] = field(default_factory=dict)  # layer -> [rows of the passes]


class Placer:
    """Places a recipe's additions on the rows of prompts, and remembers which of them have acted."""

    def __init__(self, steering: Steering, tokenizer: Tokenizer, measure: Measure):
        # A clone, as autograd takes no tensors that were made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            vectors = tuple(vector.clone() for vector in steering.vectors)
            self.steering = Steering(steering.alignments, vectors)
            # Nothing of this arm is on a prompt: it is what the recipe does to new tokens.
            self.later = Arm(tuple(Placement(one, 0, 0) for one in steering.alignments), vectors)
            # With relative coefficients, that depends on the prompt, and the arms of its rows do it.
            self.on_new_tokens = {} if steering.relative_layers else self.later.on_new_tokens
        self._tokenizer, self._measure = tokenizer, measure
        self._idle = {(one.index, one.block) for one in steering.alignments if not one.addition.adds_nothing}
        self._has_run = False

    def outside(self, current: Pass, cached: bool) -> Rows | None:
        """The rows of a pass outside of `generate`; None if it runs new tokens only."""
        prompt = prompt_in(current)
        if prompt is None:
            return None
        for alignment in self.steering.alignments:
            if alignment.addition.every == "new" and not alignment.addition.adds_nothing and not cached:
                raise PlanError(
                    "steering: {every: new} acts on new tokens alone, and without a KV cache they cannot be "
                    "told from the prompt; use `use_cache=True`, or `generate`"
                )
        return self.within(prompt, current)

    def within(self, prompt: Prompt, first: Pass) -> Rows:
        """The rows of a prompt whose first pass this is.

        Raises:
            PlanError: an addition does not fit a row, or a row does not begin with BOS.
        """
        placed = [self._placed(row, prompt.ends) for row in prompt.rows]
        lengths = self._lengths(prompt.rows)
        arms = (self.steering.on(*both) if both[0] else Arm() for both in zip(placed, lengths, strict=True))
        return Rows(prompt, tuple(arms), first.past)

    def _lengths(self, rows: tuple[PromptRow, ...]) -> Sequence[StreamLengths]:
        """Of the unsteered streams, where relative coefficients need them."""
        if not self.steering.relative_layers:
            return [NO_LENGTHS] * len(rows)
        if any(row.unnamed for row in rows):
            raise PlanError(
                "steering: a relative coefficient cannot be measured on a prompt that is partly cached; "
                "pass the whole prompt to `generate` as input_ids, or use a plain number"
            )
        return self._measure([row.ids for row in rows])

    def _placed(self, row: PromptRow, ends: bool) -> tuple[Placement, ...]:
        if not row.columns:  # padding alone
            return ()
        is_chat = not row.unnamed and self._is_chat(row.ids)
        for alignment in self.steering.alignments:
            position = alignment.addition.position
            if row.unnamed and (
                isinstance(position, AtToken) or (not ends and position in ("middle", "back"))
            ):
                raise PlanError(
                    f"steering: {alignment.label} at {name_of(position)} cannot be placed on a prompt of "
                    "which the KV cache holds a part; pass the whole prompt to `generate` as input_ids"
                )
        whole = (-1,) * row.unnamed + row.ids
        text = self._tokenizer.decode(row.ids)
        return place(self.steering.alignments, self._tokenizer, whole, text, is_chat)

    def _is_chat(self, ids: tuple[int, ...]) -> bool:
        bos = self._tokenizer.bos
        if bos is None:
            return begins_chat(ids, self._chat_starts)
        piece = repr(self._tokenizer.piece(bos))
        if ids[:2] == (bos, bos):
            raise PlanError(
                f"steering: a row begins with BOS ({piece}) twice; remove one of them, pass attention_mask "
                "if they are padding, or set `bos: none` in the recipe"
            )
        if ids[0] == bos:
            return False
        if begins_chat(ids, self._chat_starts):
            return True
        raise PlanError(
            f"steering: a row does not begin with BOS ({piece}); put it in front of the text, pass "
            "attention_mask if it is there, or set `bos: none` in the recipe"
        )

    @cached_property
    def _chat_starts(self) -> frozenset[tuple[int, ...]]:
        return chat_starts(self._tokenizer)

    def is_idle(self, placement: Placement) -> bool:
        """Whether an addition has reached no token yet."""
        return (placement.alignment.index, placement.layer) in self._idle

    def has_acted(self, placement: Placement) -> None:
        """Remember that an addition has reached a token."""
        self._idle.discard((placement.alignment.index, placement.layer))

    def has_run(self) -> None:
        """Remember that there was a pass."""
        self._has_run = True

    def check(self) -> None:
        """Raise PlanError if there were passes, and an addition has reached no token in any of them."""
        for alignment in self.steering.alignments if self._has_run else ():
            if (alignment.index, alignment.block) not in self._idle:
                continue
            why = "the KV cache held these positions before steering began; fill it within the `with`"
            if alignment.addition.every == "new":
                why = (
                    "no pass had new tokens, which are those that `generate` draws, and those of passes of "
                    "one token per row after cached ones"
                )
            raise PlanError(
                f"steering: {alignment.label} at {name_of(alignment.addition.position)} did nothing: {why}"
            )


class SteeredPass:
    """What is done in one pass.

    Args:
        rows: those of the prompt, if any of it is in this pass or was in an earlier one.
    """

    def __init__(self, placer: Placer, current: Pass, rows: Rows | None):
        self._placer, self._pass, self._rows = placer, current, rows
        width = 0 if rows is None else rows.prompt.width
        # Tokens of the pass, in front of this one, are the prompt's.
        self._new = min(max(width - current.past, 0), current.ids.shape[1])
        self._ran = False

    @cached_property
    def _new_tokens(self) -> Tensor:
        """Which of the columns from `_new` are tokens, [rows, columns, 1]."""
        ids = self._pass.ids[:, self._new :]
        kept = self._pass.kept
        tokens = torch.ones_like(ids) if kept is None else kept[:, self._pass.past + self._new :]
        return tokens.bool()[..., None]

    def change(self, layer: int, stream: Tensor) -> Tensor:
        """The stream that enters a block, [rows, columns, width], steered."""
        self._ran = True
        after = stream.clone()  # the previous block still owns the old one
        if self._rows is not None and self._new:
            self._change_prompt(self._rows, layer, stream, after)
        changed = self._change_new(layer, stream[:, self._new :]) if self._new < stream.shape[1] else None
        if changed is not None:
            before, tokens = stream[:, self._new :], self._new_tokens.to(stream.device)
            after[:, self._new :] = torch.where(tokens, changed, before)
            self._check_new(layer, before, after[:, self._new :], tokens)
        return after

    def _change_new(self, layer: int, stream: Tensor) -> Tensor | None:
        """What additions make of new tokens, [rows, columns, width]; None if they leave them alone."""
        if not self._placer.steering.relative_layers:
            change = self._placer.on_new_tokens.get(layer)
            return None if change is None else change.of(stream)
        assert self._rows is not None  # `attach` has seen to it
        changes = [arm.on_new_tokens.get(layer) for arm in self._rows.arms]
        if not any(changes):
            return None
        parts = stream.split(max(1, len(stream) // len(changes)))  # the beams or samples of a prompt each
        pairs = zip(changes, parts, strict=True)
        return torch.cat([part if change is None else change.of(part) for change, part in pairs])

    def _change_prompt(self, rows: Rows, layer: int, stream: Tensor, after: Tensor) -> None:
        each = max(1, len(stream) // len(rows.arms))  # rows per prompt, of beams or samples
        changed = rows.changed.setdefault(layer, torch.zeros(len(rows.arms), dtype=torch.bool))
        for number, (row, arm) in enumerate(zip(rows.prompt.rows, rows.arms, strict=True)):
            span = row.positions(self._pass.past, self._pass.end)
            if not span or layer not in arm.layers:
                continue
            of_prompt = change_of([arm], layer, len(row.columns), stream.shape[-1], stream.device)
            here: Change = of_prompt.each(itemgetter((slice(None), slice(span.start, span.stop))))
            columns = torch.tensor([row.columns[p] - self._pass.past for p in span], device=stream.device)
            own = slice(number * each, (number + 1) * each)
            before = stream[own, columns]
            steered = here.of(before)
            after[own, columns] = steered
            if not changed[number]:
                changed[number] = bool((steered != before).any())
            for placement in arm.acting_on_prompt.get(layer, ()):
                if placement.start < span.stop and placement.end > span.start:
                    self._placer.has_acted(placement)
            self._check_row(rows, number, layer, stream.dtype)

    def _check_row(self, rows: Rows, number: int, layer: int, dtype: torch.dtype) -> None:
        """Raise VectorError if a row's prompt is complete and nothing of it has changed."""
        if self._pass.end < rows.prompt.width or rows.changed[layer][number]:
            return
        cached = rows.prompt.rows[number].positions(0, rows.start).stop
        acting = [p for p in rows.arms[number].acting_on_prompt.get(layer, ()) if p.end > cached]
        if acting:
            raise lost(acting, layer, dtype)

    def _check_new(self, layer: int, before: Tensor, after: Tensor, tokens: Tensor) -> None:
        """Raise VectorError if additions that have not acted before change no new token."""
        acting = self._placer.later.acting.get(layer, ())
        if not any(map(self._placer.is_idle, acting)) or not tokens.any():
            return
        if torch.equal(before, after):
            raise lost(acting, layer, before.dtype)
        for placement in acting:
            self._placer.has_acted(placement)

    def finish(self) -> None:
        """After the pass."""
        if self._ran:
            self._placer.has_run()
