"""Completions that grow side by side, as lines that fit a window."""

from __future__ import annotations

from collections.abc import Iterable

from rich.segment import Segment
from rich.style import Style

from steer_cli.report.folding import GrowingText, cells_of
from steer_cli.report.printable import visible
from steer_cli.results import Partial

GAP = 3  # columns between two texts
MOST_OF_PROMPT = 3  # lines
BOLD, DIM = Style(bold=True), Style(dim=True)

Line = list[Segment]


class GrowingColumns:
    """Lines of a prompt and what its arms have drawn so far; of texts that do not fit, the end."""

    def __init__(self) -> None:
        self._prompt = GrowingText()
        self._texts: dict[str, GrowingText] = {}

    def lines(self, partial: Partial, state: str, width: int, height: int) -> list[Line]:
        """What fits a window of `width` columns and `height` rows, with `state` on the last line."""
        width, room = max(1, width - 1), max(1, height - 1)  # the last ones would make a terminal scroll
        # Ctrl-C is written after the last line, as two signs.
        last = _cut([Segment(state, DIM)], max(1, width - 2))
        texts = len(partial.columns)
        column = (width - GAP * (texts - 1)) // texts
        if room < 2 or column < 2:
            return [last]
        head = self._head(partial, width, column, room)
        rows = max(1, room - len(head) - 1)
        columns = [
            self._texts.setdefault(name, GrowingText()).lines(text.removeprefix(" "), column)[-rows:]
            for name, text in partial.columns.items()
        ]
        longest = max(map(len, columns))
        body = [
            _side_by_side([lines[row] if row < len(lines) else "" for lines in columns], column)
            for row in range(longest)
        ]
        return [*head, *(_cut(line, width) for line in body), last]

    def _head(self, partial: Partial, width: int, column: int, room: int) -> list[Line]:
        """The prompt and the names of the columns, as far as there is room."""
        lines: list[Line] = [[]] if room >= 8 else []
        if room >= 5:
            shown = self._prompt.lines(partial.prompt, width - 2)[-(MOST_OF_PROMPT if room >= 12 else 1) :]
            lines += [[Segment(line, BOLD)] for line in shown]
            lines[-1].append(Segment(" …", DIM))
        if room >= 3:
            names = _side_by_side([visible(name)[:column] for name in partial.columns], column, DIM)
            lines.append(_cut(names, width))
        if room >= 6:
            lines.append([Segment("─" * width, DIM)])
        return lines


def _side_by_side(texts: Iterable[str], column: int, style: Style | None = None) -> Line:
    line: Line = []
    space = 0
    for text in texts:
        if text:
            line.append(Segment(" " * space + text, style))
            space = 0
        space += max(0, column - cells_of(text)) + GAP
    return line


def _cut(line: Line, width: int) -> Line:
    return Segment.adjust_line_length(line, width, pad=False)
