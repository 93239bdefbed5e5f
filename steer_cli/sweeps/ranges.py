"""Read ranges as the user writes them: 1,2,5 and START:STOP[:STEP], of layers, coefficients and shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from steer_cli.errors import SweepError
from steer_cli.recipe.bounds import LARGEST_COEFFICIENT, LARGEST_MULTIPLE
from steer_cli.recipe.relative import Relative

EXAMPLES = {
    "layers": "0:30 or 6,16",
    "coefficients": "-1:4:0.5 or 1,2",
    "relative": "0.2:1:0.2 or 0.5,1",
    "dims": "0:1:0.1 or 0.5",
}
LARGEST = 100_000  # values per axis; more is a typing mistake


def parse_layers(text: str, depth: int | None) -> tuple[int, ...]:
    """Blocks, in rising order.

    Args:
        depth: blocks of the model, None if not known (then layers are not checked).

    Raises:
        SweepError: the text is not a list of values or ranges, or the model has no such layer.
    """
    blocks = axis_of("layers", text, _layer)
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
    return tuple(axis_of("coefficients", text, float))


def parse_relative(text: str, option: str = "relative") -> tuple[Relative, ...]:
    """Coefficients relative to the stream, as they are written.

    Raises:
        SweepError: the text is not a list of values or ranges, or one is out of bounds.
    """
    numbers = axis_of(option, text, float)
    too_large = next((number for number in numbers if abs(number) > LARGEST_MULTIPLE), None)
    if too_large is not None:
        fault = (
            f"{too_large:g} is more than {LARGEST_MULTIPLE:g} lengths of the stream; write {EXAMPLES[option]}"
        )
        raise SweepError(f"{option} {text}: {fault}", option)
    return tuple(Relative(relative=number) for number in numbers)


def axis_of(option: str, text: str | None, kind: Callable[[Decimal], Any]) -> list:
    """Parse `1,2,5`, `START:STOP[:STEP]` or a mixture, dropping repetitions; no text is a single None.

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
