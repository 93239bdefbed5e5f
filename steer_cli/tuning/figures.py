"""The figures of trials: the effect that the evidence asks for, and the damage to neutral sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from steer_cli.errors import NotFiniteError
from steer_cli.measure.bootstrap import Draws
from steer_cli.measure.effects import damage_value, effect_value
from steer_cli.networks.network import Network
from steer_cli.results import OVERFLOWN, Figures
from steer_cli.tuning.on_choices import OnChoices
from steer_cli.tuning.on_completions import OnCompletions
from steer_cli.tuning.on_sentences import OnSentences
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import Asked
from steer_cli.tuning.vectors import PlaceVectors


@dataclass
class Figuring:
    """Measures trials for a search; see `search.Measure`."""

    network: Network
    plan: TunePlan
    vectors: PlaceVectors
    _sentences: OnSentences = field(init=False)
    _others: OnChoices | OnCompletions | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        held = self.network, self.plan, self.vectors
        self._sentences = OnSentences(*held)
        if self.plan.searched.choices is not None:
            self._others = OnChoices(*held)
        elif self.plan.searched.count is not None:
            self._others = OnCompletions(*held)

    def __call__(self, share: float, asked: Sequence[Asked]) -> list[Figures]:
        """Effect and damage of each trial.

        Raises:
            VectorError: a trial changes nothing, or the unsteered model's logits are not finite.
        """
        try:
            return self._together(share, asked)
        except NotFiniteError:
            if len(asked) == 1:
                return [OVERFLOWN]
        # Passes are shared, so that one trial with too large a coefficient stops the others.
        return [found for trial in asked for found in self(share, [trial])]

    def _together(self, share: float, asked: Sequence[Asked]) -> list[Figures]:
        changes = self._sentences.changes(share, asked)
        others = self._others.effects(share, asked) if self._others else [None] * len(asked)
        found = []
        for arm, other in zip(changes, others, strict=True):
            sets = [arm[name].change for name in ("toward", "away") if name in arm]
            effect, error = (
                (effect_value(arm), _error(*sets)) if other is None else (other.mean, _error(other))
            )
            found.append(Figures(effect, damage_value(arm), error, _error(arm["neutral"].change)))
        return found


def _error(*sets: Draws) -> float:
    """Standard error of a sum or difference of means, each a ratio of two sums over draws, linearised."""
    variance = 0.0
    for draws in sets:
        size, off = len(draws.sums), draws.sums - draws.mean * draws.counts
        variance += size / (size - 1) * float(np.square(off).sum()) / float(draws.counts.sum()) ** 2
    return math.sqrt(variance)
