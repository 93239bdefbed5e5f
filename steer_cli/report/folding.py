"""Text that grows -> lines of a column, without folding again what has been folded."""

from __future__ import annotations

import re
from itertools import pairwise

from rich.cells import cell_len

from steer_cli.report.printable import visible

TAB = "    "
_WORD = re.compile(r"\n|[^\S\n]+|\S+")


class GrowingText:
    """A text in lines of at most `width` columns; only what was appended since the last time is worked on."""

    def __init__(self) -> None:
        self._text = self._shown = ""
        self._starts = [0]  # of the lines
        self._width = 0

    def lines(self, text: str, width: int) -> list[str]:
        """The lines of a text, of which any control character is a visible sign."""
        if not text.startswith(self._text):
            self._text = self._shown = ""
            self._starts = [0]
        if width != self._width:
            self._starts = [0]
        self._shown += visible(text[len(self._text) :]).replace("\t", TAB)
        self._text, self._width = text, width
        self._starts += line_starts(self._shown, self._starts.pop(), width)
        return [self._shown[start:end].rstrip() for start, end in pairwise([*self._starts, len(self._shown)])]


def line_starts(text: str, start: int, width: int) -> list[int]:
    """Where lines of at most `width` columns start, the first at `start`; words stay whole where they fit."""
    starts, used = [start], 0
    for match in _WORD.finditer(text, start):
        word, cells = match[0], cells_of(match[0])
        if word == "\n":
            starts.append(match.end())
            used = 0
        elif word.isspace():
            used += cells  # and cut off at the end of a line
        else:
            if used and used + cells > width:
                starts.append(match.start())
                used = 0
            if cells > width:
                more, used = _parts(word, match.start(), width)
                starts += more
            else:
                used += cells
    return starts


def _parts(word: str, start: int, width: int) -> tuple[list[int], int]:
    """Where a word that is longer than a line goes on, and the columns of its last part."""
    starts, used = [], 0
    for index, character in enumerate(word, start):
        cells = cells_of(character)
        if used + cells > width and used:
            starts.append(index)
            used = 0
        used += cells
    return starts, used


def cells_of(text: str) -> int:
    """Columns that a text takes at most: terminals differ over emoji of several characters."""
    return len(text) if text.isascii() else sum(1 if sign == "\ufe0f" else cell_len(sign) for sign in text)
