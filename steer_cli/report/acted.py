"""One table of where the texts stand on the prompt, and under them how hard they acted there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from steer_cli.planning.alignment_table import TableRow
from steer_cli.recipe.quoting import counted
from steer_cli.recipe.schema import Addition
from steer_cli.report import token_columns
from steer_cli.report.alignment import FROM_HERE, ONWARDS, ROLE_STYLE, TO_THE_END, done_to, shown_token
from steer_cli.report.measures import came_to_lines
from steer_cli.report.numbers import short
from steer_cli.report.printable import PAD, SPACE, cell
from steer_cli.report.title import SHOWN_ADDITIONS, layer_range, quoted
from steer_cli.results import Comparison, Receipt, came_to

SHOWN_TEXTS = 4  # of an addition: two pairs
LABEL = 20  # characters of a text in its label
RATIO = "|added| / |stream|"
MANY = 12  # positions that are not worth a table of their own
FIGURES = "bold"  # the style of rows that are no texts


@dataclass(frozen=True)
class _Row:
    """A label, and what stands at some positions."""

    label: str
    cells: Mapping[int, str]
    style: str = ""


def acted(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """The table, folded into several on a narrow screen.

    Positions that hold nothing but the prompt are left out where it is folded.

    Args:
        width: columns of the screen.
    """
    additions = comparison.recipe.additions
    several = len(additions) > 1
    rows, left_out = [_Row("prompt", dict(enumerate(map(cell, comparison.pieces))), "bold")], 0
    for index, addition in enumerate(additions[:SHOWN_ADDITIONS]):
        number = f"{index + 1} " if several else ""
        if addition.every == "new":
            continue
        texts = _texts_of(comparison.table, index)
        rows += [_text_row(row, number) for row in texts[:SHOWN_TEXTS]]
        left_out += len(texts[SHOWN_TEXTS:])
        receipts = [receipt for receipt in comparison.receipts if receipt.placement.alignment.index == index]
        rows.append(_figures(receipts, [receipt.change for receipt in receipts], f"{number}{RATIO}"))
        if addition.operation == "ablate":
            rows += _components(receipts, number)
    for total in comparison.sums:
        cells = dict(enumerate(map(short, total.ratio), total.start))
        rows.append(_Row(f"together, layer {total.layer}", cells, FIGURES))
    # With the prompt's row alone there is nothing to show.
    rows = rows if len(rows) > 1 else []
    if rows:
        yield from _parts(rows, len(comparison.pieces), width)
    yield from _on_new_tokens(additions)
    numbers = came_to_lines(came_to(receipt.placement for receipt in comparison.receipts))
    yield from map(Text, islice(numbers, SHOWN_ADDITIONS))
    yield from _remarks(rows, left_out, len(additions), done_to(comparison.table))


def _texts_of(table: Sequence[TableRow], index: int) -> list[TableRow]:
    """The texts of an addition, once, whatever the number of its layers."""
    rows = [row for row in table if row.addition == index]
    return [row for row in rows if row.layer == rows[0].layer]


def _text_row(row: TableRow, number: str) -> _Row:
    sign, text = "-" if row.role == "minus" else "+", quoted(row.text, LABEL) if row.text else ""
    cells = {position: shown_token(row, position) for position in range(row.start, row.end)}
    return _Row(f"{number}{sign} {text}".rstrip(), cells, ROLE_STYLE[row.role])


def _components(receipts: Sequence[Receipt], number: str) -> Iterator[_Row]:
    """The stream's component along the vector, before and after the ablation."""
    yield _figures(receipts, [receipt.component_before for receipt in receipts], f"{number}component before")
    yield _figures(receipts, [receipt.component_after for receipt in receipts], f"{number}component after")


