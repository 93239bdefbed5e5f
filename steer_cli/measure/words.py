"""How often do the words of a list occur in a text?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def find_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[int, int]]]:
    """Find whole words, ignoring case: for each label, their spans [start, end) in characters."""
    return {
        label: [found.span() for found in _pattern(words).finditer(text)] for label, words in lists.items()
    }


def count_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count whole words, ignoring case, for each label."""
    return {label: len(spans) for label, spans in find_words(text, lists).items()}


def _pattern(words: Sequence[str]) -> re.Pattern:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
