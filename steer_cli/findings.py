"""What a measurement yields, as plain values.

This module does not know how they were computed or how they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Values = Sequence[Sequence[float]]  # of each prompt, for each of its samples

# How texts read, by what they cost in nats per token. docs/replication.md found in its demonstrations: up to
# about 0.8 they read like the model's own, from 1 on they stumble, and from 2 on they are word salad.
CHEAP, STUMBLES, COSTLY, WORD_SALAD = 0.8, 0.9, 1.0, 2.0
READS_LIKE = (
    (-0.8, "likelier than the model's own; look for repetition"),
    (STUMBLES, "reads like the model's own"),
    (WORD_SALAD, "stumbles"),
    (math.inf, "word salad"),
)


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


def compared(unsteered: Values, steered: Values) -> dict[str, float | None]:
    """Means over the completions of two arms, their difference, and standard errors.

    Sample i of all prompts and of both arms drew with the same random numbers. So the error is that of
    means over the prompts, from sample to sample, for these very prompts; that of the difference is of pairs.
    With one sample of each, the prompts themselves are taken as the draws.
    """
    before, after = _by_sample(unsteered), _by_sample(steered)
    differences = [late - early for early, late in zip(before, after, strict=True)]
    arms = {"unsteered": before, "steered": after, "difference": differences}
    means = {name: sum(values) / len(values) for name, values in arms.items()}
    return means | {f"{name}_stderr": standard_error(values) for name, values in arms.items()}


def _by_sample(values: Values) -> list[float]:
    """The mean over prompts for each sample, or the values themselves where there is but one."""
    columns = list(zip(*values, strict=True))
    return [sum(column) / len(column) for column in columns] if len(columns) > 1 else list(columns[0])


def cost(unsteered: Values, steered: Values) -> dict[str, float | None]:
    """What steering costs: by how much its completions are less likely to the unsteered model.

    Args:
        unsteered, steered: each completion's mean log probability per token under the unsteered model.
    """
    found = compared(unsteered, steered)
    return {
        "unsteered": found["unsteered"],
        "steered": found["steered"],
        "cost": 0.0 - found["difference"],  # not -0.0
        "cost_stderr": found["difference_stderr"],
    }


def reads_like(cost: float) -> str:
    """A cost in words."""
    return next(words for limit, words in READS_LIKE if cost < limit)


def perplexity_fields(figure: Perplexity) -> dict[str, Any]:
    """The figures of one corpus and label, as a record holds them."""
    left_to_notes = ("left_out", "reason")
    return {name: value for name, value in asdict(figure).items() if name not in left_to_notes}
