"""A sweep's records -> a screen: the grid as one table, and the winning point.

Colours are few and never carry meaning alone: the best cell has a star, a damaged one an exclamation mark.
This module does not know how anything was computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from steer_cli.report.measures import DAMAGED, plain_table
from steer_cli.report.plain import visible
from steer_cli.results import STUMBLES, WORD_SALAD, figure_name, reads_like

AXES = ("layer", "coefficient", "position", "dims")


def table(
    records: Sequence[Mapping[str, Any]],
    named: Sequence[Mapping[str, float]],
    errors: Sequence[Mapping[str, float]],
    winner: int | None,
    width: int,
) -> Iterator[RenderableType]:
    """A row for each point, a column for each axis that varies and each figure.

    Args:
        named: the figures of each record by name; those of a corpus are ratios, those of `cost` stand for how
            texts read.
        errors: their standard errors, which are shown where the screen is wide enough.
        winner: number of the record that --best chose.
        width: columns of the screen.
    """
    if line := _unsteered(records):
        yield Text(f"  {line}")
    axes = [axis for axis in AXES if axis == "layer" or len({str(record[axis]) for record in records}) > 1]
    names = list(named[0]) if named else []
    ratios = {
        figure_name(figure["corpus"], figure["label"])
        for record in records
        for figure in record.get("perplexity", ())
    }
    costs = any("logprob" in record for record in records)
    lowest = {name: min(each[name] for each in named) for name in ratios}
    heads = [*axes, *map(visible, names)]
    rows = [
        [
            *(Text(_axis(record[axis])) for axis in axes),
            *(_cell(name, figures[name], name in ratios, lowest.get(name), costs) for name in names),
        ]
        for record, figures in zip(records, named, strict=True)
    ]
    columns = [*[""] * len(axes), *names]
    wider = [_with_errors(row, columns, each) for row, each in zip(rows, errors, strict=True)]
    with_errors = any(errors) and _width(heads, wider) <= width
    shown = plain_table(*heads, left=0)
    for number, row in enumerate(wider if with_errors else rows):
        shown.add_row(*row, style="bold" if number == winner else "")
    yield shown
    if legend := _legend(ratios, costs, with_errors, winner):
        yield Text(f"  {legend}", style="dim")


def _with_errors(row: Sequence[Text], names: Sequence[str], errors: Mapping[str, float]) -> list[Text]:
    return [
        Text.assemble(cell, f" ±{errors[name]:.3f}") if name in errors else cell
        for cell, name in zip(row, names, strict=True)
    ]


def _width(heads: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """Columns of a table whose cells are not folded."""
    columns = zip(map(cell_len, heads), *([cell.cell_len for cell in row] for row in rows), strict=True)
    return sum(max(column) + 2 for column in columns)


def _unsteered(records: Sequence[Mapping[str, Any]]) -> str:
    """The counts of the unsteered arm, which are the same at all points."""
    counts = records[0].get("counts", {}) if records else {}
    found = [f"{visible(label)} {means['unsteered']:.4f}" for label, means in counts.items()]
    return f"unsteered: {', '.join(found)} uses per completion" if found else ""


def _legend(ratios: set[str], costs: bool, errors: bool, winner: int | None) -> str:
    parts = [f"ratios: * lowest, ! damaged ({DAMAGED:g} or more)"] if ratios else []
    if costs:
        marks = (("!", STUMBLES), ("!!", WORD_SALAD))
        meant = ", ".join(f"{mark} {reads_like(limit)} ({limit:g} or more)" for mark, limit in marks)
        parts.append(f"cost in nats per token: {meant}")
    parts += ["± standard error"] if errors else []
    return "; ".join([*parts, *(["bold: the winner"] if winner is not None else [])])


def _axis(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {visible(str(each))}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def _cell(name: str, value: float, is_ratio: bool, lowest: float | None, costs: bool) -> Text:
    if name != "cost" or not costs:
        return _figure(value, is_ratio, lowest)
    marks = "!!" if value >= WORD_SALAD else "! " if value >= STUMBLES else "  "
    return Text(f"{round(value, 3) + 0.0:.3f}{marks}", style="red" if marks.strip() else "")


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
    found += f" ({reads_like(figures['cost'])})" if "logprob" in record else ""
    yield Text.assemble("best  ", (visible(wish), "bold"), f"\n  {place}\n  {found}\n")
    yield Text(visible(recipe))
