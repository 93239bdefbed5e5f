"""Place a recipe on a model's tokens: everything that can be known without activations."""

from __future__ import annotations

from dataclasses import dataclass

from steer_cli.planning.alignment_table import TableRow, table_rows
from steer_cli.planning.placement import (
    Alignment,
    Placement,
    align_additions,
    check_acts_on_texts,
    check_length,
    place,
)
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.chat import Chat, text_of
from steer_cli.recipe.schema import Recipe


@dataclass(frozen=True)
class ModelFacts:
    """What planning needs to know about a model.

    `blocks` and `context` (the longest row in tokens) are None if unknown; `limited` is the model's name,
    with the reason if the context is shorter than the model's own.
    """

    name: str
    tokenizer: Tokenizer
    blocks: int | None
    context: int | None
    limited: str


@dataclass(frozen=True)
class PlannedPrompt:
    """A prompt, its ids (of a text with BOS), and where every addition acts on it."""

    source: str | Chat
    ids: tuple[int, ...]
    placements: tuple[Placement, ...]

    @property
    def text(self) -> str:
        """The prompt, or a chat's short form."""
        return text_of(self.source)

    @property
    def chat(self) -> Chat | None:
        """The prompt if it is a chat."""
        return self.source if isinstance(self.source, Chat) else None


@dataclass(frozen=True)
class Plan:
    """Where each addition is read and added, on every prompt."""

    recipe: Recipe
    facts: ModelFacts
    alignments: tuple[Alignment, ...]
    prompts: tuple[PlannedPrompt, ...]

    def table(self, prompt: PlannedPrompt) -> tuple[TableRow, ...]:
        """Which token of which text falls at which position."""
        return tuple(table_rows(self.facts.tokenizer, prompt.ids, prompt.placements))

    def pieces(self, ids: tuple[int, ...]) -> tuple[str, ...]:
        """The text of each token."""
        return tuple(self.facts.tokenizer.piece(id) for id in ids)


def plan_recipe(recipe: Recipe, facts: ModelFacts, new_tokens: int | None = None) -> Plan:
    """Tokenise and place every addition on every prompt.

    Args:
        new_tokens: tokens to generate after each prompt; None if nothing is run, so that any length is valid.

    Raises:
        RecipeError: the recipe has no prompt.
        PlanError: an addition does not fit a prompt or the model, or a prompt is too long.
        TokenError: the tokenizer cannot encode a text.
    """
    recipe = recipe.with_prompts([])
    alignments = align(recipe, facts)
    if new_tokens == 0:
        check_acts_on_texts(alignments)
    prompts = []
    for source in recipe.all_prompts:
        ids, text = facts.tokenizer.prompt(source), text_of(source)
        if new_tokens is not None:
            check_length(ids, text, new_tokens, facts.context, facts.limited)
        placements = place(alignments, facts.tokenizer, ids, text, isinstance(source, Chat))
        prompts.append(PlannedPrompt(source, ids, placements))
    return Plan(recipe, facts, alignments, tuple(prompts))


def align(recipe: Recipe, facts: ModelFacts) -> tuple[Alignment, ...]:
    """All additions of a recipe, one entry for each of their layers; see `align_additions`."""
    return align_additions(recipe, facts.tokenizer, facts.blocks, facts.context)
