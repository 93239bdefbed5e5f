"""Search layers, positions and coefficients for the largest effect within a damage budget.

The search knows nothing of models: `measure` gives the figures of trials. It goes over the places (a layer
and a position each) in a few rounds, each with more of the evidence than the one before, for the places that
promised most in it. In the first round a place begins where its neighbour, the same position a layer below,
ended in proportion to its own guess. The search is deterministic. It goes through the layers in rising order,
and asks for the trials of one layer together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from steer_cli.events import Progress, silent
from steer_cli.results import Figures, Place, Searched, Trial
from steer_cli.tuning.climb import Ascent, Climb, Effort

Asked = tuple[Place, float]  # a coefficient at a place
# The figures of some coefficients at one layer, on a share of the evidence.
Measure = Callable[[float, Sequence[Asked]], list[Figures]]


@dataclass(frozen=True)
class Round:
    """One pass over the places that are left, at most `places` of them (None: all)."""

    share: float  # of the evidence
    places: int | None
    effort: Effort


ROUNDS = (
    Round(0.15, None, Effort((1.0,), more=2, near=0.6)),
    Round(0.4, 8, Effort((0.65, 1.0), more=1, near=0.75)),
    Round(1.0, 3, Effort((0.6, 1.0), more=3, near=0.9)),
)
# No coefficient is larger than this times the guess, and no neighbour moves the first one further from it.
LARGEST, FURTHEST = 30.0, 4.0
# A place that promises less than this share of the best one so far gets no more trials in the round.
HOPEFUL = 0.4


def search(
    guesses: Mapping[Place, float],
    budget: float,
    measure: Measure,
    rounds: Sequence[Round] = ROUNDS,
    progress: Progress = silent,
) -> Searched:
    """Look for the largest effect whose damage is at most `budget`.

    Where there are few places, the rounds that would leave all of them are skipped.

    Args:
        guesses: the places, and for each a coefficient of the right order of magnitude.
    """
    places = sorted(guesses, key=lambda place: place.layer)
    following = [*rounds[1:], None]
    left = [len(places) if part.places is None else min(part.places, len(places)) for part in rounds]
    run = [n for n, after in enumerate(following) if after is None or (after.places or 0) < len(places)]
    done, total = 0, sum(left[n] for n in run)
    trials: list[Trial] = []
    expected: dict[Place, tuple[float, float]] = {}
    for n in run:
        climbed: dict[Place, Ascent] = {}
        for _, layer in groupby(places, key=lambda place: place.layer):
            here = list(layer)
            progress("tune", done, total)
            effort = rounds[n].effort if expected or n == 0 else _first(rounds[n].effort)
            climbs = {place: _ascent(place, guesses, budget, effort, expected, climbed) for place in here}
            trials += _side_by_side(climbs, rounds[n].share, measure)
            climbed |= climbs
            done += len(here)
        expected = {place: ascent.outlook for place, ascent in climbed.items()}
        after = following[n]
        places = places if after is None else _best(places, climbed, after.places)
        done = sum(left[other] for other in run if other <= n)  # fewer than expected may have been left
    progress("tune", total, total)
    return Searched(tuple(trials), budget)


def _first(effort: Effort) -> Effort:
    """The effort of a round that is the first although it was not meant to be: its guesses may be far off."""
    return replace(effort, shares=(1.0,), more=effort.more + 2)


def _ascent(
    place: Place,
    guesses: Mapping[Place, float],
    budget: float,
    effort: Effort,
    expected: Mapping[Place, tuple[float, float]],
    climbed: Mapping[Place, Ascent],
) -> Ascent:
    """The climb at a place, beginning where an earlier round or the layer below says."""
    start, longest = guesses[place], LARGEST * guesses[place]
    below = [ascent for other, ascent in climbed.items() if other.position == place.position]
    if expected:
        start, longest = expected[place]
    elif below:
        # Of both signs, the one that the recipe means comes first, whatever chance chose below.
        times = abs(below[-1].outlook[0]) / below[-1].longest * LARGEST
        start = min(FURTHEST, max(1 / FURTHEST, times)) * guesses[place]
    bar = HOPEFUL * max((ascent.promise for ascent in climbed.values()), default=0.0)
    return Ascent(budget, start, longest, effort, not expected, bar)


def _best(places: Sequence[Place], climbed: Mapping[Place, Ascent], count: int | None) -> list[Place]:
    """The places that promise most, in their order."""
    ranked = sorted(places, key=lambda place: -climbed[place].promise)  # of equals, the lower layer first
    # Where no place promises anything, one is looked at with more evidence to make sure.
    promising = [place for place in ranked if climbed[place].promise > 0] or ranked[:1]
    kept = set(promising[:count])
    return [place for place in places if place in kept]


def _side_by_side(climbs: Mapping[Place, Ascent], share: float, measure: Measure) -> list[Trial]:
    """Run the climbs of one layer in step, so that what they ask for is measured together."""
    running = {place: ascent.run() for place, ascent in climbs.items()}
    wanted = {place: next(climb) for place, climb in running.items()}
    trials: list[Trial] = []
    while wanted:
        asked = [(place, value) for place, values in wanted.items() for value in values]
        found = dict(zip(asked, measure(share, asked), strict=True))
        trials += [Trial(place, value, found[place, value], share) for place, value in asked]
        following = {
            place: _next(running[place], [found[place, value] for value in values])
            for place, values in wanted.items()
        }
        wanted = {place: values for place, values in following.items() if values}
    return trials


def _next(climb: Climb, figures: list[Figures]) -> list[float]:
    """What a climb wants next, given what it asked for; nothing at its end."""
    try:
        return climb.send(figures)
    except StopIteration:
        return []
