"""Decide where each addition of a recipe acts on a prompt, as integers.

A span is [start, end) in positions of the prompt, BOS included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steer_cli.errors import PlanError
from steer_cli.planning.alignment import Alignment
from steer_cli.planning.chat import chats_of
from steer_cli.planning.directions import direction_of
from steer_cli.planning.span import name_of, span
from steer_cli.planning.stored_vector import check_layer, layers_of
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.position_words import Way
from steer_cli.recipe.quoting import show
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import At, AtToken, Recipe


@dataclass(frozen=True)
class Placement:
    """An addition at one layer of one prompt: the vector's rows, from `first_row`, act on [start, end).

    With `every`, the single row acts on all of [start, end), which is empty if it acts on new tokens alone.
    `first` is where `every` begins: after BOS. `comes_to` is the number that a relative coefficient comes to
    on this prompt, None until the prompt's stream is measured.
    """

    alignment: Alignment
    start: int
    end: int
    first_row: int = 0
    first: int = 1
    comes_to: float | None = None

    @property
    def every(self) -> Way | None:
        return self.alignment.addition.every

    @property
    def on_new_tokens(self) -> bool:
        """Whether it acts on every generated token."""
        return self.every in ("new", "both", "all")

    @property
    def ablates(self) -> bool:
        return self.alignment.addition.operation == "ablate"

    @property
    def layer(self) -> int:
        return self.alignment.block

    @property
    def relative(self) -> float | None:
        """The length to add in lengths of the stream; None where the coefficient is a plain number."""
        written = self.alignment.addition.coefficient
        return written.relative if isinstance(written, Relative) else None

    @property
    def coefficient(self) -> float:
        """What the vector is multiplied by here; a relative one must have been measured."""
        if self.relative is None:
            return self.alignment.addition.strength
        if not self.acts:
            return 0.0
        assert self.comes_to is not None
        return self.comes_to

    @property
    def measured(self) -> tuple[int, int]:
        """The positions whose stream a relative coefficient is measured at.

        They are those acted on. All ways of `every` are measured alike, at the prompt's positions but BOS:
        new tokens are not there yet, and the stream of BOS is often a hundred times longer than the others.
        """
        return (self.first, self.end) if self.every else (self.start, self.end)

    @property
    def acts(self) -> bool:
        """Whether it should change the stream."""
        return not self.alignment.addition.adds_nothing


def align_additions(
    recipe: Recipe, tokenizer: Tokenizer, blocks: int | None, context: int | None = None
) -> tuple[Alignment, ...]:
    """All additions of a recipe, one entry per layer.

    Args:
        blocks: depth of the model; None if unknown, and layers are then not checked.
        context: the model's longest row in tokens; None if unknown.

    Raises:
        PlanError: a layer is too deep, an addition does nothing, or a file that it names cannot be read.
        TokenError: a pad is not a single token, or a chat cannot be rendered.
    """
    aligned = []
    tokenizer.render(chats_of(recipe))
    for index, addition in enumerate(recipe.additions):
        where = f"{recipe.label}: additions.{index}"
        direction = direction_of(
            recipe, index, tokenizer, _changed(recipe, index, "minus", "plus", "pairs", "texts") or where
        )
        longest = max((len(row.ids) for row in direction.rows), default=0)
        if context is not None and longest > context:
            raise PlanError(
                f"{where}: a text has {longest} tokens, but {recipe.model} takes {context}; shorten it"
            )
        added: set[int | str] = set()
        of_layer, stored = _changed(recipe, index, "layer") or where, direction.stored
        layers = layers_of(stored, addition, blocks, where, recipe.model) if stored else addition.layers
        if addition.layer == "all" and blocks is not None:
            layers = tuple(range(blocks))
        for turn, layer in enumerate(layers):
            source = layer if addition.source_layer is None else addition.source_layer
            block = _block(layer, blocks, of_layer, recipe.model)
            if stored is not None and isinstance(block, int):
                check_layer(stored, block, addition.adds_nothing, of_layer)
            source = _block(source, blocks, _changed(recipe, index, "source_layer") or where, recipe.model)
            if block in added:
                raise PlanError(
                    f"{where}: layer {layer} is block {block}, which is listed twice; remove one of them"
                )
            added.add(block)
            parts = (direction.lists, stored)
            aligned.append(Alignment(index, addition, direction.pairs, block, source, turn, *parts))
    return tuple(aligned)


def _changed(recipe: Recipe, index: int, *keys: str) -> str | None:
    """What errors call the change of the first of these keys of an addition that was changed."""
    found = (recipe.change_of("additions", index, key) for key in keys)
    return next((label for label in found if label is not None), None)


def _block(layer: int | str, blocks: int | None, where: str, model: str) -> int | str:
    if blocks is None:
        return layer
    block = int(float(layer[:-1]) * blocks / 100) if isinstance(layer, str) else layer
    if block >= blocks:
        raise PlanError(f"{where}: layer {layer} is too deep: {model} has {blocks} blocks, 0 to {blocks - 1}")
    return block


def place(
    alignments: tuple[Alignment, ...],
    tokenizer: Tokenizer,
    prompt: tuple[int, ...],
    text: str,
    is_chat: bool = False,
) -> tuple[Placement, ...]:
    """Place all additions on one prompt: `prompt` is its ids with BOS, `text` its text for errors.

    In a chat, `every` leaves the first position alone, whatever stands there.

    Raises:
        PlanError: a span exceeds the prompt, or the token where it should start does not occur.
    """
    first = 0 if tokenizer.bos is None and not is_chat else 1
    return tuple(_place(alignment, tokenizer, prompt, text, first) for alignment in alignments)


def _place(
    alignment: Alignment, tokenizer: Tokenizer, prompt: tuple[int, ...], text: str, first: int
) -> Placement:
    position, length = alignment.addition.position, alignment.length
    if isinstance(position, AtToken):
        position = At(at=_find(tokenizer, position.token, prompt, text))
    start, end = span(position, length, len(prompt), first)
    if alignment.addition.every:
        placement = Placement(alignment, start, max(start, end), first=first)
        _check_measurable(placement, text)
        return placement
    if start >= 0 and end <= len(prompt):
        return Placement(alignment, start, end)
    kept = max(0, start), min(len(prompt), end)
    if alignment.addition.overflow == "clip" and kept[0] < kept[1]:
        return Placement(alignment, *kept, first_row=kept[0] - start)
    ways = "a longer prompt, another position" + ("" if kept[0] >= kept[1] else ", or `overflow: clip`")
    raise PlanError(
        f"prompt {show(text)}: {alignment.label} covers {length} positions, [{start}, {end}) at "
        f"{name_of(position)}, but the prompt has {len(prompt)} (BOS included); use {ways}"
    )


def _check_measurable(placement: Placement, text: str) -> None:
    start, end = placement.measured
    if placement.relative is not None and placement.acts and placement.on_new_tokens and start >= end:
        raise PlanError(
            f"prompt {show(text)}: {placement.alignment.label}: a relative coefficient is measured on the "
            "prompt, which has no position but BOS; use a longer prompt, or a plain number"
        )


def _find(tokenizer: Tokenizer, text: str, prompt: tuple[int, ...], prompt_text: str) -> int:
    wanted = tokenizer.encode(text)
    for start in range(len(prompt) - len(wanted) + 1):
        if wanted and prompt[start : start + len(wanted)] == wanted:
            return start
    pieces = ", ".join(show(tokenizer.piece(id)) for id in prompt[:40])
    raise PlanError(f"prompt {show(prompt_text)}: no token {show(text)} to start at; its tokens are {pieces}")


def meetings(placements: Iterable[Placement]) -> list[tuple[int, int]]:
    """Spans where two or more placements act, not counting those with coefficient 0."""
    # Starts sort before ends at the same position, so touching spans become one.
    edges = sorted(
        edge
        for placement in placements
        if placement.acts and placement.start < placement.end
        for edge in ((placement.start, -1), (placement.end, 1))
    )
    spans, depth, start = [], 0, 0
    for position, change in edges:
        depth -= change
        if depth == 2 and change < 0:
            start = position
        elif depth == 1 and change > 0 and start < position:
            spans.append((start, position))
    return spans


def check_acts_on_texts(alignments: Iterable[Alignment]) -> None:
    """Raise PlanError if an addition acts on new tokens alone; for what runs texts and generates nothing."""
    for alignment in alignments:
        if alignment.addition.every == "new" and not alignment.addition.adds_nothing:
            raise PlanError(
                f"{alignment.label}: does nothing: {{every: new}} acts on new tokens alone, and none are "
                "generated here; use every or another position"
            )


def check_length(
    prompt: tuple[int, ...], text: str, new_tokens: int, context: int | None, model: str
) -> None:
    """Raise PlanError if a row would be empty or longer than the model's context (in tokens)."""
    if not prompt:
        raise PlanError(f"prompt {show(text)}: no tokens at all; write a text, or leave `bos` at auto")
    if context is not None and len(prompt) + new_tokens > context:
        raise PlanError(
            f"prompt {show(text)}: {len(prompt)} tokens and {new_tokens} new ones are more than the "
            f"{context} of {model}; shorten it or lower sampling.max_new_tokens"
        )
