"""What trials change on the sentences of the evidence, in passes that the trials of a layer share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer_cli.measure.score_plan import lines_of, method_of
from steer_cli.measure.text_arms import ArmChanges, TextArms
from steer_cli.networks.network import Network
from steer_cli.tuning.parts import part_of
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import Asked
from steer_cli.tuning.vectors import PlaceVectors


@dataclass
class OnSentences:
    """Measures trials; going through layers in rising order is cheapest.

    The sentences of one share are held at a time, once for additions at the front, with room for them, and
    once for all others.
    """

    network: Network
    plan: TunePlan
    vectors: PlaceVectors
    _share: float = field(default=0.0, init=False)
    _arms: dict[str, TextArms] = field(default_factory=dict, init=False)

    def changes(self, share: float, asked: Sequence[Asked]) -> list[ArmChanges]:
        """What each trial changes on a share of the sentences."""
        if share != self._share:
            self._share, self._arms = share, {}
        steerings = [self.vectors.steering(place, coefficient) for place, coefficient in asked]
        methods = [method_of(steering.alignments) for steering in steerings]
        found: dict[int, ArmChanges] = {}
        for method in dict.fromkeys(methods):
            numbers = [number for number, other in enumerate(methods) if other == method]
            if method not in self._arms:
                corpora = part_of(self.plan.searched, share).corpora
                lines = lines_of(corpora, steerings[numbers[0]].alignments, self.plan.facts)
                self._arms[method] = TextArms(self.network, self.plan.facts.tokenizer, lines)
            arms = self._arms[method].compare([steerings[number] for number in numbers])
            found |= zip(numbers, arms, strict=True)
        return [found[number] for number in range(len(asked))]
