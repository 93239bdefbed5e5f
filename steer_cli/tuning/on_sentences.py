"""The figures of trials on the sentences of the evidence, in passes that the trials of a layer share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from steer_cli.activations.arms import Steering
from steer_cli.measure.bootstrap import Draws
from steer_cli.measure.effects import damage_value, effect_value
from steer_cli.measure.evidence import Evidence
from steer_cli.measure.text_arms import ArmChanges, TextArms, lines_of, method_of
from steer_cli.networks.network import Network
from steer_cli.results import Figures, Place
from steer_cli.tuning.plan import TunePlan, share_of
from steer_cli.tuning.search import Asked


@dataclass
class OnSentences:
    """Measures trials; going through layers in rising order is cheapest.

    The sentences of one share are held at a time, once for additions at the front, with room for them, and
    once for all others.
    """

    network: Network
    plan: TunePlan
    vectors: dict[Place, tuple[Tensor, ...]]
    evidence: Evidence
    _share: float = field(default=0.0, init=False)
    _arms: dict[str, TextArms] = field(default_factory=dict, init=False)

    def changes(self, share: float, asked: Sequence[Asked]) -> list[ArmChanges]:
        """What each trial changes on a share of the sentences."""
        if share != self._share:
            self._share, self._arms = share, {}
        steerings = [self.steering(place, coefficient) for place, coefficient in asked]
        methods = [method_of(steering.alignments) for steering in steerings]
        found: dict[int, ArmChanges] = {}
        for method in dict.fromkeys(methods):
            numbers = [number for number, other in enumerate(methods) if other == method]
            arms = self._texts(method, steerings[numbers[0]])
            found |= zip(numbers, arms.compare([steerings[number] for number in numbers]), strict=True)
        return [found[number] for number in range(len(asked))]

    def __call__(self, share: float, asked: Sequence[Asked]) -> list[Figures]:
        """See `search.Measure`."""
        return [figures(changes) for changes in self.changes(share, asked)]

    def steering(self, place: Place, coefficient: float) -> Steering:
        """The additions of a trial with their vectors."""
        return Steering(self.plan.alignments(place, coefficient), self.vectors[place])

    def _texts(self, method: str, steering: Steering) -> TextArms:
        if method not in self._arms:
            corpora = share_of(self.evidence, self._share).corpora
            lines = lines_of(corpora, steering.alignments, self.plan.facts)
            self._arms[method] = TextArms(self.network, self.plan.facts.tokenizer, lines)
        return self._arms[method]


def figures(changes: ArmChanges) -> Figures:
    """Effect and damage of an arm, with the standard errors of their means per token."""
    toward = [changes[name].change for name in ("toward", "away") if name in changes]
    neutral = changes["neutral"].change
    return Figures(effect_value(changes), damage_value(changes), _error(*toward), _error(neutral))


def _error(*sets: Draws) -> float:
    """Standard error of a sum or difference of means, each a ratio of two sums over sentences, linearised."""
    variance = 0.0
    for draws in sets:
        size, off = len(draws.sums), draws.sums - draws.mean * draws.counts
        variance += size / (size - 1) * float(np.square(off).sum()) / float(draws.counts.sum()) ** 2
    return math.sqrt(variance)
