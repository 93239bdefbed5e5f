"""Progress and notes of long work, as plain callables that the caller hands in."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]  # stage, done, total; total is None while it is not known
Note = Callable[[str], None]  # one line for a person


def silent(*_: object) -> None:
    """Takes progress or a note, and says nothing."""
