"""Draw the screen of a sweep: the grid as one table, and the winning point.

Colour never carries meaning alone: the best cell has a star, a damaged one an exclamation mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from steer_cli.report.measures import DAMAGED, figure, plain_table, table_width
from steer_cli.report.numbers import exact, plain
from steer_cli.report.printable import visible
from steer_cli.results import (
    AXES,
    STUMBLES,
    WORD_SALAD,
    SweepPoint,
    axis_name,
    axis_number,
    axis_values,
    reads_like,
)


def table(points: Sequence[SweepPoint], winner: SweepPoint | None, width: int) -> Iterator[RenderableType]:
    """A table with a row for each point and a column for each varying axis and each figure.

    Standard errors are shown if the screen is wide enough.

    Args:
        winner: the point that the objective chose.
        width: columns of the screen.
    """
    if line := _unsteered(points):
        yield Text(f"  {line}")
    axes = [axis for axis in AXES if axis == "layer" or len(axis_values(points, axis)) > 1]
    figures = [point.values() for point in points]
    names = list(figures[0]) if figures else []
    ratios = {figure.name for point in points for figure in point.perplexity}
    costs = any(point.cost is not None for point in points)
    lowest = {name: min(of_point[name] for of_point in figures) for name in ratios}
    heads = [*(axis_name(points, axis) for axis in axes), *map(visible, names)]
    rows = [
        [
            *(Text(_axis(getattr(point.coordinates, axis))) for axis in axes),
            *(_cell(name, of_point[name], name in ratios, lowest.get(name), costs) for name in names),
        ]
        for point, of_point in zip(points, figures, strict=True)
    ]
    errors = [point.errors() for point in points]
    columns = [*[""] * len(axes), *names]
    wider = [_with_errors(row, columns, of_point) for row, of_point in zip(rows, errors, strict=True)]
    with_errors = any(errors) and table_width(heads, wider) <= width
    shown = plain_table(*heads, left=0)
    for point, row in zip(points, wider if with_errors else rows, strict=True):
        shown.add_row(*row, style="bold" if point is winner else "")
    yield shown
    if legend := _legend(ratios, costs, with_errors, winner is not None):
        yield Text(f"  {legend}", style="dim")


def _with_errors(row: Sequence[Text], names: Sequence[str], errors: Mapping[str, float]) -> list[Text]:
    return [
        Text.assemble(cell, f" ±{errors[name]:.3f}") if name in errors else cell
        for cell, name in zip(row, names, strict=True)
    ]


def _unsteered(points: Sequence[SweepPoint]) -> str:
    """The counts of the unsteered arm, which are the same at all points."""
    counts = points[0].counts if points else {}
    found = [f"{visible(label)} {means.unsteered:.4f}" for label, means in counts.items()]
    return f"unsteered: {', '.join(found)} uses per completion" if found else ""


def _legend(ratios: set[str], costs: bool, errors: bool, winner: bool) -> str:
    parts = [f"ratios: * lowest, ! damaged ({DAMAGED:g} or more)"] if ratios else []
    if costs:
        marks = (("!", STUMBLES), ("!!", WORD_SALAD))
        meant = ", ".join(f"{mark} {reads_like(limit)} ({limit:g} or more)" for mark, limit in marks)
        parts.append(f"cost in nats per token: {meant}")
    parts += ["± standard error"] if errors else []
    return "; ".join([*parts, *(["bold: the winner"] if winner else [])])


def _axis(value: Any) -> str:
    value = axis_number(value)
    if isinstance(value, tuple):
        return visible(" ".join(map(str, value)))
    return plain(value) if isinstance(value, float) else "" if value is None else str(value)


def _cell(name: str, value: float, is_ratio: bool, lowest: float | None, costs: bool) -> Text:
    if name != "cost" or not costs:
        return _figure(value, is_ratio, lowest)
    marks = "!!" if value >= WORD_SALAD else "! " if value >= STUMBLES else "  "
    return Text(f"{round(value, 3) + 0.0:.3f}{marks}", style="red" if marks.strip() else "")


def _figure(value: float, is_ratio: bool, lowest: float | None) -> Text:
    if not is_ratio:
        return Text(f"{figure(value, 4)} ")
    damaged = value >= DAMAGED
    if value == lowest and not damaged:
        return Text(f"{figure(value, 3)}*", style="bold green")
    return Text(f"{figure(value, 3)}{'!' if damaged else ' '}", style="red" if damaged else "")


def place(point: SweepPoint) -> str:
    """Where a point lies, by the names of the axes."""
    values = {axis: getattr(point.coordinates, axis) for axis in AXES}
    names = {axis: axis_name([point], axis) for axis in AXES}
    return "  ".join(f"{names[axis]} {_axis(value)}" for axis, value in values.items() if value is not None)


def winner(objective: str, point: SweepPoint, recipe: str) -> Iterator[RenderableType]:
    """The winning point, and its recipe as a file would hold it."""
    found = "  ".join(f"{visible(name)} {exact(value)}" for name, value in point.values().items())
    found += "" if point.cost is None else f" ({reads_like(point.cost.cost)})"
    yield Text.assemble("best  ", (visible(objective), "bold"), f"\n  {place(point)}\n  {found}\n")
    yield Text(visible(recipe))
