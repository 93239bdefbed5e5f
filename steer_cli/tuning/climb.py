"""Find the largest coefficient within the budget at one layer and position, and what it does there.

A climb is a generator: it yields the coefficients that it wants measured and is sent their figures.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from steer_cli.results import Figures
from steer_cli.tuning.curve import Curve, Sample

# A climb multiplies the coefficient by at most this at once, and goes down by as much to look for a sign.
STRIDE = 2.5
# The budget is aimed at from a little below, so that a small misjudgement does not cost another trial.
AIM = 0.96

# So often a climb whose first coefficients overflow goes down to look for one that does not.
DESCENTS = 3

# What is measured at less than this share of the reach does not tell what the reach promises: where a vector
# stands on tokens of its own, little happens until it is about as long as the stream.
FAR = 0.4

Climb = Generator[list[float], list[Figures], None]


UNSTEERED = Figures(0.0, 0.0)


@dataclass(frozen=True)
class Effort:
    """How hard to look: the first coefficients, as shares of the expected one, and the trials after them.

    A climb is over when a trial within the budget has a coefficient of `near` times the largest possible one.
    Where the effect has its peak below that, `refines` says whether trials are spent on coming close to it.
    """

    shares: tuple[float, ...]
    more: int
    near: float
    refines: bool = False


@dataclass(frozen=True)
class Goal:
    """What climbs look for: the largest effect within a budget of damage.

    Where additions that are not moved act too (`fixed`), coefficient 0 has an effect and damage, which are
    measured at each place: what is said of the moved ones counts from there.
    """

    budget: float
    fixed: bool = False


@dataclass
class Ascent:
    """A climb and all that it has measured, coefficient by coefficient."""

    goal: Goal
    expected: float  # coefficient with its sign
    longest: float  # no coefficient is larger
    effort: Effort
    both_signs: bool
    bar: float = 0.0  # a climb that promises less is not worth more trials
    figures: dict[float, Figures] = field(default_factory=dict)
    sign: float = 1.0

    def __post_init__(self) -> None:
        self.sign = -1.0 if self.expected < 0 else 1.0

    @property
    def curve(self) -> Curve:
        """The samples of the sign that is followed."""
        chosen = ((value, found) for value, found in self.figures.items() if value * self.sign > 0)
        return Curve.through(
            Sample(abs(value), found.effect - self.rest.effect, found.damage - self.rest.damage)
            for value, found in chosen
        )

    @property
    def rest(self) -> Figures:
        """What is measured at coefficient 0."""
        found = self.figures.get(0.0, UNSTEERED)
        return found if found.finite else UNSTEERED

    @property
    def room(self) -> float:
        """The damage that is left for the additions that are moved."""
        return self.goal.budget - self.rest.damage

    @property
    def reach(self) -> float:
        """The coefficient expected to meet the budget, with its sign."""
        return self.sign * min(self.longest, self.curve.reach(self.room, STRIDE))

    @property
    def outlook(self) -> tuple[float, float]:
        """The coefficient to expect most of, with its sign, and the largest worth trying after this climb."""
        within = self.curve.within(self.room)
        best = _peak(within)
        if best == len(within) - 1:
            # Nothing is left of the budget where the other additions alone exceed it.
            return self.reach or self.expected, self.longest
        return self.sign * within[best].size, within[best + 1].size

    @property
    def promise(self) -> float:
        """The largest effect to expect within the budget."""
        curve = self.curve
        if not curve.samples:
            return 0.0
        likely = curve.effect_at(min(abs(self.reach), 1.3 * curve.samples[-1].size))
        return max(likely, *(sample.effect for sample in curve.within(self.room)), 0.0)

    @property
    def sure(self) -> float:
        """The promise less a standard error: what would be left of it with less luck.

        That is the error of the largest effect within the budget, or, where no trial keeps to it, that of the
        smallest coefficient, in proportion.
        """
        followed = [(abs(value), found) for value, found in self.figures.items() if value * self.sign > 0]
        within = [found for _, found in followed if found.damage <= self.goal.budget]
        if within:
            return self.promise - (max(within, key=lambda found: found.effect).effect_stderr or 0.0)
        size, smallest = min(followed, key=lambda tried: tried[0], default=(1.0, UNSTEERED))
        return self.promise - (smallest.effect_stderr or 0.0) * abs(self.reach) / size

    def run(self) -> Climb:
        """Measure until the budget is met, the effort is spent, or a larger coefficient would be too long."""
        starts = [self.expected * share for share in self.effort.shares]
        yield from self._measure([0.0, *starts] if self.goal.fixed else starts)
        for _ in range(DESCENTS):
            if self.curve.samples:
                break
            yield from self._measure([self.reach])
        if not self.curve.samples:
            return
        if self.both_signs and self._best(self.sign) <= 0:
            yield from self._choose_sign()
            if self._best(self.sign) <= 0:
                return
        for _ in range(self.effort.more):
            wanted = self._next()
            if wanted is None:
                return
            yield from self._measure([wanted])

    def _measure(self, coefficients: Sequence[float]) -> Climb:
        wanted = [value for value in dict.fromkeys(map(rounded, coefficients)) if value not in self.figures]
        if wanted:
            found = yield wanted
            self.figures.update(zip(wanted, found, strict=True))

    def _choose_sign(self) -> Climb:
        """Follow the sign with the larger effect; where both harm without any, look once more at less."""
        size = max(abs(value) for value, found in self.figures.items() if found.finite)
        if self.curve.within(self.room):
            # It does too little to tell.
            size *= STRIDE
            yield from self._measure([self.sign * size])
        for smaller in (size, size / STRIDE**2):
            if self._best(self.sign) > 0:
                return
            yield from self._measure([smaller, -smaller])
            self.sign = max((1.0, -1.0), key=self._best)
            # Where other places promise much, a place that has to be looked for is not worth more.
            if self.bar > 0 or all(found.damage <= self.goal.budget for found in self.figures.values()):
                return

    def _best(self, sign: float) -> float:
        effects = (found.effect for value, found in self.figures.items() if value * sign > 0 and found.finite)
        return max(effects, default=self.rest.effect) - self.rest.effect

    def _next(self) -> float | None:
        """The coefficient to try next, closer to the budget or to the peak of the effect below it."""
        if self.promise < self.bar and max(map(abs, self.figures)) > FAR * abs(self.reach):
            return None
        within = self.curve.within(self.room)
        reach = abs(self.reach)
        if not within or within[-1].size < self.effort.near * reach:
            return self._fresh(reach * AIM)
        best = _peak(within)
        if best == len(within) - 1 or not self.effort.refines:
            return None
        # The effect has its peak below the budget, between the neighbours of its best sample.
        low = within[best - 1].size if best else within[best].size / STRIDE
        return self._fresh((low * within[best].size) ** 0.5) or self._fresh(
            (within[best].size * within[best + 1].size) ** 0.5
        )

    def _fresh(self, size: float) -> float | None:
        value = rounded(self.sign * size)
        return None if value in self.figures or value == 0 else value


def _peak(samples: Sequence[Sample]) -> int:
    """The index of the largest effect; -1 without samples."""
    return max(range(len(samples)), key=lambda index: samples[index].effect, default=-1)


def rounded(coefficient: float) -> float:
    """Three digits that count, as a person would write it."""
    return float(f"{coefficient:.3g}")
