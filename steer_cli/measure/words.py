"""How often do the words of a list occur in a text?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def find_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[int, int]]]:
    """Find whole words or punctuation, ignoring case: for each label, spans [start, end) in characters."""
    return {
        label: [found.span() for found in _pattern(words).finditer(text)] for label, words in lists.items()
    }


def count_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count whole words or punctuation, ignoring case, for each label."""
    return {label: len(spans) for label, spans in find_words(text, lists).items()}


def _pattern(words: Sequence[str]) -> re.Pattern:
    return re.compile("|".join(map(_whole, words)), re.IGNORECASE)


def _whole(word: str) -> str:
    """A pattern for the word; where it begins or ends with a letter or digit, no other may touch it there."""
    before = r"(?<!\w)" if re.match(r"\w", word) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", word) else ""
    return before + re.escape(word) + after
