"""How much likelier does steering make one answer than the other, the more strongly it acts?

Of each item, the log-odds are the log probability of the matching answer after the prompt less that of the
other one, each summed over the answer's tokens. The slope of an item is that of the least-squares line
through its log-odds at some multiples of the coefficient (Tan et al. 2024, "Analyzing the Generalization and
Reliability of Steering Vectors"); where it is negative, steering works against itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from steer_cli.activations.arms import UNSTEERED, Arm, Steering
from steer_cli.activations.relative import stream_lengths
from steer_cli.measure.score_plan import ChoicePlan
from steer_cli.measure.scoring import Run, Texts, logprobs, texts_at
from steer_cli.networks.network import Network
from steer_cli.planning.placement import Placement, check_length
from steer_cli.recipe.scaling import scaled

MULTIPLIERS = (0.0, 0.5, 1.0, 1.5)


def log_odds(network: Network, plan: ChoicePlan, arms: Sequence[Steering]) -> np.ndarray:
    """Log-odds of each item under each arm: [arms, items], float64. An arm that adds nothing is unsteered.

    Raises:
        VectorError: an arm changes nothing, or log probabilities are no longer finite.
    """
    prompts = plan.plan.prompts
    relative = frozenset[int]().union(*(arm.relative_layers for arm in arms))
    lengths = stream_lengths(network, [prompt.ids for prompt in prompts], relative)

    def arm_on(arm: Steering, item: int, length: int) -> Arm:
        if arm.adds_nothing:
            return UNSTEERED
        prompt = prompts[item]
        measured = arm.on([*_of(arm, prompt.placements)], lengths[item])
        return Arm(tuple(_through(placement, length) for placement in measured.placements), measured.vectors)

    rows = [prompt.ids for prompt in prompts]
    return _log_odds(network, rows, plan.answers, arms, arm_on)


def log_odds_after(network: Network, plan: ChoicePlan, rows: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Log-odds of each item, unsteered, after other prompts: [items].

    Args:
        rows: each prompt as tokens.
    """
    for row, prompt, both in zip(rows, plan.plan.prompts, plan.answers, strict=True):
        facts = plan.plan.facts
        check_length(row, prompt.text, max(map(len, both)), facts.context, facts.limited)
    return _log_odds(network, rows, plan.answers, [None], lambda *_: UNSTEERED)[0]


def _of(arm: Steering, placements: Sequence[Placement]) -> Iterator[Placement]:
    """The placements with the arm's own coefficients."""
    for alignment, placement in zip(arm.alignments, placements, strict=True):
        yield replace(placement, alignment=alignment)


def _through(placement: Placement, length: int) -> Placement:
    """The placement on a prompt and its answer, on whose tokens it acts if it acts on new ones."""
    return replace(placement, end=length) if placement.on_new_tokens else placement


def _log_odds(network: Network, rows, answers, arms, arm_on) -> np.ndarray:
    # Longest first, as `Texts` wants them.
    whole = [
        (row + ids, item, sign)
        for item, (row, both) in enumerate(zip(rows, answers, strict=True))
        for sign, ids in zip((1, -1), both, strict=True)
    ]
    whole.sort(key=lambda text: -len(text[0]))
    texts = Texts(tuple(ids for ids, _, _ in whole))
    acting = [arm.layer for arm in arms if arm is not None and not arm.adds_nothing]
    texts = texts_at(network, texts, min(acting, default=0))

    def runs_of(text: int) -> Iterator[Run]:
        ids, item, _ = whole[text]
        kept = range(len(rows[item]) - 1, len(ids) - 1)
        for number, arm in enumerate(arms):
            yield Run(text, kept, arm_on(arm, item, len(ids)), number)

    found = np.zeros((len(arms), len(rows)))
    for run, values in logprobs(network, texts, runs_of):
        _, item, sign = whole[run.text]
        found[run.arm_number, item] += sign * float(values.sum())
    return found


def multiples(steering: Steering, multipliers: Sequence[float] = MULTIPLIERS) -> list[Steering]:
    """The steering with all coefficients multiplied, as a second recipe would have them."""
    return [
        replace(
            steering,
            alignments=tuple(
                replace(alignment, addition=scaled(alignment.addition, multiplier))
                for alignment in steering.alignments
            ),
        )
        for multiplier in multipliers
    ]


def slopes(odds: np.ndarray, multipliers: Sequence[float] = MULTIPLIERS) -> np.ndarray:
    """The least-squares slope of each item, [items], from [multipliers, items]."""
    off = np.array(multipliers) - np.mean(multipliers)
    return off @ odds / (off @ off)
