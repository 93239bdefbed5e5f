"""What trials change on the sentences of the evidence, in passes that the trials of a layer share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from steer_cli.measure.evidence import Evidence
from steer_cli.measure.score_plan import lines_of, measurable, method_of
from steer_cli.measure.text_arms import ArmChanges, TextArms
from steer_cli.networks.network import Network
from steer_cli.results import Place, Position
from steer_cli.tuning.parts import digests_of, part_of
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import Asked
from steer_cli.tuning.vectors import PlaceVectors


@dataclass
class OnSentences:
    """Measures trials; going through layers in rising order is cheapest.

    The sentences of one share are held at a time, once for additions at the front, with room for them, and
    once for all others that can be measured on the same sentences.
    """

    network: Network
    plan: TunePlan
    vectors: PlaceVectors
    _measurable: dict[Position, Evidence] = field(default_factory=dict, init=False)
    _share: float = field(default=0.0, init=False)
    _parts: dict[Position, Evidence] = field(default_factory=dict, init=False)  # of that share
    _arms: dict[tuple[str, ...], TextArms] = field(default_factory=dict, init=False)

    def changes(self, share: float, asked: Sequence[Asked]) -> list[ArmChanges]:
        """What each trial changes on a share of the sentences."""
        if share != self._share:
            self._share, self._parts, self._arms = share, {}, {}
        steerings = [self.vectors.steering(place, coefficient) for place, coefficient in asked]
        parts = [self._part(place) for place, _ in asked]
        keys = [
            (method_of(steering.alignments), *digests_of(part))
            for steering, part in zip(steerings, parts, strict=True)
        ]
        found: dict[int, ArmChanges] = {}
        for key in dict.fromkeys(keys):
            numbers = [number for number, other in enumerate(keys) if other == key]
            if key not in self._arms:
                first = numbers[0]
                lines = lines_of(parts[first].corpora, steerings[first].alignments, self.plan.facts)
                self._arms[key] = TextArms(self.network, self.plan.facts.tokenizer, lines)
            arms = self._arms[key].compare([steerings[number] for number in numbers])
            found |= zip(numbers, arms, strict=True)
        return [found[number] for number in range(len(asked))]

    def _part(self, place: Place) -> Evidence:
        """The share of the sentences that can be measured at a position."""
        position = place.position
        if position not in self._measurable:
            alignments = self.plan.places[place]
            self._measurable[position] = measurable(self.plan.searched, alignments, self.plan.facts)
        if position not in self._parts:
            self._parts[position] = part_of(self._measurable[position], self._share)
        return self._parts[position]
