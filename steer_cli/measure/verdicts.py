"""The rule by which a card says that a recipe steers; docs/score.md states it for readers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steer_cli.measure.student import bound_of
from steer_cli.results import Estimate, Verdict

SHARE = 0.95


def chance(randoms: Sequence[float], tried: int = 1) -> float:
    """How far from 0 the effect of one more random vector lies at most, 95 times in 100.

    The effects of random vectors scatter around 0: a vector and its opposite are equally likely. Their root
    mean square estimates how widely, and Student's t allows for there being few of them.

    Args:
        randoms: the effects of random vectors.
        tried: how many recipes the one that is judged was the best of; each had its chance.
    """
    size = math.sqrt(sum(effect**2 for effect in randoms) / len(randoms))
    return size * bound_of(1 - (1 - SHARE) / tried, len(randoms))


def verdict(
    effect: Estimate,
    beyond: Sequence[Estimate],
    randoms: Sequence[float],
    conditions: Sequence[tuple[bool, str]] = (),
    tried: int = 1,
) -> Verdict:
    """Whether an effect is one.

    Args:
        beyond: by how much it exceeds that of each random vector.
        randoms: their effects.
        conditions: what else must hold for steering as asked, and what to say where it does not.
        tried: see `chance`.
    """
    reach = chance(randoms, tried)
    if effect.value == effect.low == effect.high == 0:
        return Verdict(0, reach, "nothing changes")
    if not (effect.above_zero or effect.below_zero):
        return Verdict(0, reach, "its interval contains 0")
    direction = 1 if effect.above_zero else -1
    past = all(other.above_zero if direction > 0 else other.below_zero for other in beyond)
    if not past or abs(effect.value) <= reach:
        return Verdict(0, reach, "random vectors of the same length may do as much")
    if direction > 0:
        for holds, reason in conditions:
            if not holds:
                return Verdict(0, reach, reason)
    return Verdict(direction, reach)
