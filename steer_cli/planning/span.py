"""The span that a position names on a prompt, and how a recipe writes the position."""

from __future__ import annotations

from steer_cli.recipe.position_words import Word
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import At, AtToken, Every


def span(position: Word | At | Every, length: int, prompt_length: int, first: int = 1) -> tuple[int, int]:
    """The span of a vector of `length` positions on a prompt of `prompt_length`, both with BOS.

    The span may exceed the prompt; `first` is the first position where `every` acts, unless it acts on all.
    """
    if position == "every":
        return first, prompt_length
    if isinstance(position, Every):
        starts = {"prompt": first, "both": first, "all": 0, "new": prompt_length}
        return starts[position.every], prompt_length
    if isinstance(position, At):
        start = position.at
    elif position == "front":
        start = 0
    elif position == "middle":
        start = prompt_length // 2 - length // 2
    elif position == "back":
        start = prompt_length - length
    else:
        raise TypeError(f"no span for the position {position!r}")
    return start, start + length


def name_of(position: Word | At | AtToken | Every) -> str:
    """A position as a recipe has it: front, {at: 3}."""
    if isinstance(position, str):
        return position
    [(key, value)] = position
    return f"{{{key}: {show(value) if key == 'token' else value}}}"
