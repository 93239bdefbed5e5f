"""What steering costs: how much less likely the unsteered model finds the steered texts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from steer_cli.results.json_values import Record
from steer_cli.results.means import Values, compare_arms

# In nats per token, from the demonstrations in docs/replication.md: up to about 0.8 texts read like the
# model's own, from 1 they stumble, and from 2 they are word salad.
CHEAP, STUMBLES, COSTLY, WORD_SALAD = 0.8, 0.9, 1.0, 2.0
READS_LIKE = (
    (-0.8, "likelier than the model's own; look for repetition"),
    (STUMBLES, "reads like the model's own"),
    (WORD_SALAD, "stumbles"),
    (math.inf, "word salad"),
)


@dataclass(frozen=True)
class Cost:
    """Mean log probabilities per token under the unsteered model, and by how much steering lowers them."""

    unsteered: float
    steered: float
    cost: float
    cost_stderr: float | None

    def record(self) -> Record:
        return asdict(self)


def steering_cost(unsteered: Values, steered: Values) -> Cost:
    """The cost of one arm.

    Args:
        unsteered, steered: each completion's mean log probability per token under the unsteered model.
    """
    means = compare_arms(unsteered, steered)
    # Subtracted from 0.0, so that the cost of no change is 0.0 and not -0.0.
    return Cost(means.unsteered, means.steered, 0.0 - means.difference, means.difference_stderr)


def reads_like(cost: float) -> str:
    """A cost in words."""
    return next(words for limit, words in READS_LIKE if cost < limit)
