"""Make ranges the points of a grid, and turn each point into a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steer_cli.errors import SweepError
from steer_cli.recipe.bounds import LARGEST_POSITION
from steer_cli.recipe.position_words import EVERY, WORDS, way_in
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.sweeps.ranges import axis_of, parse_coefficients, parse_layers, parse_relative

TOGETHER = 16  # points of one layer that are computed together
COUNTED_TOGETHER = 4  # if they generate texts: a kill would lose minutes of work


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid; None keeps the recipe's own value."""

    layer: int
    coefficient: float | Relative | None = None
    position: str | int | None = None  # 3 stands for {at: 3}, every=new for {every: new}
    dims: float | None = None


@dataclass(frozen=True)
class Grid:
    """The points in the order in which they are computed: layer by layer, upwards."""

    layers: tuple[int, ...]
    coefficients: tuple[float | Relative | None, ...] = (None,)
    positions: tuple[str | int | None, ...] = (None,)
    dims: tuple[float | None, ...] = (None,)

    def __iter__(self) -> Iterator[GridPoint]:
        for layer in self.layers:
            for position in self.positions:
                for dims in self.dims:
                    for coefficient in self.coefficients:
                        yield GridPoint(layer, coefficient, position, dims)

    def __len__(self) -> int:
        return len(self.layers) * len(self.coefficients) * len(self.positions) * len(self.dims)

    @property
    def varying(self) -> list[str]:
        """Names of the axes with more than one value."""
        axes = {
            "layer": self.layers,
            "coefficient": self.coefficients,
            "position": self.positions,
            "dims": self.dims,
        }
        return [name for name, values in axes.items() if len(values) > 1]

    def groups(self, together: int = TOGETHER) -> Iterator[list[GridPoint]]:
        """Groups of at most `together` points, to bound memory, that share a layer and its stream."""
        group: list[GridPoint] = []
        for point in self:
            if group and (point.layer != group[0].layer or len(group) == together):
                yield group
                group = []
            group.append(point)
        if group:
            yield group


def parse_grid(
    layers: str,
    coefficients: str | None,
    positions: str | None,
    dims: str | None,
    depth: int | None,
    relative: str | None = None,
) -> Grid:
    """Read the axes of a grid.

    Args:
        depth: the model's number of blocks; None if unknown, and layers are then not checked.
        relative: coefficients that are relative to the stream, instead of plain ones.

    Raises:
        SweepError: an option is not a list of values or ranges, or a value is out of its bounds.
    """
    if coefficients is not None and relative is not None:
        raise SweepError(
            f"relative {relative}: `coefficients={coefficients}` stand in its place; leave one out",
            "relative",
        )
    blocks = parse_layers(layers, depth)
    shares = axis_of("dims", dims, float)
    for share in shares:
        if share is not None and not 0 <= share <= 1:
            raise SweepError(
                f"dims {dims}: {share:g} is not a share of the width; write 0 to 1, such as 0:1:0.1",
                parameter="dims",
            )
    strengths = parse_coefficients(coefficients) if relative is None else parse_relative(relative)
    return Grid(
        blocks,
        strengths,
        tuple(parse_positions(positions)),
        tuple(shares),
    )


def parse_positions(text: str | None) -> list[str | int | None]:
    """Positions, as they are written; a single None, which keeps the recipe's own, where no text is given.

    Raises:
        SweepError: one of them is not a position.
    """
    if text is None:
        return [None]
    values: list[str | int | None] = []
    for part in (part.strip() for part in text.split(",")):
        known = part in WORDS or part in EVERY
        if not known and not (part.isdecimal() and len(part) <= len(str(LARGEST_POSITION))):
            raise SweepError(
                f"positions {text}: {part!r} is not a position; write front, middle, back, every, every=new, "
                "every=prompt, every=all or a number",
                parameter="positions",
            )
        part = "every" if part == "every=both" else part
        values.append(int(part) if part.isdecimal() else part)
    return list(dict.fromkeys(values))


def recipe_at(recipe: Recipe, point: GridPoint, swept: Sequence[int]) -> Recipe:
    """The recipe of a point: the additions in `swept` get the point's values."""
    additions = [
        _moved(addition, point) if index in swept else addition
        for index, addition in enumerate(recipe.additions)
    ]
    return recipe.model_copy(update={"additions": tuple(additions)})


def _moved(addition: Addition, point: GridPoint) -> Addition:
    values: dict[str, Any] = {"layer": point.layer}
    if point.position is not None:
        values["position"] = _position(point.position)
    for key in ("coefficient", "dims"):
        if getattr(point, key) is not None:
            values[key] = getattr(point, key)
    return Addition(**addition.model_dump() | values)


def _position(position: str | int) -> str | dict[str, str | int]:
    if isinstance(position, int):
        return {"at": position}
    way = way_in(position)
    return position if way is None else {"every": way}


def check_adds(recipe: Recipe, index: int, what: str, parameter: str) -> None:
    """Raise SweepError if an addition that is to have relative coefficients ablates."""
    if recipe.additions[index].operation == "ablate":
        raise SweepError(
            f"{what}: additions.{index} of {recipe.name or 'the recipe'} ablates, which adds no length; use "
            "plain coefficients",
            parameter=parameter,
        )


def swept_additions(recipe: Recipe, chosen: Sequence[int]) -> tuple[int, ...]:
    """The additions that the grid changes: those chosen, by default all.

    Raises:
        SweepError: the recipe has no such addition.
    """
    for index in chosen:
        if not 0 <= index < len(recipe.additions):
            raise SweepError(
                f"addition {index}: {recipe.label} has additions 0 to {len(recipe.additions) - 1}",
                parameter="addition",
            )
    return tuple(chosen) or tuple(range(len(recipe.additions)))
