"""What a search tried at layers and positions, and what it chose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from steer_cli.recipe.file_text import as_values
from steer_cli.recipe.schema import Recipe
from steer_cli.results.card import Card
from steer_cli.results.json_values import Record

Position = str | int  # a word such as front or every=new, or a number, as the axis of a sweep has it


@dataclass(frozen=True)
class Place:
    """Where an addition acts."""

    layer: int
    position: Position


@dataclass(frozen=True)
class Figures:
    """Effect and damage with their standard errors, which are None where there is one draw.

    Of a trial whose logits are not finite nothing is known: it is OVERFLOWN, and its record has nulls.
    """

    effect: float
    damage: float
    effect_stderr: float | None = None
    damage_stderr: float | None = None

    @property
    def finite(self) -> bool:
        """Whether anything could be measured."""
        return math.isfinite(self.damage)

    def record(self) -> Record:
        return {
            "effect": self.effect if self.finite else None,
            "effect_stderr": self.effect_stderr,
            "damage": self.damage if self.finite else None,
            "damage_stderr": self.damage_stderr,
        }


# Beyond any budget, and without an effect.
OVERFLOWN = Figures(0.0, math.inf)


@dataclass(frozen=True)
class Trial:
    """A coefficient at a place, and its figures on a share of the evidence."""

    place: Place
    coefficient: float
    figures: Figures
    share: float

    @property
    def coordinates(self) -> tuple[float, Place, float]:
        """What was asked."""
        return self.share, self.place, self.coefficient

    def record(self) -> Record:
        where = {"layer": self.place.layer, "position": self.place.position, "coefficient": self.coefficient}
        return {"share": self.share} | where | self.figures.record()


@dataclass(frozen=True)
class Searched:
    """Every trial of a search, in the order of their making; the last round has all of the evidence."""

    trials: tuple[Trial, ...]
    budget: float

    @property
    def final(self) -> tuple[Trial, ...]:
        """The trials of the last round."""
        last = max(trial.share for trial in self.trials)
        return tuple(trial for trial in self.trials if trial.share == last)

    def fits(self, trial: Trial) -> bool:
        """Whether its damage is within the budget."""
        return trial.figures.damage <= self.budget

    @property
    def best(self) -> tuple[Trial, ...]:
        """Trials of the last round with an effect above 0 within the budget, the largest effect first."""
        fitting = [trial for trial in self.final if self.fits(trial) and trial.figures.effect > 0]
        return tuple(sorted(fitting, key=lambda trial: -trial.figures.effect))

    @property
    def places(self) -> tuple[Trial, ...]:
        """What is known of each place, from its last round.

        That is its largest effect within the budget; where no trial keeps to the budget, the least damage.
        """
        best: dict[Place, Trial] = {}
        for trial in self.trials:
            if trial.place not in best or self._worth(trial) > self._worth(best[trial.place]):
                best[trial.place] = trial
        return tuple(best[place] for place in sorted(best, key=lambda place: place.layer))

    def _worth(self, trial: Trial) -> tuple[float, bool, float]:
        fits = self.fits(trial)
        return trial.share, fits, trial.figures.effect if fits else -trial.figures.damage

    @property
    def frontier(self) -> tuple[Trial, ...]:
        """The trials with all of the evidence that no other beats in both effect and damage, by damage."""
        kept: list[Trial] = []
        for trial in sorted(self.final, key=lambda trial: (trial.figures.damage, -trial.figures.effect)):
            if trial.figures.effect > max((other.figures.effect for other in kept), default=0.0):
                kept.append(trial)
        return tuple(kept)

    @property
    def nearest_miss(self) -> Trial | None:
        """The least damage beyond the budget among the trials that clearly steer; None if none does."""
        steering = (trial for trial in self.trials if not self.fits(trial) and _clear(trial.figures))
        return min(steering, key=lambda trial: (trial.figures.damage, -trial.share), default=None)


def _clear(figures: Figures) -> bool:
    """Whether an effect is more than three standard errors above 0, as a single one of many should be."""
    return figures.effect_stderr is not None and figures.effect > 3 * figures.effect_stderr


@dataclass(frozen=True)
class Tuning:
    """A search, the trial that it chose, and that recipe's card on the half of the evidence not searched.

    `read` counts the sentences or items of each set that the last round read. `odd` are trials with larger
    effects that were passed over, with what their completions cost in nats per token: infinitely much where
    logits are not finite. `fault` is why there is no card of the chosen trial.
    """

    recipe: Recipe
    model: str
    revision: str
    dtype: str
    version: str
    kind: str  # of effect: sentences, choices or count
    oddness: float
    relative: bool
    read: dict[str, int]
    searched: Searched
    odd: tuple[tuple[Trial, float], ...] = ()
    chosen: Trial | None = None
    tuned: Recipe | None = None
    card: Card | None = None
    fault: str = ""

    @property
    def steers(self) -> bool:
        """Whether the card says that the chosen recipe steers as asked."""
        return self.card is not None and self.card.verdicts[self.kind].direction > 0

    @property
    def beyond_budget(self) -> bool:
        """Whether the card finds more damage than the budget, to which the search kept on its own half."""
        return self.card is not None and self.card.exceeds(self.searched.budget)

    @property
    def says(self) -> str:
        """What a careful reader would say of the chosen recipe, or why there is none."""
        budget = f"{self.searched.budget:g}"
        if self.card is not None and self.steers:
            return self.card.sentences[0]
        if self.card is not None:
            return f"nothing steers within a damage of {budget}: the best {self.card.sentences[0]}"
        if self.fault:
            return f"what was found has no card: {self.fault}"
        if self.odd:
            return self._all_odd
        looked_at = len({trial.place for trial in self.searched.final})
        which = "the most promising place" if looked_at == 1 else f"the best {looked_at} places"
        return (
            f"nothing steers within a damage of {budget}: {which} had no effect above 0 within it when all "
            "of the searched half was read"
        )

    @property
    def _all_odd(self) -> str:
        """That all completions which were checked are too odd, and how many those are."""
        checked, trials = len(self.odd), len(self.searched.best)
        if checked == trials:
            of_which = "of the only trial" if trials == 1 else f"of all {trials} trials"
            answer = "nothing steers"
        else:
            of_which = f"of {checked} of the {trials} trials"
            answer = "nothing was found to steer"
        least = min(cost for _, cost in self.odd)
        costs = f"cost {least:.2f} nats per token or more" if math.isfinite(least) else "overflow"
        return (
            f"{answer} within a damage of {self.searched.budget:g} and a cost of {self.oddness:g}: "
            f"completions {of_which} with an effect there {costs}"
        )

    def records(self) -> Iterator[Record]:
        """A record for each trial, then one of what was chosen, with its card and its recipe."""
        head: Record = {
            "recipe": self.recipe.name,
            "recipe_sha256": self.recipe.sha256,
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "version": self.version,
            "kind": self.kind,
            "relative": self.relative,
            "budget": self.searched.budget,
        }
        yield from (head | trial.record() for trial in self.searched.trials)
        miss = self.searched.nearest_miss
        yield head | {
            "oddness": self.oddness,
            "read": self.read,
            "frontier": [trial.record() for trial in self.searched.frontier],
            "odd": [
                trial.record() | {"cost": cost if math.isfinite(cost) else None} for trial, cost in self.odd
            ],
            "nearest_miss": None if miss is None else miss.record(),
            "chosen": None if self.chosen is None else self.chosen.record(),
            "steers": self.steers,
            "beyond_budget": self.beyond_budget,
            "says": self.says,
            "card": None if self.card is None else next(self.card.records()),
            "tuned": None if self.tuned is None or not self.steers else as_values(self.tuned),
        }
