"""Search layers, positions and coefficients for the largest effect within a damage budget.

The search knows nothing of models: it asks for the figures of trials. It goes over places (a layer and a
position each) in a few rounds, each with more of the evidence: over layers spread through the model, over the
best of these and the layers around them, and over the best of all. A place begins where the nearest one of
its position ended, in proportion to its own guess. The search is deterministic.

A round consists of chains, none of which depends on another, so that they may run in any order or at the same
time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from steer_cli.events import Progress, silent
from steer_cli.results import Figures, Place, Searched, Trial
from steer_cli.tuning.climb import Ascent, Climb, Effort, Goal

Asked = tuple[Place, float]  # a coefficient at a place
# The figures of some coefficients at one place, on a share of the evidence.
Measure = Callable[[float, Sequence[Asked]], list[Figures]]


@dataclass(frozen=True)
class Request:
    """What a chain wants measured: a share of the evidence, and coefficients at one place."""

    share: float
    asked: tuple[Asked, ...]


Climbed = dict[Place, Ascent]
# Yields what it wants measured, is sent the figures, and returns its climbs.
Chain = Generator[Request, list[Figures], Climbed]
# Runs chains to their ends; gives what they return, in their order.
RunChains = Callable[[Sequence[Chain]], Iterable[Climbed]]


@dataclass(frozen=True)
class Round:
    """One pass over some places: the `best` of the round before, in the first one layers spread evenly.

    With `around`, the layers around these belong to it, as far as the spread left them out.
    """

    share: float  # of the evidence
    effort: Effort
    best: int | None = None
    around: bool = False


ROUNDS = (
    Round(0.25, Effort((1.0,), more=2, near=0.6)),
    Round(0.6, Effort((1.0,), more=1, near=0.7), best=6, around=True),
    Round(1.0, Effort((0.6, 1.0), more=3, near=0.9, refines=True), best=3),
)
# About so many layers are in the first round.
SPREAD = 15
# No coefficient is larger than this times the guess, and no neighbour moves the first one further from it.
LARGEST, FURTHEST = 30.0, 4.0
# A place that promises less than this share of what the best one promises without luck gets no more trials,
# in this round and the next.
HOPEFUL = 0.4
# So often the last round is repeated with other places, where these promise more than its own came to.
REPEATS = 2


def in_turn(measure: Measure) -> RunChains:
    """Runs chains one after another."""

    def to_its_end(chain: Chain) -> Climbed:
        try:
            request = next(chain)
            while True:
                request = chain.send(measure(request.share, request.asked))
        except StopIteration as end:
            return end.value

    return lambda chains: map(to_its_end, chains)


def search(
    guesses: Mapping[Place, float],
    budget: float,
    run: RunChains,
    rounds: Sequence[Round] = ROUNDS,
    progress: Progress = silent,
    fixed: bool = False,
) -> Searched:
    """Look for the largest effect whose damage is at most `budget`.

    Where there are few places, the rounds that would leave all of them are skipped.

    Args:
        guesses: the places, and for each a coefficient of the right order of magnitude.
        fixed: whether something acts at coefficient 0 too, which is then measured at each place.
    """
    following = [*(part.best for part in rounds[1:]), None]
    worth = [part for part, best in zip(rounds, following, strict=True) if (best or 0) < len(guesses)]
    if worth[0].best is not None:
        # It was not meant to be the first; its guesses may be far off.
        effort = worth[0].effort
        worth[0] = Round(worth[0].share, replace(effort, shares=(1.0,), more=effort.more + 2))
    trials: list[Trial] = []
    goal = Goal(budget, fixed)

    def climb(part: Round, before: Climbed, number: int) -> Climbed:
        chains = _chains(part, guesses, before)
        counting = _counting(progress, sum(map(len, chains)), number, len(worth))
        counting(0)
        running = [_chain(places, part, guesses, goal, before, counting) for places in chains]
        climbed = {place: ascent for found in run(running) for place, ascent in found.items()}
        for place, ascent in climbed.items():
            trials.extend(Trial(place, value, found, part.share) for value, found in ascent.figures.items())
        return climbed

    climbed: Climbed = {}
    known: Climbed = {}  # places as they were last climbed
    for number, part in enumerate(worth):
        climbed = climb(part, climbed, number)
        known |= climbed
    for _ in range(REPEATS):
        found = Searched(tuple(trials), budget)
        reached = found.best[0].figures.effect if found.best else 0.0
        looked_at = {trial.place for trial in found.final}
        others = {place: ascent for place, ascent in known.items() if place not in looked_at}
        if not any(ascent.sure > reached for ascent in others.values()):
            break
        known |= climb(worth[-1], others, len(worth))
    progress("tune", 100, 100)
    return Searched(tuple(trials), budget)


def _counting(progress: Progress, places: int, rounds_done: int, rounds: int) -> Callable[[int], None]:
    """Tells of finished places, in per cent; every round counts the same, and a repeated one nothing."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress("tune", min(99, round(100 * (rounds_done + done / places) / rounds)), 100)

    return count


