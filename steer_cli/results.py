"""What a run yields, as plain frozen values: receipts and completions, and what the measurements find."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from steer_cli.planning.alignment_table import TableRow
from steer_cli.planning.placement import Placement
from steer_cli.recipe.schema import Recipe

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
class Receipt:
    """One placement as it happened: a value for each position of [start, end).

    `vector` is the norm of the unscaled vector, `stream` that of the stream it met, `ratio` their
    quotient, `cosine` that of the angle between them.
    """

    placement: Placement
    vector: tuple[float, ...]
    stream: tuple[float, ...]
    ratio: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True)
class Sum:
    """What was in fact added where additions of a layer meet: a value for each position of [start, end).

    `sum` is the norm of the stream after less the stream before, in the stream's dtype, coefficients and all;
    `stream`, `ratio` and `cosine` are as in a receipt.
    """

    layer: int
    start: int
    end: int
    sum: tuple[float, ...]
    stream: tuple[float, ...]
    ratio: tuple[float, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True)
class Completion:
    """One text that follows the prompt.

    `counted`: for each label of the recipe's word lists, where its words stand, [start, end) in the text.
    `mean_logprob` is in nats a token, under the unsteered model for both arms; None where not asked for.
    """

    text: str
    tokens: tuple[int, ...]
    finish: str  # eos or length
    counted: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    mean_logprob: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Uses of each label's words."""
        return {label: len(spans) for label, spans in self.counted.items()}


@dataclass(frozen=True)
class Outcome:
    """All completions of one prompt; sample i of all arms drew with the same random numbers."""

    recipe: Recipe
    model: str
    prompt: str
    pieces: tuple[str, ...]  # of the prompt, a text for each token
    table: tuple[TableRow, ...]
    receipts: tuple[Receipt, ...]
    unsteered: tuple[Completion, ...]
    steered: tuple[Completion, ...]
    control: tuple[Completion, ...] = ()
    control_kind: str | None = None  # random, embedding, prompt or shuffled
    sums: tuple[Sum, ...] = ()

    @property
    def columns(self) -> dict[str, tuple[Completion, ...]]:
        """The arms by name, in the order in which they are shown."""
        arms = {"unsteered": self.unsteered, "steered": self.steered}
        return arms | ({f"control: {self.control_kind}": self.control} if self.control_kind else {})


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
class CorpusResult:
    """What `perplexity` found: figures in the order of the corpora, and each sentence's changes."""

    model: str
    figures: tuple[Perplexity, ...]
    sentences: tuple[SentenceChange, ...]


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
