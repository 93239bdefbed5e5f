"""A sweep's records -> a screen: the grid as one table, and the winning point.

Colours are few and never carry meaning alone: the best cell has a star, a damaged one an exclamation mark.
This module does not know how anything was computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from steer_cli.findings import figure_name
from steer_cli.report.measures import DAMAGED, plain_table
from steer_cli.report.plain import visible

AXES = ("layer", "coefficient", "position", "dims")


def table(
    records: Sequence[Mapping[str, Any]], named: Sequence[Mapping[str, float]], winner: int | None
) -> Iterator[RenderableType]:
    """A row for each point, a column for each axis that varies and each figure.

    Args:
        named: the figures of each record by name; those of a corpus are ratios.
        winner: number of the record that --best chose.
    """
    axes = [axis for axis in AXES if axis == "layer" or len({str(record[axis]) for record in records}) > 1]
    names = list(named[0]) if named else []
    ratios = {
        figure_name(figure["corpus"], figure["label"])
        for record in records
        for figure in record.get("perplexity", ())
    }
    lowest = {name: min(each[name] for each in named) for name in ratios}
    shown = plain_table(*axes, *map(visible, names), left=0)
    for number, (record, figures) in enumerate(zip(records, named, strict=True)):
        cells = [_figure(figures[name], name in ratios, lowest.get(name)) for name in names]
        style = "bold" if number == winner else ""
        shown.add_row(*(_axis(record[axis]) for axis in axes), *cells, style=style)
    yield shown
    if legend := _legend(ratios, winner):
        yield Text(f"  {legend}", style="dim")


def _legend(ratios: set[str], winner: int | None) -> str:
    parts = [f"ratios: * lowest, ! damaged ({DAMAGED:g} or more)"] if ratios else []
    return "; ".join([*parts, *(["bold: the winner"] if winner is not None else [])])


def _axis(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {visible(str(each))}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _figure(value: float, is_ratio: bool, lowest: float | None) -> Text:
    if not is_ratio:
        return Text(f"{value:.4f} ")
    damaged = value >= DAMAGED
    if value == lowest and not damaged:
        return Text(f"{value:.3f}*", style="bold green")
    return Text(f"{value:.3f}{'!' if damaged else ' '}", style="red" if damaged else "")


def winner(
    wish: str, record: Mapping[str, Any], figures: Mapping[str, float], recipe: str
) -> Iterator[RenderableType]:
    """The winning point, and its recipe as a file would hold it."""
    place = "  ".join(f"{axis} {_axis(record[axis])}" for axis in AXES if record[axis] is not None)
    found = "  ".join(f"{visible(name)} {value:.4g}" for name, value in figures.items())
    yield Text.assemble("best  ", (visible(wish), "bold"), f"\n  {place}\n  {found}\n")
    yield Text(visible(recipe))