def _chains(part: Round, guesses: Mapping[Place, float], before: Climbed) -> list[list[Place]]:
    """The places of a round, chain by chain, in the order in which to go through them."""
    positions = dict.fromkeys(place.position for place in guesses)
    layers = {
        position: sorted(place.layer for place in guesses if place.position == position)
        for position in positions
    }
    if not before:
        return [[Place(layer, position) for layer in _spread(layers[position])] for position in positions]
    best = _best(before, part.best)
    chosen = {*best}
    for place in best if part.around else ():
        within = _stride(layers[place.position]) // 2
        index = layers[place.position].index(place.layer)
        around = layers[place.position][max(0, index - within) : index + within + 1]
        chosen |= {Place(layer, place.position) for layer in around}
    return [[place] for position in positions for place in _rising(chosen, position)]


def _rising(places: Iterable[Place], position: object) -> list[Place]:
    return sorted((place for place in places if place.position == position), key=lambda place: place.layer)


def _spread(layers: Sequence[int]) -> list[int]:
    """About SPREAD of the layers, the upper two thirds first: trials there are cheap and seldom hopeless."""
    stride = _stride(layers)
    chosen = layers[stride // 2 :: stride]
    return [*chosen[len(chosen) // 3 :], *chosen[: len(chosen) // 3]]


def _stride(layers: Sequence[int]) -> int:
    return max(1, round(len(layers) / SPREAD))


def _best(climbed: Climbed, count: int | None) -> list[Place]:
    """The places that promise most, the best first, as far as there is hope; of equals, the lower layer."""
    ranked = sorted(climbed, key=lambda place: (-climbed[place].promise, place.layer))
    least = _bar(climbed)
    # Where no place promises anything, one is looked at with more evidence to make sure.
    return [place for place in ranked if climbed[place].promise > least][:count] or ranked[:1]


def _bar(climbed: Climbed) -> float:
    """What a place has to promise in order to be worth more trials."""
    return HOPEFUL * max([0.0, *(ascent.sure for ascent in climbed.values())])


def _chain(
    places: Sequence[Place],
    part: Round,
    guesses: Mapping[Place, float],
    goal: Goal,
    before: Climbed,
    done: Callable[[int], None],
) -> Chain:
    """Climb at one place after the other."""
    climbed: Climbed = {}
    for place in places:
        ascent = _ascent(place, part, guesses, goal, before, climbed)
        climb = ascent.run()
        wanted = next(climb)
        while wanted:
            found = yield Request(part.share, tuple((place, value) for value in wanted))
            wanted = _next(climb, found)
        climbed[place] = ascent
        done(1)
    return climbed


def _next(climb: Climb, figures: list[Figures]) -> list[float]:
    """What a climb wants next, given what it asked for; nothing at its end."""
    try:
        return climb.send(figures)
    except StopIteration:
        return []


def _ascent(
    place: Place,
    part: Round,
    guesses: Mapping[Place, float],
    goal: Goal,
    before: Climbed,
    climbed: Climbed,
) -> Ascent:
    """The climb at a place, beginning where the round before ended there, or the nearest place did."""
    guess, known = guesses[place], before or climbed
    bar = _bar(known)
    if place in before:
        start, longest = before[place].outlook
        return Ascent(goal, start, longest, part.effort, False, bar)
    nearest = min(
        (other for other in known if other.position == place.position),
        key=lambda other: (abs(other.layer - place.layer), other.layer),
        default=None,
    )
    start = guess
    if nearest is not None:
        reached = known[nearest].outlook[0]
        times = min(FURTHEST, max(1 / FURTHEST, abs(reached) / guesses[nearest]))
        # Where both signs are tried, the one that the recipe means comes first, whatever chance chose nearby.
        start = times * guess if not before or reached > 0 else -times * guess
    return Ascent(goal, start, LARGEST * guess, part.effort, not before, bar)
