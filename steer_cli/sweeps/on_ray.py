"""Measure the groups of a sweep on the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from steer_cli.events import Note, Progress
from steer_cli.models.hardware import Hardware
from steer_cli.results import SweepPoint
from steer_cli.sweeps.grid import GridPoint
from steer_cli.sweeps.identity import computes_with
from steer_cli.sweeps.plan import SweepPlan
from steer_cli.workers.cluster import joined
from steer_cli.workers.node import NodeModel
from steer_cli.workers.pool import Pool

Group = Sequence[GridPoint]


@dataclass(frozen=True)
class SweepWork:
    """Measuring groups of a plan."""

    plan: SweepPlan
    model: NodeModel

    def start(self) -> Callable[[Group], tuple[list[SweepPoint], list[str]]]:
        """Load the model; return what measures a group, and gives its points and notes."""
        from steer_cli.sweeps.runner import Runner, measure_group

        model = self.model.load()
        notes: list[str] = []
        runner = Runner(model, replace(self.plan, located=model.located), notes.append)

        def measure(group: Group) -> tuple[list[SweepPoint], list[str]]:
            notes.clear()
            return measure_group(runner, group), [*notes]

        return measure


def measured(
    address: str,
    plan: SweepPlan,
    hardware: Hardware,
    groups: Sequence[Group],
    progress: Progress,
    note: Note,
) -> Iterator[list[SweepPoint]]:
    """The points of every group, in the order in which groups are finished.

    Args:
        address: `local`, or that of a running cluster.
        hardware: of each worker; one thread by default, and as many workers as there is room for. All
            compute in the precision that this machine would choose, whatever their nodes have.

    Raises:
        SteerError: no such cluster, or a point cannot be run; all points of the groups before it came first.
    """
    precision, _ = computes_with(plan.located, hardware, elsewhere=True)
    model = NodeModel.of(plan.located, replace(hardware, dtype=precision))
    noted: set[str] = set()
    with joined(address, model.needs, progress) as cluster:
        pool = Pool(cluster, SweepWork(plan, model), len(groups), note)
        for index, group in enumerate(groups):
            pool.submit(index, group)
        for _, (points, notes) in pool.finished():
            for message in notes:
                if message not in noted:
                    noted.add(message)
                    note(message)
            yield points
