"""Show progress and notes on standard error; bars only if it is a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from steer_cli.report.printable import visible

STAGES = {
    "fetch": "fetching the model",
    "convert": "converting the model, once",
    "bake": "writing the checkpoint",
    "load": "loading the model",
    "read texts": "reading the texts",
    "decode": "decoding",
    "sweep": "sweeping",
    "tune": "searching",
    "score": "scoring sentences",
}

Shown = TypeVar("Shown", bound="Display")


class Display:
    """A context that shows one stage at a time and leaves nothing behind on the screen."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar: Progress | None = None
        self._stage = ""

    def __enter__(self: Shown) -> Shown:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def note(self, text: str) -> None:
        """Print one line for the user."""
        self._console.print(visible(text), style="dim", soft_wrap=True)

    def clear(self) -> None:
        """Take the bar away until more progress is made, so that results can be printed where it was."""
        # On a terminal that cannot move its cursor, every stop prints a line.
        if self._bar is not None and self._bar.live.is_started:
            self._bar.stop()

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Show the progress of a stage; total is None while unknown."""
        if not self._console.is_terminal:
            return
        if self._bar is None or stage != self._stage:
            self.clear()
            amount = DownloadColumn() if stage == "fetch" else TimeRemainingColumn(compact=True)
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), amount)
            # Rich redirects what is printed meanwhile to the bar's stream: records would miss their file.
            self._bar = Progress(*columns, console=self._console, transient=True, redirect_stdout=False)
            self._stage = stage
            self._bar.add_task(STAGES.get(stage, stage), total=total)
        self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        if total is not None and done >= total:
            self.clear()
            self._bar = None
