"""Progress and notes of long-running work: plain callables that the caller passes in."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]  # stage, done, total; total is None while unknown
Note = Callable[[str], None]  # one line for the user


def silent(*_: object) -> None:
    """Ignore progress and notes."""
