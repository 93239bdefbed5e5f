"""Values, paths and numbers of things as short single lines, for messages."""

from __future__ import annotations

import reprlib
from typing import Any

Path = tuple[str | int, ...]


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # more digits than Python prints, as `!!int 0xff...` may have
            return f"a number of {x.bit_length()} bits"


def show(value: Any, most: int = 60) -> str:
    """A value as one short line; of a text, `most` characters."""
    short = _Short()
    short.maxstring = short.maxother = most
    shown = short.repr(value)
    # A tensor, for example, is written on many lines; a text has no line break in its repr.
    return _shortened(shown if shown.isprintable() else " ".join(shown.split()))


def dotted(path: Path) -> str:
    """A path such as `additions.0.plus`, on one line whatever its keys contain."""
    steps = (str(step) if str(step).isprintable() else repr(step) for step in path)
    return ".".join(_shortened(step) for step in steps)


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(count: int, noun: str) -> str:
    """A number of things: 1 text, 2 texts."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
