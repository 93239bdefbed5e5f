"""Text of any origin -> text that a terminal only shows.

A model may write escape sequences; none of them may reach the screen. This module does not know colours.
"""

from __future__ import annotations

import unicodedata

SPACE, PAD = "·", "␣"


def visible(text: str) -> str:
    """The text with a visible sign for each control character; lines and tabs stay."""
    return "".join(_shown(character) for character in text)


def one_line(text: str) -> str:
    """A text for one line of a terminal, whatever it holds."""
    return visible(" ".join(text.split()))


def _shown(character: str) -> str:
    # The two joiners shape emoji and some scripts.
    if character in "\n\t\u200c\u200d" or character.isprintable():
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    # Private and unassigned characters are harmless; these four classes steer a terminal or break its lines.
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") else character


def cell(piece: str, pad: bool = False) -> str:
    """A token as one word: leading spaces and pads visible, no line breaks."""
    shown = visible(piece).replace("\n", "↵").replace("\t", "⇥").replace(" ", SPACE)
    if pad:
        return PAD if piece == " " else f"{PAD}{shown}"
    return shown or "∅"
