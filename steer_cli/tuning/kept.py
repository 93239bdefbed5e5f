"""Trials that a store keeps: those already measured are read from it, the others are added to it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from steer_cli.results import OVERFLOWN, Figures, Place, Trial
from steer_cli.results.json_values import Record
from steer_cli.sweeps.store import Store
from steer_cli.tuning.search import Asked, Measure, Request


@dataclass
class Kept:
    """What a store knows of trials, and may be told; without a store, nothing.

    Trials that are asked for together are measured together or not at all: the last bits of a figure depend
    on what else is in its passes, and may not depend on how often a search was interrupted.
    """

    store: Store[Trial] | None

    def measuring(self, measure: Measure) -> Measure:
        """A measure that reads what is known, and keeps what it measures."""

        def remembered(share: float, asked: Sequence[Asked]) -> list[Figures]:
            request = Request(share, tuple(asked))
            found = self.known(request)
            if found is None:
                found = measure(share, asked)
                self.keep(request, found)
            return found

        return remembered

    def known(self, request: Request) -> list[Figures] | None:
        """The figures of all trials of a request; None if any of them has to be measured."""
        figures = self._figures()
        wanted = [(request.share, place, coefficient) for place, coefficient in request.asked]
        if not all(trial in figures for trial in wanted):
            return None
        return [figures[trial] for trial in wanted]

    def keep(self, request: Request, found: Sequence[Figures]) -> None:
        """Store the figures of a request."""
        if self.store is None:
            return
        trials = [
            Trial(place, coefficient, figures, request.share)
            for (place, coefficient), figures in zip(request.asked, found, strict=True)
        ]
        before = self._figures()
        self.store.append([trial for trial in trials if trial.coordinates not in before])

    def _figures(self) -> dict[Hashable, Figures]:
        points = self.store.points if self.store else ()
        return {trial.coordinates: trial.figures for trial in points}


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
    return Trial(place, values["coefficient"], _figures_of(values), values["share"])


def _figures_of(values: dict[str, Any]) -> Figures:
    measured = [values[key] for key in ("effect", "damage", "effect_stderr", "damage_stderr")]
    if measured == [None] * 4:
        return OVERFLOWN
    for key in ("effect", "damage"):
        if values[key] is None:
            raise ValueError(f"{key} is null, but not all figures are")
    return Figures(*measured)


def _valid(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return False
    if key == "layer":
        return isinstance(value, int)
    if key == "position":
        return isinstance(value, str | int)
    if value is None:
        # Logits that are not finite have no figures at all.
        return key.removesuffix("_stderr") in ("effect", "damage")
    return isinstance(value, int | float) and abs(value) < math.inf
