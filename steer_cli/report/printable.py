"""Make any text safe to print, removing escape sequences, which a model may write."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

SPACE, PAD = "·", "␣"
LONGEST_ERROR = 500  # characters: a few lines of a terminal
# Unicode categories that control terminals or break lines; private and unassigned characters are harmless.
CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str) -> str:
    """The text with a visible sign for each control character except line breaks and tabs."""
    return "".join(_shown(character) for character in text)


def one_line(text: str) -> str:
    """Any text as one line for a terminal."""
    return visible(" ".join(text.split()))


def error_line(text: str) -> str:
    """An error as one line that fits a screen, keeping the place at its start and the remedy at its end."""
    line, half = one_line(text), LONGEST_ERROR // 2
    return line if len(line) <= LONGEST_ERROR else f"{line[: half - 3]} … {line[-half:]}"


def _shown(character: str) -> str:
    # The two joiners shape emoji and some scripts.
    if character in "\n\t\u200c\u200d" or character.isprintable():
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "\ufffd" if unicodedata.category(character) in CONTROLS else character


@lru_cache(10_000)
def cell(piece: str, pad: bool = False) -> str:
    """A token as one word: leading spaces and pads visible, no line breaks."""
    shown = visible(piece).replace("\n", "↵").replace("\t", "⇥").replace(" ", SPACE)
    if pad:
        return PAD if piece == " " else f"{PAD}{shown}"
    return shown or "∅"
