"""Run a sweep: read the points in the store, then compute and store the others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import VectorError
from steer_cli.events import Note, Progress, silent
from steer_cli.models.hardware import Hardware
from steer_cli.recipe.relative import Relative, strength_of
from steer_cli.results import Coordinates, SweepPoint
from steer_cli.results.json_values import Record
from steer_cli.sweeps.grid import COUNTED_TOGETHER, TOGETHER, GridPoint
from steer_cli.sweeps.plan import SweepPlan
from steer_cli.sweeps.store import Store
from steer_cli.sweeps.stored import coordinates_of, point_of

if TYPE_CHECKING:
    from steer_cli.models.load import Model


def sweep(
    plan: SweepPlan,
    source: Model | Hardware,
    store: Path | None = None,
    progress: Progress = silent,
    note: Note = silent,
) -> Iterator[SweepPoint]:
    """The points in the order of the grid; those in the store are not computed again.

    Args:
        source: the model, or a function that loads it, called when the first point has to be computed.

    Raises:
        SweepError: the store belongs to another sweep.
        SteerError: a point cannot be run.
    """
    wanted = [plan.coordinates(point) for point in plan.grid]
    opened = Store(store, _subject(plan, source), partial(point_of, plan=plan)) if store else nullcontext()
    with opened as held:
        finished = {point.coordinates: point for point in (held.points if held else ())}
        stored = sum(coordinates in finished for coordinates in wanted)
        if stored:
            note(f"{store}: {stored} of {len(wanted)} points are already there")
        fresh = _missing(plan, source, set(finished), progress, note)
        for done, coordinates in enumerate(wanted):
            progress("sweep", done, len(wanted))
            while coordinates not in finished:
                group = next(fresh)
                if held:
                    held.append(group)
                finished |= {point.coordinates: point for point in group}
            yield finished[coordinates]
        progress("sweep", len(wanted), len(wanted))


def _subject(plan: SweepPlan, source: Model | Hardware) -> Record:
    if isinstance(source, Hardware):
        from steer_cli.models.load import resolved

        return plan.subject(*resolved(plan.located, source))
    network = source.network
    return plan.subject(str(network.dtype).removeprefix("torch."), network.device.type)


def stored_points(plan: SweepPlan, store: Path) -> int:
    """How many points of the grid are in the store of an interrupted sweep."""
    with suppress(OSError, ValueError):
        lines = store.read_bytes().split(b"\n")[1:-1]
        stored = {coordinates_of(json.loads(line)) for line in lines}
        return len(stored & {plan.coordinates(point) for point in plan.grid})
    return 0


def _missing(
    plan: SweepPlan, source: Model | Hardware, finished: set[Coordinates], progress: Progress, note: Note
) -> Iterator[list[SweepPoint]]:
    """The unfinished points, computed one group at a time; the model is loaded for the first."""
    from steer_cli.models.load import load
    from steer_cli.sweeps.runner import Runner

    model = load(plan.located, source, progress) if isinstance(source, Hardware) else source
    runner = Runner(model, plan, note)
    together = COUNTED_TOGETHER if "counts" in plan.measures else TOGETHER
    for group in plan.grid.groups(together):
        if all(plan.coordinates(point) in finished for point in group):
            continue
        # A group is always computed whole: the last bits of a figure depend on its batch, which must not
        # depend on how often a sweep was interrupted.
        try:
            points = runner.measure(group)
        except VectorError as error:
            raise VectorError(f"{_named(group)}: {error}") from None
        yield [point for point in points if point.coordinates not in finished]


def _named(group: Sequence[GridPoint]) -> str:
    """Describe a group's place in the grid, for errors."""
    coefficients = [point.coefficient for point in group if point.coefficient is not None]
    kind = "relative" if any(isinstance(value, Relative) for value in coefficients) else "coefficients"
    values = ", ".join(f"{value:g}" for value in sorted({*map(strength_of, coefficients)}))
    among = f", {kind} {values}" if values else ""
    return f"layer {group[0].layer}{among}"
