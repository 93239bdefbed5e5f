"""The words for where an addition acts, once for the schema, the command line and sweeps."""

from __future__ import annotations

from typing import Literal, get_args

Word = Literal["front", "middle", "back", "every"]
# Where `every` acts: on the prompt but its BOS, on new tokens, on both, or on all of them and BOS too.
Way = Literal["prompt", "new", "both", "all"]

WORDS: tuple[Word, ...] = get_args(Word)
WAYS: tuple[Way, ...] = get_args(Way)
# As the command line writes them.
EVERY = tuple(f"every={way}" for way in WAYS)


def way_in(text: str) -> str | None:
    """What a text such as every=new says of `every`, known or not; None in any other text."""
    word, equals, way = text.partition("=")
    return way if equals and word == "every" else None
