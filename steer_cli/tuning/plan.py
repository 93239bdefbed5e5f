"""Plan a search from its options; all bad input is found here, before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer_cli.errors import PlanError, SteerError, SweepError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.evidence import Evidence, halves
from steer_cli.measure.score_plan import lines_of, plan_choices, plan_score
from steer_cli.models.identity import WEIGHTS, fingerprint
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.planning.chat import chats_of
from steer_cli.planning.placement import Alignment
from steer_cli.planning.plan import ModelFacts, align
from steer_cli.recipe.file_text import without_stale
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.results import Place, Position
from steer_cli.sweeps.grid import GridPoint, check_adds, parse_positions, recipe_at, swept_additions
from steer_cli.sweeps.identity import digest_of, tokenizer_files
from steer_cli.sweeps.ranges import parse_layers
from steer_cli.tuning.parts import digests_of, part_of

# Damage in nats per token, and what completions may cost.
BUDGET, ODDNESS = 0.02, 0.8
# Sentences of a set that the search reads; the card reads all of its half.
MOST_READ = 64


@dataclass(frozen=True)
class TuneOptions:
    """Where to look and what to spend, as the user wrote it; None means the default."""

    budget: float = BUDGET
    oddness: float = ODDNESS
    layers: str | None = None  # all of them
    positions: str | None = None  # front and every, or the recipe's own
    additions: tuple[int, ...] = ()  # all of them
    relative: bool = False


@dataclass(frozen=True)
class TunePlan:
    """A recipe, the places to look at, and the two halves of the evidence."""

    recipe: Recipe
    located: Located
    facts: ModelFacts
    options: TuneOptions
    places: dict[Place, tuple[Alignment, ...]]  # and the additions there, at coefficient 1
    tuned: tuple[int, ...]  # indices of the additions that the search moves
    searched: Evidence
    held_out: Evidence

    def recipe_at(self, place: Place, coefficient: float) -> Recipe:
        """The recipe of a trial."""
        return _at(self.recipe, place, coefficient, self.tuned, self.options.relative)

    def tuned_recipe(self, place: Place, coefficient: float) -> Recipe:
        """The recipe to write; what the file says of its additions no longer holds."""
        return without_stale(self.recipe_at(place, coefficient), {"additions"})

    def alignments(self, place: Place, coefficient: float) -> tuple[Alignment, ...]:
        """The additions of a trial."""
        additions = self.recipe_at(place, coefficient).additions
        return tuple(
            replace(alignment, addition=additions[alignment.index]) for alignment in self.places[place]
        )

    @property
    def fixed(self) -> bool:
        """Whether additions act that the search does not move."""
        return any(
            index not in self.tuned and not addition.adds_nothing
            for index, addition in enumerate(self.recipe.additions)
        )

    def subject(self, dtype: str, device: str) -> dict[str, Any]:
        """What must match for the trials of a store to count."""
        alignments = next(iter(self.places.values()))
        named = [alignment.files for alignment in alignments if alignment.files]
        tokenizer = fingerprint(self.located, tokenizer_files(self.recipe))
        options = self.options
        return {
            "recipe": f"{self.recipe.name} {digest_of(self.recipe, named)}",
            "model": f"{self.located.name} {fingerprint(self.located, WEIGHTS)}",
            "tokenizer": f"{tokenizer}, BOS {self.facts.tokenizer.bos}",
            "evidence": digests_of(self.searched),
            "budget": options.budget,
            "places": [[place.layer, place.position] for place in self.places],
            "additions": list(self.tuned),
            "relative": options.relative,
            "dtype": dtype,
            "device": device,
        }


def plan_tuning(
    recipe: Recipe,
    evidence: Evidence,
    options: TuneOptions,
    located: Located | None = None,
    progress: Progress = silent,
    note: Note = silent,
) -> TunePlan:
    """Find the model, cut the evidence in two, and check where the recipe can act.

    Args:
        located: the model, if already found; by default the recipe's.
        note: told which places are left out.

    Raises:
        SteerError: something is wrong with the recipe, the options, the evidence or the model's files.
    """
    _check_numbers(options)
    _check_one_effect(evidence)
    searched, held_out = halves(evidence)
    located = located or locate(recipe.model, True, progress, note)
    facts = located.facts(recipe.bos)
    facts.tokenizer.render(chats_of(recipe))
    tuned = swept_additions(recipe, options.additions)
    for index in tuned if options.relative else ():
        check_adds(recipe, index, "relative", "relative")
    layers = _layers(options.layers, located.blocks)
    read = part_of(searched, 1.0, MOST_READ)
    plan = TunePlan(recipe, located, facts, options, {}, tuned, read, held_out)
    return replace(plan, places=_places(plan, layers, note))


def _check_numbers(options: TuneOptions) -> None:
    for name in ("budget", "oddness"):
        value = getattr(options, name)
        if not (math.isfinite(value) and value > 0):
            raise SweepError(f"{name} {value:g}: write nats per token, above 0, such as 0.02", name)


def _check_one_effect(evidence: Evidence) -> None:
    ways = {"toward": evidence.toward, "choices": evidence.choices, "count": evidence.count}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise SweepError(
            f"{given[1]}: the search follows one effect, but `{given[0]}` is given too; leave one out",
            given[1],
        )


def _layers(text: str | None, blocks: int | None) -> tuple[int, ...]:
    if text is not None:
        return parse_layers(text, blocks)
    if blocks is None:
        raise SweepError("layers: the model does not say how many it has; give layers such as 0:30", "layers")
    return tuple(range(blocks))


def _places(plan: TunePlan, layers: Sequence[int], note: Note) -> dict[Place, tuple[Alignment, ...]]:
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
    unfit = _unfit(plan, places)
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


def _at(recipe: Recipe, place: Place, coefficient: float, tuned: Sequence[int], relative: bool) -> Recipe:
    strength = Relative(relative=coefficient) if relative else coefficient
    return recipe_at(recipe, GridPoint(place.layer, strength, place.position), tuned)


def _unfit(plan: TunePlan, places: Mapping[Place, tuple[Alignment, ...]]) -> dict[Position, SteerError]:
    """The positions that do not fit the evidence or a prompt, and why.

    Fit depends on the position alone, so the first place of each stands for all.
    """
    first: dict[Position, Place] = {}
    for place in places:
        first.setdefault(place.position, place)
    unfit: dict[Position, SteerError] = {}
    for position, place in first.items():
        try:
            _check_fit(plan, plan.recipe_at(place, 1.0), places[place])
        except SteerError as error:
            unfit[position] = error
    return unfit


def _check_fit(plan: TunePlan, recipe: Recipe, alignments: tuple[Alignment, ...]) -> None:
    """Raise SteerError where a trial does not fit the evidence or a prompt."""
    lines_of(plan.searched.corpora, alignments, plan.facts)
    if plan.searched.choices is not None:
        plan_choices(recipe, plan.facts, plan.searched.choices.items)
    plan_score(recipe, plan.facts, plan.held_out)


def _named(unfit: Mapping[Position, SteerError], positions: Sequence[Position]) -> SteerError:
    """The first fault with its position; what is wrong at every position alike is not about them."""
    position, fault = next(iter(unfit.items()))
    alike = len(unfit) == len(positions) and len({*map(str, unfit.values())}) == 1
    if alike and (len(positions) > 1 or not isinstance(fault, PlanError)):
        return fault
    return type(fault)(f"{position}: {fault}")
