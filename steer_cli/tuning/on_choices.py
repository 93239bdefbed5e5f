"""How much likelier trials make the matching answers of choices: the change of log-odds, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from steer_cli.activations.arms import Steering
from steer_cli.measure.bootstrap import Draws
from steer_cli.measure.choices import log_odds
from steer_cli.measure.evidence import Choice
from steer_cli.measure.score_plan import ChoicePlan, plan_choices
from steer_cli.networks.network import Network
from steer_cli.results import Position
from steer_cli.tuning.parts import part_of
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import Asked
from steer_cli.tuning.vectors import PlaceVectors


@dataclass
class OnChoices:
    """Measures trials on a share of the items; what the unsteered model answers is computed once."""

    network: Network
    plan: TunePlan
    vectors: PlaceVectors
    _plans: dict[tuple[float, Position], ChoicePlan] = field(default_factory=dict, init=False)
    _unsteered: dict[tuple[float, Position], np.ndarray] = field(default_factory=dict, init=False)

    def effects(self, share: float, asked: Sequence[Asked]) -> list[Draws]:
        """The change of each item's log-odds under each trial."""
        found: dict[int, Draws] = {}
        for position in dict.fromkeys(place.position for place, _ in asked):
            numbers = [number for number, (place, _) in enumerate(asked) if place.position == position]
            arms = [self.vectors.steering(*asked[number]) for number in numbers]
            key = (share, position)
            if key not in self._plans:
                recipe = self.plan.recipe_at(*asked[numbers[0]])
                self._plans[key] = plan_choices(recipe, self.plan.facts, self._items(share))
                # Without additions, also without those that the search does not move.
                nothing = Steering((), ())
                [self._unsteered[key]] = log_odds(self.network, self._plans[key], [nothing])
            odds = log_odds(self.network, self._plans[key], arms)
            found |= zip(numbers, map(Draws.of, odds - self._unsteered[key]), strict=True)
        return [found[number] for number in range(len(asked))]

    def _items(self, share: float) -> tuple[Choice, ...]:
        choices = part_of(self.plan.searched, share).choices
        assert choices is not None
        return choices.items
