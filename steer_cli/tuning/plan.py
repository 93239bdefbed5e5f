"""Plan a search from its options; all bad input is found here, before torch is imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from steer_cli.errors import CorpusError, SweepError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.evidence import Evidence, halves
from steer_cli.models.identity import WEIGHTS, fingerprint
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.planning.chat import chats_of
from steer_cli.planning.placement import Alignment
from steer_cli.planning.plan import ModelFacts
from steer_cli.recipe.file_text import without_stale
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Place
from steer_cli.sweeps.grid import GridPoint, check_adds, recipe_at, swept_additions
from steer_cli.sweeps.identity import digest_of, tokenizer_files
from steer_cli.sweeps.ranges import parse_layers
from steer_cli.tuning.parts import digests_of, part_of
from steer_cli.tuning.places import places_of

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
    _check_draws(recipe, evidence)
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
    return replace(plan, places=places_of(plan, layers, note))


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


def _check_draws(recipe: Recipe, evidence: Evidence) -> None:
    """Words are counted in completions of the same prompts, which only their draws tell apart."""
    if evidence.count is not None and recipe.sampling.temperature == 0:
        raise CorpusError(
            f"count {evidence.count}: at temperature 0 all samples are the same, so that the card would read "
            "the completions that were searched; give a temperature",
            "count",
        )


def _layers(text: str | None, blocks: int | None) -> tuple[int, ...]:
    if text is not None:
        return parse_layers(text, blocks)
    if blocks is None:
        raise SweepError("layers: the model does not say how many it has; give layers such as 0:30", "layers")
    return tuple(range(blocks))


def _at(recipe: Recipe, place: Place, coefficient: float, tuned: Sequence[int], relative: bool) -> Recipe:
    strength = Relative(relative=coefficient) if relative else coefficient
    return recipe_at(recipe, GridPoint(place.layer, strength, place.position), tuned)
