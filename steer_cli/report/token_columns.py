"""Tokens in columns under their positions, drawn quickly."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

GAP = 2  # spaces between columns
Line = Sequence[tuple[str, str]]  # text and style of each cell


def folds(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Split columns of these widths into runs [start, stop) that fit `room`, each of one column at least."""
    start = 0
    while start < len(widths):
        stop = start + 1
        while stop < len(widths) and sum(widths[start : stop + 1]) + GAP * (stop + 1 - start) <= room:
            stop += 1
        yield start, stop
        start = stop


def drawn(lines: Sequence[Line], width: int, right: Collection[int] = (1,)) -> RenderableType:
    """A heading and lines, on a screen of `width` columns.

    Args:
        right: columns that are aligned to the right.
    """
    widths = [max(cell_len(text) for text, _ in column) for column in zip(*lines, strict=True)]
    # A table of rich takes milliseconds, and a long text needs thousands; but only rich folds a cell.
    if _total(widths) <= width:
        return _plain_table(lines, widths, right)
    return _folding_table(lines, right)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _plain_table(lines: Sequence[Line], widths: Sequence[int], right: Collection[int]) -> Segments:
    """What `_folding_table` draws where nothing has to be folded."""
    segments: list[Segment] = []
    for line_index, line in enumerate(lines):
        for index, ((text, style), width) in enumerate(zip(line, widths, strict=True)):
            room = " " * (width - cell_len(text))
            padded = room + text if index in right else text + room
            segments.append(Segment(" " * GAP if index else ""))
            segments.append(Segment(padded, Style.parse(style)))
        segments.append(Segment.line())
        if line_index == 0:
            segments += [Segment("─" * _total(widths), Style.parse("dim")), Segment.line()]
    return Segments(segments)


def _folding_table(lines: Sequence[Line], right: Collection[int]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, header_style="dim", show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0)
    )
    for index, (title, _) in enumerate(lines[0]):
        if index == 0 or index in right:
            table.add_column(title, justify="right" if index in right else "left", no_wrap=True)
        else:
            table.add_column(title, overflow="fold")
    for line in lines[1:]:
        table.add_row(*(Text(text, style=style) for text, style in line))
    return table
