"""How often do words of a list stand in a text?

This module does not know where the text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from steer_cli.findings import standard_error


def find_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[int, int]]]:
    """Where whole words stand, in any case: for each label [start, end) in characters."""
    return {
        label: [found.span() for found in _pattern(words).finditer(text)] for label, words in lists.items()
    }


def count_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Uses of whole words, in any case, for each label."""
    return {label: len(spans) for label, spans in find_words(text, lists).items()}


def compared(unsteered: Sequence[int], steered: Sequence[int]) -> dict[str, float | None]:
    """Mean uses in a completion, by both arms, and how much more steering makes of them.

    Sample i of both arms drew with the same random numbers, so the error of the difference is that of pairs.
    """
    differences = [after - before for before, after in zip(unsteered, steered, strict=True)]
    arms = {"unsteered": unsteered, "steered": steered, "difference": differences}
    means = {name: sum(uses) / len(uses) for name, uses in arms.items()}
    return means | {f"{name}_stderr": standard_error(uses) for name, uses in arms.items()}


def _pattern(words: Sequence[str]) -> re.Pattern:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
