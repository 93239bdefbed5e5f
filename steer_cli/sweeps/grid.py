"""Parse ranges into the points of a grid, and turn each point into a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from steer_cli.errors import SweepError
from steer_cli.recipe.bounds import LARGEST_COEFFICIENT, LARGEST_POSITION
from steer_cli.recipe.position_words import EVERY, WORDS, way_in
from steer_cli.recipe.schema import Addition, Recipe

EXAMPLES = {"layers": "0:30 or 6,16", "coefficients": "-1:4:0.5 or 1,2", "dims": "0:1:0.1 or 0.5"}
LARGEST = 100_000  # values per axis; more is a typing mistake
TOGETHER = 16  # points of one layer that are computed together
COUNTED_TOGETHER = 4  # if they generate texts: a kill would lose minutes of work


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid; None keeps the recipe's own value."""

    layer: int
    coefficient: float | None = None
    position: str | int | None = None  # 3 stands for {at: 3}, every=new for {every: new}
    dims: float | None = None


@dataclass(frozen=True)
class Grid:
    """The points in the order in which they are computed: layer by layer, upwards."""

    layers: tuple[int, ...]
    coefficients: tuple[float | None, ...] = (None,)
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
    layers: str, coefficients: str | None, positions: str | None, dims: str | None, depth: int | None
) -> Grid:
    """Read the axes of a grid.

    Args:
        depth: the model's number of blocks; None if unknown, and layers are then not checked.

    Raises:
        SweepError: an option is not a list of values or ranges, or a value is out of its bounds.
    """
    blocks = parse_layers(layers, depth)
    shares = _axis("dims", dims, float)
    for share in shares:
        if share is not None and not 0 <= share <= 1:
            raise SweepError(
                f"dims {dims}: {share:g} is not a share of the width; write 0 to 1, such as 0:1:0.1",
                parameter="dims",
            )
    return Grid(
        blocks,
        parse_coefficients(coefficients),
        tuple(_positions(positions)),
        tuple(shares),
    )


def parse_layers(text: str, depth: int | None) -> tuple[int, ...]:
    """Blocks, in rising order.

    Args:
        depth: blocks of the model, None if not known (then layers are not checked).

    Raises:
        SweepError: the text is not a list of values or ranges, or the model has no such layer.
    """
    blocks = _axis("layers", text, _layer)
    for layer in blocks:
        if layer < 0 or (depth is not None and layer >= depth):
            known = (
                "0 or more" if depth is None else f"0 to {depth - 1}, so `layers=0:{depth}` is all of them"
            )
            raise SweepError(f"layers {text}: no layer {layer}; the model has {known}", parameter="layers")
    return tuple(sorted(blocks))


def parse_coefficients(text: str | None) -> tuple[float | None, ...]:
    """Coefficients, as they are written; a single None, which keeps the recipe's own, where no text is given.

    Raises:
        SweepError: the text is not a list of values or ranges.
    """
    return tuple(_axis("coefficients", text, float))


def _axis(option: str, text: str | None, kind: Callable[[Decimal], Any]) -> list:
    """Parse `1,2,5`, `START:STOP[:STEP]` or a mixture, dropping repetitions.

    A range of layers stops before STOP, like all ranges of blocks; other ranges include it.
    """
    if text is None:
        return [None]
    values: list = []
    for part in text.split(","):
        bounds = part.split(":")
        try:
            decimals = [Decimal(bound.strip()) for bound in bounds]
            # Checked before `int`, which writes out every digit of 1e99999999.
            if len(decimals) > 3 or not all(
                decimal.is_finite() and -LARGEST_COEFFICIENT <= decimal <= LARGEST_COEFFICIENT
                for decimal in decimals
            ):
                raise InvalidOperation
            if decimals[2:] and decimals[2] <= 0:
                fault = f"the step of {part.strip()} is not above 0; write {EXAMPLES[option]}"
                raise SweepError(f"{option} {text}: {fault}", option)
            expanded = _range(decimals, half_open=kind is _layer) if decimals[1:] else decimals
            part_values = [kind(decimal) for decimal in expanded]
            if not all(map(math.isfinite, part_values)):  # too large for a float
                raise ValueError
        except (InvalidOperation, ValueError, OverflowError):
            what = f"{part.strip() or 'nothing'} is not a value"
            raise SweepError(f"{option} {text}: {what}; write {EXAMPLES[option]}", option) from None
        if not part_values:
            fault = f"{part.strip()} holds no value; write {EXAMPLES[option]}"
            raise SweepError(f"{option} {text}: {fault}", option)
        values += part_values
    if len(values) > LARGEST:
        raise SweepError(f"{option} {text}: {len(values)} values; write {LARGEST} or fewer", option)
    # -0.0 + 0 is 0.0: one value, not two.
    return list(dict.fromkeys(value + 0 for value in values))


def _layer(decimal: Decimal) -> int:
    if decimal != decimal.to_integral_value():
        raise ValueError
    return int(decimal)


def _range(bounds: Sequence[Decimal], half_open: bool) -> list[Decimal]:
    start, stop, step = (*bounds, Decimal(1))[:3]
    count = (math.ceil if half_open else math.floor)((stop - start) / step) + (not half_open)
    if count > LARGEST:
        raise OverflowError
    return [start + step * index for index in range(count)]


def _positions(text: str | None) -> list[str | int | None]:
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


def swept_additions(recipe: Recipe, chosen: Sequence[int]) -> tuple[int, ...]:
    """The additions that the grid changes: those chosen, by default all.

    Raises:
        SweepError: the recipe has no such addition.
    """
    for index in chosen:
        if not 0 <= index < len(recipe.additions):
            raise SweepError(
                f"addition {index}: {recipe.name} has additions 0 to {len(recipe.additions) - 1}",
                parameter="addition",
            )
    return tuple(chosen) or tuple(range(len(recipe.additions)))
