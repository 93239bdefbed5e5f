"""What there is to see of a prompt while it is being decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Partial:
    """The first completion of each arm of a prompt, as far as it has been decoded.

    `number` counts the prompts of the run from 0. `columns` holds a text for each arm by its name, as
    `Comparison.columns` does; a character of which some bytes are still to come is left out.
    """

    number: int
    prompt: str
    columns: dict[str, str]


Watch = Callable[[Partial], None]  # told of each change, within the step of decoding that brought it
