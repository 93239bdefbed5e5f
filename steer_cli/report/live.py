"""Completions on a terminal while they are decoded; taken away before the results are printed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType

from steer_cli.report.growing import GrowingColumns
from steer_cli.report.progress import Display
from steer_cli.report.region import AboveRegion, Region
from steer_cli.report.terminal import console
from steer_cli.results import Partial, Watch

INTERVAL = 1 / 15  # seconds between two drawings at least


class Live:
    """A context in which `watch` shows completions as they grow, where standard output is a terminal.

    A thread draws the newest state, soon but not too often, so that decoding need not wait. While there is
    something to see, the progress of decoding stands on its last line and not in `display`.

    Args:
        wanted: False if standard output gets records.
    """

    def __init__(self, display: Display, wanted: bool = True) -> None:
        self._display, self._console = display, console()
        terminal = sys.stdout is not None and sys.stdout.isatty()
        moves = self._console.is_interactive and not self._console.is_dumb_terminal
        self.watch: Watch | None = self._show if wanted and terminal and moves else None
        self.opening: Callable[[], object] = display.clear  # called before something is shown
        self._region, self._columns = Region(self._console), GrowingColumns()
        self._partial: Partial | None = None
        self._state = "decoding"
        self._errors: AboveRegion | None = None
        self._thread: Thread | None = None
        self._changed, self._over = Event(), Event()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._changed.set()
        self.clear()
        if self._thread is not None:
            self._thread.join()
        self._region.clear()

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """The state of a stage; total is None while it is not known."""
        if self.watch is None or stage != "decode":
            self._display.progress(stage, done, total)
            return
        self._state = f"decoding: {done} of {total} completions done"
        self._changed.set()

    def clear(self) -> None:
        """Take away what is shown, so that results can be printed in its place."""
        with self._region.lock:
            self._partial = None
            self._region.clear()
        if self._errors is not None:
            sys.stderr = self._errors.stream
            self._errors.close()
            self._errors = None
        self._display.clear()

    def _show(self, partial: Partial) -> None:
        if self._partial is None:
            self.opening()
            if sys.stderr is not None and sys.stderr.isatty():
                self._errors = AboveRegion(sys.stderr, self._region)
                sys.stderr = self._errors
        self._partial = partial
        self._changed.set()
        if self._thread is None:
            self._thread = Thread(target=self._draw, name="live", daemon=True)
            self._thread.start()

    def _draw(self) -> None:
        with suppress(OSError, ValueError):  # whoever prints the results finds the terminal gone too
            while self._changed.wait() and not self._over.is_set():
                self._changed.clear()
                with self._region.lock:
                    if self._partial is not None:
                        width, height = self._console.size
                        self._region.draw(self._columns.lines(self._partial, self._state, width, height))
                self._over.wait(INTERVAL)
