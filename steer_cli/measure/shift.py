"""How do the steered and unsteered next-token distributions differ, token by token?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steer_cli.results import TokenShift


@dataclass(frozen=True)
class Distributions:
    """Steered and unsteered log probabilities of the next token, both [vocabulary], float64."""

    steered: Tensor
    unsteered: Tensor

    @classmethod
    def from_logits(cls, steered: Tensor, unsteered: Tensor) -> Distributions:
        return cls(steered.double().log_softmax(-1), unsteered.double().log_softmax(-1))

    @property
    def parts(self) -> Tensor:
        """Each token's signed part p ln(p/q) of KL(steered || unsteered), in nats (Turner et al. 2023)."""
        return self.steered.exp() * (self.steered - self.unsteered)


def entropy(logprobs: Tensor) -> float:
    """Entropy, in nats, of a distribution given by its log probabilities."""
    return float(-(logprobs.exp() * logprobs).sum())


def effect_and_damage(both: Distributions, wanted: Sequence[int]) -> tuple[float, float]:
    """How much likelier the wanted tokens became, and how far the other tokens moved relative to each other.

    Effect is ln(steered / unsteered) of the wanted tokens' total probability; damage is KL(steered ||
    unsteered) over all other tokens, with both distributions scaled to sum to 1. Both are in nats.
    """
    inside = torch.zeros(len(both.steered), dtype=torch.bool, device=both.steered.device)
    inside[list(wanted)] = True
    effect = both.steered[inside].logsumexp(0) - both.unsteered[inside].logsumexp(0)
    steered, unsteered = (side[~inside].log_softmax(0) for side in (both.steered, both.unsteered))
    return float(effect), float((steered.exp() * (steered - unsteered)).sum())


def figures(both: Distributions, wanted: Sequence[int]) -> dict[str, Any]:
    """The total KL and both entropies, effect and damage; the last two are None without wanted tokens."""
    effect, damage = effect_and_damage(both, wanted) if wanted else (None, None)
    return {
        "kl": float(both.parts.sum()),
        "entropy_unsteered": entropy(both.unsteered),
        "entropy_steered": entropy(both.steered),
        "effect": effect,
        "damage": damage,
    }


def top(both: Distributions, count: int, piece: Callable[[int], str]) -> tuple[TokenShift, ...]:
    """The union of the `count` likeliest tokens of both arms, likeliest when steered first."""
    count = min(count, len(both.steered))
    ids = {int(id) for side in (both.steered, both.unsteered) for id in side.topk(count).indices}
    parts = both.parts
    # exp(700) is still a finite float; only a broken model gets this far.
    shifts = [
        TokenShift(
            token=piece(id),
            id=id,
            p_unsteered=float(both.unsteered[id].exp()),
            p_steered=float(both.steered[id].exp()),
            ratio=float((both.steered[id] - both.unsteered[id]).clamp(max=700).exp()),
            kl=float(parts[id]),
        )
        for id in ids
    ]
    return tuple(sorted(shifts, key=lambda shift: (-shift.p_steered, shift.id)))
