"""The screen, and the plain lists on it. Text on it is never read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from steer_cli.report.printable import visible


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with code 1, but a reader that stops early is not an error.
        raise BrokenPipeError


def console() -> Console:
    """Standard output, with markup disabled."""
    return _Screen(highlight=False, markup=False, emoji=False)


def listing(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    """A plain text table, for the lists of recipes and models."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(visible(row[name]) for name in names))
    return table
