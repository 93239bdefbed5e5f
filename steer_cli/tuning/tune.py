"""A search from end to end: find the best recipe on one half of the evidence, judge it by the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import NotFiniteError, SweepError, VectorError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.score_plan import plan_score
from steer_cli.models.hardware import Hardware
from steer_cli.models.identity import WEIGHTS, fingerprint
from steer_cli.models.located import Located
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Card, Place, Searched, Trial, Tuning
from steer_cli.run_plan import load, score_of
from steer_cli.sweeps.identity import computes_with
from steer_cli.sweeps.store import Store
from steer_cli.tuning.kept import Kept, trial_of
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import in_turn, search
from steer_cli.version import __version__

if TYPE_CHECKING:
    from steer_cli.models.load import Model
    from steer_cli.tuning.on_ray import Workers
    from steer_cli.tuning.vectors import PlaceVectors

# Of the random vectors on the card. A search has many chances, so chance has to be known more narrowly than
# with the three vectors of other cards.
SEEDS = tuple(range(1501, 1507))
# So many trials have their completions checked, the largest effect first; then the best of each other place.
MOST_CHECKED = 6


def tune(
    plan: TunePlan,
    source: Model | Hardware,
    store: Path | None = None,
    progress: Progress = silent,
    note: Note = silent,
    ray: str | None = None,
) -> Tuning:
    """Search, choose, and judge what was chosen.

    Args:
        source: the model, or how to load it.
        store: a file that keeps finished trials, from which the same search continues.
        ray: measure trials on the workers of this Ray cluster, `local` for one on this machine; each loads
            the model on the hardware that `source` then is. All else happens here.

    Raises:
        SweepError: the store belongs to another search, or workers would have to load what is loaded here.
        VectorError: the logits of no trial are finite.
        SteerError: a trial cannot be run.
    """
    if ray is not None and not isinstance(source, Hardware):
        raise SweepError(
            f"ray {ray}: workers load the model themselves; give the hardware instead of a loaded model",
            "ray",
        )
    opened = (
        Store(store, plan.subject(*computes_with(plan.located, source)), trial_of, "search")
        if store
        else nullcontext()
    )
    with opened as held, _elsewhere(ray, plan.located, source, progress) as workers:
        model = load(plan.located, source, progress) if isinstance(source, Hardware) else source
        if held and held.points:
            note(f"{store}: {len(held.points)} trials are already there")
        from steer_cli.tuning.figures import Figuring
        from steer_cli.tuning.vectors import guesses, vectors_of_places

        vectors, kept = vectors_of_places(model.network, plan, progress, note), Kept(held)
        run = (
            workers.running(vectors, model.dtype, kept, note)
            if workers
            else in_turn(kept.measuring(Figuring(model.network, plan, vectors)))
        )
        starts = guesses(model.network, plan, vectors)
        found = search(starts, plan.options.budget, run, progress=progress, fixed=plan.fixed)
    _check_finite(found)
    chosen, odd = _fluent(model, plan, vectors, found, note)
    if chosen is None:
        return _tuning(plan, model, found, odd)
    recipe = plan.tuned_recipe(chosen.place, chosen.coefficient)
    laid_out = plan_score(recipe, plan.facts, plan.held_out)
    tried = len({trial.place for trial in found.trials})
    # The checks above have said what is missing.
    try:
        card = score_of(model, laid_out, progress=progress, note=silent, tried=tried, seeds=SEEDS)
    except VectorError as error:  # as where logits overflow at a multiple of the coefficient
        return replace(_tuning(plan, model, found, odd, chosen), fault=str(error))
    return _tuning(plan, model, found, odd, chosen, _described(recipe, plan, card), card)


def _elsewhere(
    ray: str | None, located: Located, source: Model | Hardware, progress: Progress
) -> AbstractContextManager[Workers | None]:
    """The workers that measure trials, if not this process does."""
    if ray is None:
        return nullcontext()
    assert isinstance(source, Hardware)
    from steer_cli.tuning.on_ray import workers_of

    return workers_of(ray, located, source, progress)


def _described(recipe: Recipe, plan: TunePlan, card: Card) -> Recipe:
    """The recipe with what its card says."""
    budget = plan.options.budget
    sets = " and ".join(f"{source.measured} {source.name}" for source in card.sources if source.measured)
    also = " and other completions" if plan.searched.count is not None else ""
    measured = (
        f"Tuned by steer {__version__} for a damage of at most {budget:g} nats per token on one "
        f"half of the evidence. On the other half ({sets}){also}: {'; '.join(card.sentences)}."
        + (" That is more than was allowed." if card.exceeds(budget) else "")
    )
    return recipe.model_copy(update={"measured": measured})


def _fluent(
    model: Model, plan: TunePlan, vectors: PlaceVectors, found: Searched, note: Note
) -> tuple[Trial | None, tuple[tuple[Trial, float], ...]]:
    """The best trial whose completions are not too odd, and those that are, with what they cost."""
    if not plan.recipe.all_prompts:
        if found.best:
            note("completions are not checked: the recipe has no prompt; add one with `prompt=TEXT`")
        return next(iter(found.best), None), ()
    from steer_cli.tuning.on_completions import OnCompletions

    completions = OnCompletions(model.network, plan, vectors)
    odd: list[tuple[Trial, float]] = []
    for trial in _worth_checking(found):
        try:
            cost = completions.cost((trial.place, trial.coefficient))
        except NotFiniteError:
            cost = math.inf
        if cost <= plan.options.oddness:
            return trial, tuple(odd)
        odd.append((trial, cost))
    return None, tuple(odd)


def _worth_checking(found: Searched) -> list[Trial]:
    """The trials with the largest effects, then the best one of each place that is not among them."""
    first = list(found.best[:MOST_CHECKED])
    of_places: dict[Place, Trial] = {}
    for trial in found.best:
        of_places.setdefault(trial.place, trial)
    return [*first, *(trial for trial in of_places.values() if trial not in first)]


def _check_finite(found: Searched) -> None:
    if not any(trial.figures.finite for trial in found.trials):
        least = min(abs(trial.coefficient) for trial in found.trials)
        raise VectorError(
            "no trial could be measured: the steered logits are not finite even at a coefficient of "
            f"{least:g}; use `dtype=float32`"
        )


def _tuning(
    plan: TunePlan,
    model: Model,
    found: Searched,
    odd: Sequence[tuple[Trial, float]],
    chosen: Trial | None = None,
    tuned: Recipe | None = None,
    card: Card | None = None,
) -> Tuning:
    evidence = plan.searched
    kind = "choices" if evidence.choices else "count" if evidence.count else "sentences"
    sizes = {corpus.name: len(corpus.sentences) for corpus in evidence.corpora}
    sizes |= {"choices": len(evidence.choices.items)} if evidence.choices else {}
    return Tuning(
        recipe=plan.recipe,
        model=plan.located.name,
        revision=fingerprint(plan.located, WEIGHTS),
        dtype=model.dtype,
        version=__version__,
        kind=kind,
        oddness=plan.options.oddness,
        relative=plan.options.relative,
        read=sizes,
        searched=found,
        odd=tuple(odd),
        chosen=chosen,
        tuned=tuned,
        card=card,
    )
