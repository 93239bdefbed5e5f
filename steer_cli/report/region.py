"""Lines at the bottom of a terminal that are drawn again and again, and leave nothing behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from threading import RLock
from typing import Any

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType, Segment, Segments

Line = Sequence[Segment]
END = Segment("")  # so that an empty line is a line too


class Region:
    """The lines above the cursor, which is hidden while there are any. Threads may share it.

    Rich's Live does the same but for a window whose width changes.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self.lock = RLock()
        self._lines: list[Line] = []  # that stand on the screen
        self._size = (0, 0)  # of the window when they were drawn

    def draw(self, lines: Sequence[Line]) -> None:
        """Replace what stands there, in one write; lines must be narrower and fewer than the window's."""
        with self.lock, self._console:
            kept = self._unchanged(lines)
            if self._lines:
                self._console.control(self._erased(kept))
            else:
                self._console.control(Control.show_cursor(False))
            segments: list[Segment] = []
            for line in lines[kept:]:
                segments += [*([Segment.line()] if segments else []), *line, END]
            self._console.print(Segments(segments), end="")
            self._lines, self._size = [*lines], self._console.size

    def clear(self) -> None:
        """Leave the screen as it was before the first `draw`."""
        with self.lock:
            if self._lines:
                with self._console:
                    self._console.control(self._erased(), Control.show_cursor(True))
                self._lines = []

    def write_above(self, stream: Any, lines: str) -> None:
        """Write lines to another stream of the same terminal; the region is drawn again after them."""
        with self.lock:
            self.clear()
            stream.write(lines)
            stream.flush()

    def _unchanged(self, lines: Sequence[Line]) -> int:
        """How many lines from the top can stay; the last one never does, on which the cursor is."""
        if self._console.size != self._size:
            return 0
        pairs = zip(self._lines[:-1], lines[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _erased(self, kept: int = 0) -> Control:
        """Erase all lines but the first `kept`, and go to where the first of them began."""
        width, erased = self._console.width, self._lines[kept:]
        cells = [Segment.get_line_length(list(line)) for line in erased]
        # A terminal that has become narrower has folded the lines, unless it is one that cuts them.
        rows = sum(max(1, -(-size // width)) for size in cells) if _folds() else len(cells)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        return Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up * (rows - 1))


def _folds() -> bool:
    screen = os.environ.get("TERM", "").startswith("screen") and "TMUX" not in os.environ
    return not screen and "XTERM_VERSION" not in os.environ


class AboveRegion:
    """A stream to the terminal of a region, whose lines are written whole and above it."""

    def __init__(self, stream: Any, region: Region) -> None:
        self.stream = stream
        self._region = region
        self._rest = ""

    def write(self, text: str) -> int:
        lines, end, self._rest = (self._rest + text).rpartition("\n")
        if end:
            self._region.write_above(self.stream, lines + end)
        return len(text)

    def close(self) -> None:
        """Write what is no whole line; the region must have been cleared."""
        self.stream.write(self._rest)
        self._rest = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
