"""How often do words of a list stand in a text?

This module does not know where the text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def count_words(text: str, lists: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Uses of whole words, in any case, for each label."""
    return {
        label: len(re.findall(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", text, re.IGNORECASE))
        for label, words in lists.items()
    }
