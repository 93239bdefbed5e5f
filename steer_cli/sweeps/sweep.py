"""Run a sweep: read the points in the store, then compute and store the others."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.events import Note, Progress, silent
from steer_cli.models.hardware import Hardware
from steer_cli.results import Coordinates, SweepPoint
from steer_cli.sweeps.grid import COUNTED_TOGETHER, TOGETHER, GridPoint
from steer_cli.sweeps.identity import computes_with
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
    ray: str | None = None,
) -> Generator[SweepPoint]:
    """The points in the order of the grid; those in the store are not computed again.

    Args:
        source: the model, or the hardware on which to load it once a point has to be computed.
        ray: compute points on the workers of this Ray cluster, `local` for one on this machine; each loads
            the model on the hardware that `source` then is.

    Raises:
        SweepError: the store belongs to another sweep.
        SteerError: a point cannot be run.
    """
    wanted = [plan.coordinates(point) for point in plan.grid]
    with _opened(store, plan, source, elsewhere=ray is not None) as held:
        finished = {point.coordinates: point for point in (held.points if held else ())}
        stored = sum(coordinates in finished for coordinates in wanted)
        if stored:
            note(f"{store}: {stored} of {len(wanted)} points are already there")
        # Closed here, and not when nothing refers to it any more: workers must end before the command does.
        with closing(_missing(plan, source, set(finished), progress, note, ray)) as fresh:
            for done, coordinates in enumerate(wanted):
                progress("sweep", done, len(wanted))
                while coordinates not in finished:
                    group = next(fresh)
                    if held:
                        held.append(group)
                    finished |= {point.coordinates: point for point in group}
                yield finished[coordinates]
            progress("sweep", len(wanted), len(wanted))


def _opened(
    store: Path | None, plan: SweepPlan, source: Model | Hardware, elsewhere: bool
) -> AbstractContextManager[Store[SweepPoint] | None]:
    """The store, if there is one."""
    if store is None:
        return nullcontext()
    subject = plan.subject(*computes_with(plan.located, source, elsewhere))
    return Store(store, subject, partial(point_of, plan=plan))


def stored_points(plan: SweepPlan, store: Path) -> int:
    """How many points of the grid are in the store of an interrupted sweep."""
    with suppress(OSError, ValueError):
        lines = store.read_bytes().split(b"\n")[1:-1]
        stored = {coordinates_of(json.loads(line)) for line in lines}
        return len(stored & {plan.coordinates(point) for point in plan.grid})
    return 0


def _missing(
    plan: SweepPlan,
    source: Model | Hardware,
    finished: set[Coordinates],
    progress: Progress,
    note: Note,
    ray: str | None,
) -> Generator[list[SweepPoint]]:
    """The unfinished points, one group at a time; the model is loaded for the first."""
    together = COUNTED_TOGETHER if "counts" in plan.measures else TOGETHER
    # A group is always computed whole: the last bits of a figure depend on its batch, which must not
    # depend on how often a sweep was interrupted.
    groups = [
        group
        for group in plan.grid.groups(together)
        if not finished.issuperset(plan.coordinates(point) for point in group)
    ]
    if not groups:
        return
    with closing(_measured(plan, source, groups, progress, note, ray)) as measured:
        for points in measured:
            yield [point for point in points if point.coordinates not in finished]


def _measured(
    plan: SweepPlan,
    source: Model | Hardware,
    groups: Sequence[Sequence[GridPoint]],
    progress: Progress,
    note: Note,
    ray: str | None,
) -> Generator[list[SweepPoint]]:
    if ray is not None and isinstance(source, Hardware):
        from steer_cli.sweeps.on_ray import measured

        yield from measured(ray, plan, source, groups, progress, note)
        return
    from steer_cli.models.load import load
    from steer_cli.sweeps.runner import Runner, measure_group

    model = load(plan.located, source, progress) if isinstance(source, Hardware) else source
    runner = Runner(model, plan, note)
    for group in groups:
        yield measure_group(runner, group)
