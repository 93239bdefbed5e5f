"""What a run yields, as plain values: receipts and completions.

This module does not know how they came about or how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from steer_cli.plan import Placement
from steer_cli.recipe import Recipe
from steer_cli.table import TableRow


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
