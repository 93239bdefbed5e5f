"""Measure the groups of a sweep on the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from steer_cli.errors import SweepError
from steer_cli.events import Note, Progress
from steer_cli.models.hardware import Hardware
from steer_cli.models.resolve import locate
from steer_cli.results import SweepPoint
from steer_cli.sweeps.grid import GridPoint
from steer_cli.sweeps.identity import WEIGHTS, fingerprint
from steer_cli.sweeps.plan import SweepPlan
from steer_cli.sweeps.ray_cluster import Needs
from steer_cli.sweeps.ray_pool import run_on_ray
from steer_cli.version import __version__

Group = Sequence[GridPoint]
WORKING_BYTES = 1_000_000_000  # of a worker, beside its weights: Python, torch, streams


@dataclass(frozen=True)
class SweepWork:
    """A sweep's plan, and what must be the same on every node."""

    plan: SweepPlan
    hardware: Hardware
    folder: str  # where the command runs; relative names of files are seen from here
    weights: str
    version: str = __version__

    def start(self) -> Callable[[Group], tuple[list[SweepPoint], list[str]]]:
        """Load the model; return what measures a group, and gives its points and notes."""
        from steer_cli.models.load import load
        from steer_cli.sweeps.runner import Runner, measure_group

        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        where = f"ray: node {os.uname().nodename}" if hasattr(os, "uname") else "ray: a node"
        if self.version != __version__:
            raise SweepError(
                f"{where}: it has steer {__version__}, and this is {self.version}; install the same there"
            )
        located = self.plan.located
        if not located.folder.is_dir():
            # Another machine: the name says which model, the digest whether it is the same.
            located = locate(located.name)
        if fingerprint(located, WEIGHTS) != self.weights:
            raise SweepError(
                f"{where}: its model {located.name} has other weights; copy the model's folder there"
            )
        plan = replace(self.plan, located=located)
        notes: list[str] = []
        runner = Runner(load(located, self.hardware), plan, notes.append)

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
        hardware: of each worker; one thread by default, and as many workers as there is room for.

    Raises:
        SteerError: no such cluster, or a point cannot be run.
    """
    threads = hardware.threads or 1
    work = SweepWork(
        plan, replace(hardware, threads=threads), os.getcwd(), fingerprint(plan.located, WEIGHTS)
    )
    memory = WORKING_BYTES + 2 * _weights_bytes(plan.located.folder)

    def needs(accelerators: bool) -> Needs:
        on_cpu = hardware.device == "cpu" or not accelerators
        return Needs(threads, 0 if on_cpu else 1, memory)

    noted: set[str] = set()
    for _, (points, notes) in run_on_ray(address, work, groups, needs, progress, note):
        for message in notes:
            if message not in noted:
                noted.add(message)
                note(message)
        yield points


def _weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
