"""How often do words of a list stand in a text?

This module does not know where the text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from steer_cli.findings import standard_error

Uses = Sequence[Sequence[int]]  # of each prompt, in each of its samples


def find_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, list[tuple[int, int]]]:
    """Where whole words stand, in any case: for each label [start, end) in characters."""
    return {
        label: [found.span() for found in _pattern(words).finditer(text)] for label, words in lists.items()
    }


def count_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Uses of whole words, in any case, for each label."""
    return {label: len(spans) for label, spans in find_words(text, lists).items()}


def compared(unsteered: Uses, steered: Uses) -> dict[str, float | None]:
    """Mean uses in a completion, by both arms, and how much more steering makes of them.

    Sample i of all prompts and of both arms drew with the same random numbers. So the error is that of
    means over the prompts, from sample to sample, for these very prompts; that of the difference is of pairs.
    With one sample of each, the prompts themselves are taken as the draws.
    """
    before, after = _by_sample(unsteered), _by_sample(steered)
    differences = [late - early for early, late in zip(before, after, strict=True)]
    arms = {"unsteered": before, "steered": after, "difference": differences}
    means = {name: sum(uses) / len(uses) for name, uses in arms.items()}
    return means | {f"{name}_stderr": standard_error(uses) for name, uses in arms.items()}


def _by_sample(uses: Uses) -> list[float]:
    """The mean over prompts for each sample, or the uses themselves where there is but one."""
    columns = list(zip(*uses, strict=True))
    return [sum(column) / len(column) for column in columns] if len(columns) > 1 else list(columns[0])


def _pattern(words: Sequence[str]) -> re.Pattern:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
