"""How often do words of a list stand in a text?

This module does not know where the text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def find_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[int, int]]]:
    """Where whole words stand, in any case: for each label [start, end) in characters."""
    return {
        label: [found.span() for found in _pattern(words).finditer(text)] for label, words in lists.items()
    }


def count_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Uses of whole words, in any case, for each label."""
    return {label: len(spans) for label, spans in find_words(text, lists).items()}


def _pattern(words: Sequence[str]) -> re.Pattern:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
