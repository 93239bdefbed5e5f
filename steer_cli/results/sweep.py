"""The results of a sweep at one point of its grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Any

from steer_cli.recipe.relative import Relative, strength_of, written
from steer_cli.results.cost import Cost
from steer_cli.results.json_values import Record
from steer_cli.results.means import ArmMeans, standard_error
from steer_cli.results.perplexity import Perplexity
from steer_cli.results.shift import PromptShift


@dataclass(frozen=True)
class Coordinates:
    """Where a point lies: the values given to the first addition that the grid changes."""

    layer: int
    coefficient: float | Relative
    position: str | tuple[str, int | str]  # a word, or a key and its value such as ("at", 3)
    dims: float | None

    def record(self) -> Record:
        position = self.position if isinstance(self.position, str) else dict([self.position])
        return {
            "layer": self.layer,
            "coefficient": written(self.coefficient),
            "position": position,
            "dims": self.dims,
        }


AXES = tuple(axis.name for axis in fields(Coordinates))


@dataclass(frozen=True)
class SweepPoint:
    """The figures of one point; a measure that was not requested is empty.

    `kl` has an entry for each prompt, `counts` one for each label of the recipe; `cost` comes with `counts`.
    """

    recipe: str
    model: str
    coordinates: Coordinates
    measures: tuple[str, ...]  # in the order requested
    perplexity: tuple[Perplexity, ...] = ()
    kl: tuple[PromptShift, ...] = ()
    counts: Mapping[str, ArmMeans] = field(default_factory=dict)
    cost: Cost | None = None

    def records(self) -> Iterator[Record]:
        """One record."""
        yield self.record()

    def record(self) -> Record:
        record: Record = {"recipe": self.recipe, "model": self.model} | self.coordinates.record()
        for measure in self.measures:
            if measure == "perplexity":
                record[measure] = [figure.record() for figure in self.perplexity]
            elif measure == "kl":
                record[measure] = [shift.record() for shift in self.kl]
            else:
                record[measure] = {label: means.record() for label, means in self.counts.items()}
                assert self.cost is not None  # measured with the counts
                record["logprob"] = self.cost.record()
        return record

    def values(self) -> dict[str, float]:
        """Every figure that an objective may name."""
        named = {figure.name: figure.ratio for figure in self.perplexity}
        named |= {name: fmean(draws) for name, draws in self._by_prompt().items()}
        named |= {label: means.steered for label, means in self.counts.items()}
        return named if self.cost is None else named | {"cost": self.cost.cost}

    def errors(self) -> dict[str, float]:
        """Standard errors of those figures that are means of several draws."""
        named = {figure.name: figure.stderr for figure in self.perplexity}
        named |= {name: standard_error(draws) for name, draws in self._by_prompt().items()}
        named |= {label: means.steered_stderr for label, means in self.counts.items()}
        named |= {} if self.cost is None else {"cost": self.cost.cost_stderr}
        return {name: error for name, error in named.items() if error is not None}

    def _by_prompt(self) -> dict[str, list[float]]:
        """kl, effect and damage: one draw per prompt."""
        draws = {name: [getattr(shift, name) for shift in self.kl] for name in ("kl", "effect", "damage")}
        return {name: values for name, values in draws.items() if values and None not in values}


def axis_name(points: Sequence[SweepPoint], axis: str) -> str:
    """What tables and plots call an axis: relative, where coefficients are."""
    coefficients = axis_values(points, "coefficient") if axis == "coefficient" else []
    return "relative" if any(isinstance(value, Relative) for value in coefficients) else axis


def axis_number(value: Any) -> Any:
    """A value of an axis as tables and plots have it: a relative coefficient is a number there."""
    return strength_of(value) if isinstance(value, Relative) else value


def axis_values(points: Sequence[SweepPoint], axis: str) -> list[Any]:
    """The different values of an axis, in the order of the points."""
    return list(dict.fromkeys(getattr(point.coordinates, axis) for point in points))
