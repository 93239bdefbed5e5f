"""Tokens in columns under their positions, drawn quickly."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Table
from rich.text import Text

Line = Sequence[tuple[str, str]]  # text and style of each cell


def drawn(lines: Sequence[Line], width: int) -> RenderableType:
    """A heading and lines on a screen of `width` columns; the second column is right-aligned."""
    widths = [max(cell_len(text) for text, _ in column) for column in zip(*lines, strict=True)]
    # A rich table takes milliseconds, and a long text needs thousands of them; but only rich folds cells.
    return _plain_table(lines, widths) if _total(widths) <= width else _folding_table(lines)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 3 * len(widths) - 1


def _plain_table(lines: Sequence[Line], widths: Sequence[int]) -> Segments:
    """Draw the same as `_folding_table` when nothing has to be folded."""
    segments: list[Segment] = []
    for line_index, line in enumerate(lines):
        for index, ((text, style), width) in enumerate(zip(line, widths, strict=True)):
            room = " " * (width - cell_len(text))
            padded = room + text if index == 1 else text + room
            segments.append(Segment(f"{' ' if index else ''} {padded} ", Style.parse(style)))
        segments.append(Segment.line())
        if line_index == 0:
            segments += [Segment("─" * (_total(widths))), Segment.line()]
    return Segments(segments)


def _folding_table(lines: Sequence[Line]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", show_edge=False, padding=(0, 1))
    for index, (title, _) in enumerate(lines[0]):
        if index < 2:
            table.add_column(title, justify="right" if index else "left", no_wrap=True)
        else:
            table.add_column(title, overflow="fold")
    for line in lines[1:]:
        table.add_row(*(Text(text, style=style) for text, style in line))
    return table
