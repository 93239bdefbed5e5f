"""Parse an objective such as `min weddings where shipping <= 1.02`, and pick the best point.

A name is a corpus (its perplexity ratio), `corpus/label`, a counted label (its mean in steered completions),
or kl, effect, damage, cost.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass

from steer_cli.errors import SweepError
from steer_cli.results import CHEAP, COSTLY, SweepPoint, reads_like

COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
_NAME = r"[^\s<>=]+"
_WHOLE = re.compile(rf"\s*(min|max)\s+({_NAME})(?:\s+where\s+(.+))?", re.IGNORECASE | re.DOTALL)
_BOUND = re.compile(rf"\s*({_NAME})\s*(<=|>=|==|<|>)\s*([-+.\w]+)\s*")


@dataclass(frozen=True)
class Bound:
    """A condition on one figure."""

    name: str
    sign: str
    limit: float

    def holds(self, figures: dict[str, float]) -> bool:
        return COMPARE[self.sign](figures[self.name], self.limit)


@dataclass(frozen=True)
class Miss:
    """A condition that a point does not meet, and its figure there."""

    bound: Bound
    figure: float

    @property
    def by(self) -> float:
        return abs(self.figure - self.bound.limit)


@dataclass(frozen=True)
class Objective:
    """The smallest or largest value of `name` among the points that meet all bounds."""

    text: str
    largest: bool
    name: str
    bounds: tuple[Bound, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every figure that it names."""
        return (self.name, *(bound.name for bound in self.bounds))


def parse_objective(text: str) -> Objective:
    """Read an objective.

    Raises:
        SweepError: the text does not have this form.
    """
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise SweepError(f'best {text}: write "min NAME where NAME <= NUMBER and ..."', parameter="best")
    bounds = []
    for part in re.split(r"\s+and\s+", found[3], flags=re.IGNORECASE) if found[3] else ():
        bound = _BOUND.fullmatch(part)
        try:
            if bound is None:
                raise ValueError
            bounds.append(Bound(bound[1], bound[2], _limit(bound[3])))
        except ValueError:
            raise SweepError(
                f"best {text}: {part.strip()!r} is not a condition; write NAME <= NUMBER", parameter="best"
            ) from None
    return Objective(text, found[1].lower() == "max", found[2], tuple(bounds))


def _limit(text: str) -> float:
    limit = float(text)
    if math.isnan(limit):
        raise ValueError  # NaN cannot be compared
    return limit


def check_measured(objective: Objective, measured: Sequence[str]) -> None:
    """Raise SweepError if the objective names a figure that is not measured."""
    for name in objective.names:
        if name not in measured:
            known = ", ".join(measured)
            raise SweepError(
                f"best {objective.text}: {name} is not measured; choose from {known}", parameter="best"
            )


def best(objective: Objective, points: Sequence[SweepPoint]) -> SweepPoint | None:
    """The winning point, the first if tied; None if no point meets the bounds."""
    kept = []
    for point in points:
        figures = point.values()
        if all(bound.holds(figures) for bound in objective.bounds):
            kept.append((figures[objective.name], point))
    if not kept:
        return None
    choose = max if objective.largest else min
    return choose(kept, key=operator.itemgetter(0))[1]


def nearest(objective: Objective, points: Sequence[SweepPoint]) -> tuple[SweepPoint, list[Miss]] | None:
    """The point that misses its bounds by the least, the first of equals, and each bound that it misses.

    Of several bounds the worst counts; a miss is compared by the spread of its figure over the points.
    """
    if not points:
        return None
    values = [point.values() for point in points]
    spreads = {}
    for bound in objective.bounds:
        of_points = [figures[bound.name] for figures in values]
        spreads[bound.name] = (max(of_points) - min(of_points)) or 1.0

    def missed(figures: dict[str, float]) -> list[Miss]:
        return [Miss(bound, figures[bound.name]) for bound in objective.bounds if not bound.holds(figures)]

    def worst(number: int) -> float:
        return max((miss.by / spreads[miss.bound.name] for miss in missed(values[number])), default=0.0)

    number = min(range(len(points)), key=worst)
    return points[number], missed(values[number])


def cost_warning(objective: Objective, winner: SweepPoint) -> str | None:
    """A note if the winner's texts are costly and the objective does not mention cost."""
    if winner.cost is None or winner.cost.cost < COSTLY or "cost" in objective.names:
        return None
    cost = winner.cost.cost
    bounded = f"{objective.text} {'and' if objective.bounds else 'where'} cost < {CHEAP:g}"
    return f'the winner costs {cost:.2f} nats per token ({reads_like(cost)}); try `best="{bounded}"`'
