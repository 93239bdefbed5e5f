"""Where the recipe of a search can act: which layers and positions fit it, its prompts and the evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steer_cli.errors import PlanError, SteerError, SweepError
from steer_cli.events import Note
from steer_cli.measure.score_plan import measurable, plan_choices, plan_score
from steer_cli.planning.placement import Alignment
from steer_cli.planning.plan import align
from steer_cli.recipe.quoting import counted
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.results import Place, Position
from steer_cli.sweeps.grid import parse_positions

if TYPE_CHECKING:
    from steer_cli.tuning.plan import TunePlan


def places_of(plan: TunePlan, layers: Sequence[int], note: Note) -> dict[Place, tuple[Alignment, ...]]:
    """Where the recipe of a plan that has no places yet can act, with its additions there.

    A place that the user did not ask for by name is left out where the recipe does not fit it, and so is a
    position that the evidence or a prompt has no room for.

    Raises:
        SteerError: a place that was asked for does not fit, or none does.
    """
    options = plan.options
    positions = _positions(options.positions, plan.recipe.additions[plan.tuned[0]])
    places: dict[Place, tuple[Alignment, ...]] = {}
    faults: dict[Place, SteerError] = {}
    for place in (Place(layer, position) for layer in layers for position in positions):
        try:
            places[place] = align(plan.recipe_at(place, 1.0), plan.facts)
        except SteerError as error:
            faults[place] = error
    unfit = _unfit(plan, places, note)
    places = {place: found for place, found in places.items() if place.position not in unfit}
    if unfit and (not places or options.positions is not None):
        raise _named(unfit, positions)
    for position, fault in unfit.items():
        note(f"{position} is left out: {fault}")
    if faults and (not places or (options.layers is not None and options.positions is not None)):
        place, fault = next(iter(faults.items()))
        raise type(fault)(f"layer {place.layer}, {place.position}: {fault}") from None
    for position in dict.fromkeys(place.position for place in faults if place.position not in unfit):
        of_position = [fault for place, fault in faults.items() if place.position == position]
        often = "" if len(of_position) == len(layers) else f" at {len(of_position)} of {len(layers)} layers"
        note(f"{position}{often} is left out: {of_position[0]}")
    return places


def _positions(text: str | None, addition: Addition) -> list[Position]:
    """The positions to look at: those written, or front and every, or the recipe's own if it is neither."""
    if text is not None:
        return [position for position in parse_positions(text) if position is not None]
    own = addition.position
    if own in ("front", "every"):
        return ["front", "every"]
    if isinstance(own, str):
        return [own]
    if addition.every is not None:
        return [f"every={addition.every}"]
    raise SweepError(
        "positions: the recipe's position depends on its prompt; give positions such as front,every",
        "positions",
    )


def _unfit(
    plan: TunePlan, places: Mapping[Place, tuple[Alignment, ...]], note: Note
) -> dict[Position, SteerError]:
    """The positions that do not fit the evidence or a prompt, and why.

    Fit depends on the position alone, so the first place of each stands for all.

    Args:
        note: told how many sentences are left out at the others.
    """
    first: dict[Position, Place] = {}
    for place in places:
        first.setdefault(place.position, place)
    unfit: dict[Position, SteerError] = {}
    for position, place in first.items():
        try:
            left_out = _left_out(plan, plan.recipe_at(place, 1.0), places[place])
        except SteerError as error:
            unfit[position] = error
            continue
        if left_out:
            note(f"{position}: {counted(left_out, 'sentence')} that cannot be measured there will not count")
    return unfit


def _left_out(plan: TunePlan, recipe: Recipe, alignments: tuple[Alignment, ...]) -> int:
    """How many sentences of the evidence cannot be measured with these additions.

    Raises:
        SteerError: a trial does not fit the evidence or a prompt.
    """
    left_out = 0
    for half in (plan.searched, plan.held_out):
        kept = measurable(half, alignments, plan.facts)
        left_out += sum(len(corpus.sentences) for corpus in half.corpora)
        left_out -= sum(len(corpus.sentences) for corpus in kept.corpora)
    if plan.searched.choices is not None:
        plan_choices(recipe, plan.facts, plan.searched.choices.items)
    plan_score(recipe, plan.facts, plan.held_out)
    return left_out


def _named(unfit: Mapping[Position, SteerError], positions: Sequence[Position]) -> SteerError:
    """The first fault with its position; what is wrong at every position alike is not about them."""
    position, fault = next(iter(unfit.items()))
    alike = len(unfit) == len(positions) and len({*map(str, unfit.values())}) == 1
    if alike and (len(positions) > 1 or not isinstance(fault, PlanError)):
        return fault
    return type(fault)(f"{position}: {fault}")
