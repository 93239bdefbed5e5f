"""Search layers, positions and coefficients for the largest effect within a damage budget.

The search knows nothing of models: `measure` gives the figures of trials. It goes over the places (a layer
and a position each) in a few rounds, each with more of the evidence than the one before, for the places that
promised most in it. In the first round a place begins with the coefficient, in units of the layer's stream,
that its neighbour ended with. The search is deterministic. It goes through the layers in rising order, and
asks for the trials of one layer together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from steer_cli.results import Figures, Place, Searched, Trial
from steer_cli.tuning.climb import Ascent, Effort

Asked = tuple[Place, float]  # a coefficient at a place
# The figures of some coefficients at one layer, on a share of the evidence.
Measure = Callable[[float, Sequence[Asked]], list[Figures]]
# The coefficient with which a vector is as long as the stream that it is added to.
Unit = Callable[[Place], float]


@dataclass(frozen=True)
class Round:
    """One pass over the places that are left, at most `places` of them (None: all)."""

    share: float  # of the evidence
    places: int | None
    effort: Effort


ROUNDS = (
    Round(0.15, None, Effort((1.0,), more=2, near=0.6)),
    Round(0.4, 12, Effort((0.6, 1.0), more=1, near=0.75)),
    Round(1.0, 4, Effort((0.4, 0.7, 1.0), more=3, near=0.9)),
)
# The length of what a first guess adds, and of the most that is ever added, in lengths of the stream.
GUESS, LONGEST = 0.3, 10.0


def search(
    layers: Sequence[int],
    positions: Sequence[str | int],
    budget: float,
    unit: Unit,
    measure: Measure,
    rounds: Sequence[Round] = ROUNDS,
) -> Searched:
    """Look for the largest effect whose damage is at most `budget`.

    Where few places are asked for, the rounds that would leave all of them are skipped.
    """
    places = [Place(layer, position) for layer in sorted(layers) for position in positions]
    trials: list[Trial] = []
    expected: Mapping[Place, float] | None = None
    for index, part in enumerate(rounds):
        following = rounds[index + 1] if index + 1 < len(rounds) else None
        if following is not None and (following.places or 0) >= len(places):
            continue
        climbed: dict[Place, Ascent] = {}
        for layer in dict.fromkeys(place.layer for place in places):
            here = [place for place in places if place.layer == layer]
            starts = _starts(here, expected, climbed, unit)
            climbs = {place: Ascent(budget, *starts[place], part.effort, expected is None) for place in here}
            trials += _side_by_side(climbs, part.share, index, measure)
            climbed |= climbs
        expected = {place: ascent.reach for place, ascent in climbed.items()}
        if following is not None:
            ranked = sorted(places, key=lambda place: -climbed[place].promise)  # stable: lower layers first
            # Where no place promises anything, one is looked at with more evidence to make sure.
            promising = [place for place in ranked if climbed[place].promise > 0] or ranked[:1]
            kept = set(promising[: following.places])
            places = [place for place in places if place in kept]
    return Searched(tuple(trials), budget)


def _starts(
    places: Sequence[Place],
    expected: Mapping[Place, float] | None,
    climbed: Mapping[Place, Ascent],
    unit: Unit,
) -> dict[Place, tuple[float, float]]:
    """For each place, the coefficient to begin with and the largest to try."""
    starts = {}
    for place in places:
        one = unit(place)
        if expected is not None:
            starts[place] = expected[place], LONGEST * one
            continue
        before = [other for other in climbed if other.position == place.position]
        neighbour = climbed[before[-1]] if before else None
        length = neighbour.reach / neighbour.longest * LONGEST if neighbour else GUESS
        starts[place] = length * one, LONGEST * one
    return starts


def _side_by_side(climbs: Mapping[Place, Ascent], share: float, number: int, measure: Measure) -> list[Trial]:
    """Run the climbs of one layer in step, so that what they ask for is measured together."""
    running = {place: ascent.run() for place, ascent in climbs.items()}
    wanted = {place: next(climb, None) for place, climb in running.items()}
    trials: list[Trial] = []
    while any(wanted.values()):
        asked = [(place, value) for place, values in wanted.items() for value in values or ()]
        found = dict(zip(asked, measure(share, asked), strict=True))
        trials += [Trial(place, value, found[place, value], number) for place, value in asked]
        wanted = {
            place: _next(running[place], [found[place, value] for value in values])
            for place, values in wanted.items()
            if values
        }
    return trials


def _next(climb, figures: list[Figures]) -> list[float] | None:
    """What a climb wants next, given what it asked for; None at its end."""
    try:
        return climb.send(figures)
    except StopIteration:
        return None
