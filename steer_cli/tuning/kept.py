"""Trials that a store keeps: those already measured are read from it, the others are added to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steer_cli.results import Figures, Place, Trial
from steer_cli.results.json_values import Record
from steer_cli.sweeps.store import Store
from steer_cli.tuning.search import Asked, Measure


@dataclass
class Kept:
    """A measure with memory.

    Trials that are asked for together are measured together or not at all: the last bits of a figure depend
    on what else is in its passes, and may not depend on how often a search was interrupted.
    """

    measure: Measure
    store: Store[Trial] | None
    read: int = 0  # trials that were in the store

    def __call__(self, share: float, asked: Sequence[Asked]) -> list[Figures]:
        """See `search.Measure`."""
        if self.store is None:
            return self.measure(share, asked)
        known = {trial.coordinates: trial.figures for trial in self.store.points}
        wanted = [(share, place, coefficient) for place, coefficient in asked]
        if all(one in known for one in wanted):
            self.read += len(wanted)
            return [known[one] for one in wanted]
        found = self.measure(share, asked)
        trials = [
            Trial(place, value, figures, share) for (place, value), figures in zip(asked, found, strict=True)
        ]
        self.store.append([trial for trial in trials if trial.coordinates not in known])
        return found


def trial_of(record: Record) -> Trial:
    """A trial from the store's record.

    Raises:
        ValueError: a key is missing or has a value that no trial has; the message says which.
    """
    values: dict[str, Any] = {}
    for key in (
        "share",
        "layer",
        "position",
        "coefficient",
        "effect",
        "damage",
        "effect_stderr",
        "damage_stderr",
    ):
        if key not in record:
            raise ValueError(f"{key} is missing")
        values[key] = record[key]
        if not _valid(key, values[key]):
            raise ValueError(f"{key} is {values[key]!r:.60}")
    place = Place(values["layer"], values["position"])
    figures = Figures(*(values[key] for key in ("effect", "damage", "effect_stderr", "damage_stderr")))
    return Trial(place, values["coefficient"], figures, values["share"])


def _valid(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return False
    if key == "layer":
        return isinstance(value, int)
    if key == "position":
        return isinstance(value, str | int)
    if key.endswith("stderr") and value is None:
        return True
    return isinstance(value, int | float) and abs(value) < math.inf
