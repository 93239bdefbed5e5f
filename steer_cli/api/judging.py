"""The library's functions that judge a recipe by evidence, each end to end on a model that is loaded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steer_cli.events import Note, Progress, silent
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.evidence import Choices, gathered
from steer_cli.measure.score_plan import plan_score
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.load import checked
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Card, Tuning
from steer_cli.run_plan import score_of

if TYPE_CHECKING:
    from pathlib import Path

    from steer_cli.models.load import Model


def score(
    model: Model,
    recipe: Recipe,
    toward: Corpus | None = None,
    away: Corpus | None = None,
    neutral: Corpus | None = None,
    choices: Choices | None = None,
    count: str | None = None,
    prompts: Sequence[str | Chat | Mapping[str, Any]] = (),
    samples: int | None = None,
    curve: bool = False,
    progress: Progress = silent,
    note: Note = silent,
) -> Card:
    """One card: what a recipe does, what it costs, and what chance and plain prompting do.

    Args:
        toward, away, neutral: from `read_corpus`; without neutral, the text that ships.
        choices: from `read_choices`.
        count: a label of the recipe's word lists, whose words are counted in completions.
        prompts: to complete instead of the recipe's.
        samples: completions per prompt and arm; None takes enough for an interval.
        curve: also measure multiples of the coefficient on sentences.

    Raises:
        SteerError: there is no evidence, it cannot be used, or the recipe does not fit it or the model.
    """
    recipe = checked(recipe).with_prompts(list(prompts)) if prompts else checked(recipe)
    evidence = gathered(toward, away, neutral, choices, count, recipe, note)
    plan = plan_score(recipe, model.facts(recipe.bos), evidence, samples)
    return score_of(model, plan, curve, progress, note)


def tune(
    model: Model,
    recipe: Recipe,
    toward: Corpus | None = None,
    away: Corpus | None = None,
    neutral: Corpus | None = None,
    choices: Choices | None = None,
    count: str | None = None,
    budget: float = 0.02,
    oddness: float = 0.8,
    layers: str | None = None,
    positions: str | None = None,
    additions: Sequence[int] = (),
    relative: bool = False,
    store: Path | None = None,
    progress: Progress = silent,
    note: Note = silent,
) -> Tuning:
    """Find the layer, position and coefficient that steer most within a damage budget.

    The search reads one half of the evidence; the card of what it chose is of the other.

    Args:
        toward, away, neutral, choices, count: as in `score`; one of toward, choices and count.
        budget: the most that neutral text may lose, in nats per token.
        oddness: the most that completions of the recipe's prompts may cost, in nats per token.
        layers: a range such as 0:30; None is all.
        positions: a list such as front,every; None is these two, or the recipe's own.
        additions: those to move; by default all.
        relative: search coefficients relative to the length of the stream.
        store: a file that keeps finished trials, from which the same search continues.
        note: told what is left out.

    Raises:
        SteerError: the evidence cannot be used, the recipe does not fit it or the model, or a trial cannot be
            run.
    """
    from steer_cli.tuning.plan import TuneOptions, plan_tuning
    from steer_cli.tuning.tune import tune

    evidence = gathered(toward, away, neutral, choices, count, recipe, note)
    options = TuneOptions(budget, oddness, layers, positions, tuple(additions), relative)
    plan = plan_tuning(checked(recipe), evidence, options, model.located, progress, note)
    return tune(plan, model, store, progress, note)
