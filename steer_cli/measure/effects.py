"""What steering does and what it costs on sentences, in nats per token, with 95 % intervals.

Effect: the mean gain of log probability per token of the toward sentences, less that of the away sentences.
Damage: the mean loss per token of the neutral ones; 0.02 is 2 % of perplexity.
"""

from __future__ import annotations

from steer_cli.measure.bootstrap import Weighted, estimate
from steer_cli.measure.text_arms import ArmChanges
from steer_cli.results import Estimate


def effect(changes: ArmChanges) -> Estimate:
    """The effect of one arm."""
    return estimate(*_signed(changes))


def effect_value(changes: ArmChanges) -> float:
    """The effect alone, for a search that compares many."""
    return sum(weight * draws.mean for weight, draws in _signed(changes))


def effect_beyond(changes: ArmChanges, other: ArmChanges) -> Estimate:
    """By how much an arm's effect exceeds another's, sentence by sentence."""
    return estimate(
        *((sign, changes[name].change.less(other[name].change)) for name, sign in _signs(changes))
    )


def gain(changes: ArmChanges, name: str) -> Estimate:
    """The mean gain per token of one set."""
    return estimate((1.0, changes[name].change))


def gain_beyond_neutral(changes: ArmChanges) -> Estimate:
    """By how much the toward sentences gain more than the neutral ones."""
    return estimate((1.0, changes["toward"].change), (-1.0, changes["neutral"].change))


def damage(changes: ArmChanges) -> Estimate:
    """The damage of one arm."""
    return estimate((-1.0, changes["neutral"].change))


def damage_value(changes: ArmChanges) -> float:
    """The damage alone, for a search that compares many."""
    return 0.0 - changes["neutral"].change.mean


def _signs(changes: ArmChanges) -> list[tuple[str, float]]:
    return [(name, sign) for name, sign in (("toward", 1.0), ("away", -1.0)) if name in changes]


def _signed(changes: ArmChanges) -> list[Weighted]:
    return [(sign, changes[name].change) for name, sign in _signs(changes)]
