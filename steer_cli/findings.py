"""What a measurement yields, as plain values.

This module does not know how they were computed or how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TokenShift:
    """One next token: probabilities, their ratio, and its signed part p ln(p/q) of the KL in nats."""

    token: str
    id: int
    p_unsteered: float
    p_steered: float
    ratio: float
    kl: float


@dataclass(frozen=True)
class Shift:
    """The next-token distributions from a position of a prompt; KL(steered || unsteered), entropies in nats.

    `effect` and `damage` are None where no wanted words were given.
    """

    recipe: str
    model: str
    prompt: str
    pieces: tuple[str, ...]  # of the prompt, up to the position
    position: int
    kl: float
    entropy_unsteered: float
    entropy_steered: float
    effect: float | None
    damage: float | None
    tokens: tuple[TokenShift, ...]  # the union of both top k, the likeliest when steered first


@dataclass(frozen=True)
class Norms:
    """Norms of one addition's unscaled vector and of the prompt's stream, for each position of its span."""

    recipe: str
    model: str
    prompt: str
    addition: int
    label: str
    layer: int
    start: int
    tokens: tuple[str, ...]
    vector: tuple[float, ...]
    stream: tuple[float, ...]
    ratio: tuple[float, ...]
    centred: bool


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of one label of a corpus; `ratio` is steered over unsteered, `stderr` that of the ratio.

    `stderr` is None where there is one sentence only. `tokens` counts the predictions compared; `left_out`
    the sentences without any, for `reason` or, where that is None, because they are too short.
    """

    corpus: str
    label: str | None
    method: str
    perplexity_unsteered: float
    perplexity_steered: float
    ratio: float
    stderr: float | None
    sentences: int
    tokens: int
    left_out: int = 0
    reason: str | None = None


@dataclass(frozen=True)
class SentenceChange:
    """One sentence of a corpus; a change is None where a prediction was left out."""

    corpus: str
    label: str | None
    pieces: tuple[str, ...]
    changes: tuple[float | None, ...]  # log p(steered) - log p(unsteered) of each token, in nats


def figure_name(corpus: str, label: str | None) -> str:
    """How a wish, a table and a plot name the figure of a corpus, or of one of its labels."""
    return corpus if label is None else f"{corpus}/{label}"


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of independent draws; None where there is one draw only."""
    size = len(values)
    if size < 2:
        return None
    mean = sum(values) / size
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (size * (size - 1)))


def perplexity_fields(figure: Perplexity) -> dict[str, Any]:
    """The figures of one corpus and label, as a record holds them."""
    left_to_notes = ("left_out", "reason")
    return {name: value for name, value in asdict(figure).items() if name not in left_to_notes}