def _figures(receipts: Sequence[Receipt], figures: Sequence[Sequence[float]], label: str) -> _Row:
    """A figure at each position; the least and the most of it where there are several layers."""
    added = [
        dict(enumerate(values, receipt.placement.start))
        for receipt, values in zip(receipts, figures, strict=True)
    ]
    if len(added) > 1:
        label += f", layers {layer_range([receipt.placement.layer for receipt in receipts])}"
    cells = {}
    for position in sorted({position for values in added for position in values}):
        found = [values[position] for values in added if position in values]
        least, most = short(min(found)), short(max(found))
        cells[position] = least if least == most else f"{least} to {most}"
    return _Row(label, cells, FIGURES)


def _parts(rows: Sequence[_Row], end: int, width: int) -> Iterator[RenderableType]:
    widths = [
        max(len(str(position)), *(cell_len(row.cells.get(position, "")) for row in rows))
        for position in range(end)
    ]
    labels = max(cell_len(row.label) for row in rows)
    parts = []
    for start, stop in token_columns.folds(widths, width - labels - token_columns.GAP):
        kept = [row for row in rows[1:] if any(start <= position < stop for position in row.cells)]
        parts.append((start, stop, kept))
    acting = [part for part in parts if part[2]]
    # `every` acts alike at all positions of a long prompt: their ends show it.
    alike = acting[1:-1] if all(row.style == FIGURES for part in acting[1:] for row in part[2]) else []
    alike = alike if sum(stop - start for start, stop, _ in alike) >= MANY else []
    for number, (start, stop, kept) in enumerate(part for part in acting if part not in alike):
        if number:
            yield Text()
        if number and alike:
            hidden = counted(sum(stop - start for start, stop, _ in alike), "position")
            yield Text(f"and {hidden} more, which the full receipt shows\n", style="dim")
        yield token_columns.drawn(_lines([rows[0], *kept], range(start, stop), labels), width, right=())
    untouched = sum(stop - start for start, stop, kept in parts if not kept)
    if untouched:
        yield Text(
            f"and {counted(untouched, 'position')} of the prompt alone (`steer table` shows all)", style="dim"
        )


def _lines(rows: Sequence[_Row], positions: range, labels: int) -> list[list[tuple[str, str]]]:
    """The cells of some rows at some positions, under a head; a first column `labels` wide."""
    head = [(f"{'position':{labels}}", "dim"), *((str(position), "dim") for position in positions)]
    cells = ([(row.cells.get(position, ""), row.style) for position in positions] for row in rows)
    return [head, *([(row.label, row.style), *line] for row, line in zip(rows, cells, strict=True))]


def _on_new_tokens(additions: Sequence[Addition]) -> Iterator[Text]:
    """What has no row, because it acts on no position of the prompt."""
    for number, addition in enumerate(additions[:SHOWN_ADDITIONS], 1):
        if addition.every == "new":
            done = "ablated" if addition.operation == "ablate" else "added"
            which = f"addition {number} is" if len(additions) > 1 else "the vector is"
            yield Text(f"{which} {done} at new tokens only, at no position of the prompt", style="dim")


def _remarks(rows: Sequence[_Row], left_out: int, additions: int, done: str) -> Iterator[Text]:
    """What was left out, and a legend of the signs used."""
    if left_out:
        yield Text(f"and {counted(left_out, 'more text')} (`steer table` shows all)", style="dim")
    if additions > SHOWN_ADDITIONS:
        hidden = counted(additions - SHOWN_ADDITIONS, "more addition")
        yield Text(f"and {hidden} (`steer table` shows all)", style="dim")
    shown = "".join(text for row in rows for text in row.cells.values())
    signs = {
        SPACE: "space",
        PAD: "padding",
        ONWARDS: f"read at this token, then {done} at every position {FROM_HERE[ONWARDS]}",
        TO_THE_END: f"read at this token, then {done} at every position {FROM_HERE[TO_THE_END]}",
    }
    legend = "   ".join(f"{sign} {meaning}" for sign, meaning in signs.items() if sign in shown)
    if legend:
        yield Text(legend, style="dim")
