"""The option that chooses the output format, and the one place that prints results in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from steer_cli.report.live import Live
    from steer_cli.report.progress import Display

Jsonl = Annotated[
    bool, typer.Option("--jsonl", "--json", metavar="", help="Print JSON records, one per line.")
]


class Output:
    """Prints results as they come: their records as lines of JSON, or their parts on a screen.

    `display` is cleared before anything is printed. `title` is printed once, at the top of the screen.
    """

    def __init__(
        self, jsonl: bool, display: Display | Live | None = None, title: RenderableType | None = None
    ) -> None:
        from steer_cli.report import terminal

        self._jsonl, self._display, self._title = jsonl, display, title
        self._screen = terminal.console()

    @property
    def width(self) -> int:
        """Columns of the screen."""
        return self._screen.width

    def show(
        self, records: Iterable[dict[str, Any]], parts: Iterable[RenderableType], wrap: bool = True
    ) -> None:
        """Print a result in the format that was chosen: either `records` or `screen` prints it."""
        self.records(records)
        self.screen(parts, wrap)

    def records(self, records: Iterable[dict[str, Any]]) -> None:
        """Print records if the user asked for them, and flush each line."""
        if not self._jsonl:
            return
        from steer_cli.report.jsonl import line

        self._clear()
        for record in records:
            print(line(record), flush=True)

    def screen(self, parts: Iterable[RenderableType], wrap: bool = True) -> None:
        """Print the next parts of the screen, unless the user asked for records.

        Args:
            wrap: False leaves long lines whole, so that they can be pasted into a file.
        """
        if self._jsonl:
            return
        self._clear()
        if self._title is not None:
            self._screen.print(self._title)
            self._title = None
        for part in parts:
            self._screen.print(part, soft_wrap=not wrap)

    def _clear(self) -> None:
        if self._display is not None:
            self._display.clear()
