"""Effect and damage of one layer, position and sign as functions of the coefficient, from few trials.

At coefficient 0 both are 0. Between neighbouring trials, damage is taken to grow with the square of the
coefficient, as it does where an unsteered model is near its best, and effect in proportion to it. Of trials
that overflow, only the coefficient is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Sample:
    """What was measured at a coefficient; `size` is the coefficient without its sign."""

    size: float
    effect: float
    damage: float


ORIGIN = Sample(0.0, 0.0, 0.0)
# Where the smallest size tried overflows, the next one is this many times smaller.
DESCENT = 6.25


@dataclass(frozen=True)
class Curve:
    """Samples in rising order of size, after the origin, all below the first size that overflows."""

    samples: tuple[Sample, ...] = ()
    overflow: float = math.inf

    @classmethod
    def through(cls, samples: Iterable[Sample]) -> Curve:
        ordered = sorted(samples, key=lambda sample: sample.size)
        overflow = min((sample.size for sample in ordered if sample.damage == math.inf), default=math.inf)
        return cls(tuple(sample for sample in ordered if sample.size < overflow), overflow)

    def reach(self, budget: float, furthest: float) -> float:
        """The size up to which damage stays within the budget, or `furthest` times the largest sample.

        Where damage leaves the budget and falls back into it, the first crossing counts. It is below what
        overflows.
        """
        if budget <= 0:
            return 0.0
        for low, high in pairwise((ORIGIN, *self.samples)):
            if high.damage > budget:
                return _crossing(low, high, budget)
        if not self.samples:
            return 0.0 if self.overflow == math.inf else self.overflow / DESCENT
        last = self.samples[-1]
        grown = math.sqrt(budget / last.damage) if last.damage > 0 else math.inf
        size = last.size * min(furthest, grown)
        return size if size < self.overflow else math.sqrt(last.size * self.overflow)

    def within(self, budget: float) -> tuple[Sample, ...]:
        """The samples up to the first that exceeds the budget."""
        reach = self.reach(budget, 1.0)
        return tuple(sample for sample in self.samples if sample.size <= reach and sample.damage <= budget)

    def effect_at(self, size: float) -> float:
        """The effect there; beyond the largest sample, it goes on in proportion to the size."""
        for low, high in pairwise((ORIGIN, *self.samples)):
            if size <= high.size:
                share = (size - low.size) / (high.size - low.size)
                return low.effect + share * (high.effect - low.effect)
        last = self.samples[-1]
        return last.effect * size / last.size


def _crossing(low: Sample, high: Sample, budget: float) -> float:
    """Where damage meets the budget between two samples, of which the second exceeds it."""
    share = (budget - low.damage) / (high.damage - low.damage)
    return math.sqrt(low.size**2 + share * (high.size**2 - low.size**2))
