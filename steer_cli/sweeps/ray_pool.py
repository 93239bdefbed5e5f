"""Spread work over a Ray cluster: actors hold the model, the items are handed out one by one.

Everything that ends in a file stays with the caller. An actor that dies loses only the item it was working
on, which goes to another one.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from steer_cli.errors import SteerError, SweepError
from steer_cli.events import Note, Progress, silent
from steer_cli.recipe.quoting import counted
from steer_cli.sweeps.ray_cluster import Needs, cluster, too_small

MOST_DEATHS = 3  # of actors that worked on one item, before it is blamed
PATIENCE = 120.0  # seconds without any actor at work


class Work(Protocol):
    """What an actor does; pickled once for each of them."""

    def start(self) -> Callable[[Any], Any]:
        """Load what is needed; return the function that is called with every item.

        Raises:
            SteerError: it cannot be done on the actor's machine.
        """
        ...


def run_on_ray(
    address: str,
    work: Work,
    items: Sequence[Any],
    needs: Callable[[bool], Needs],
    progress: Progress = silent,
    note: Note = silent,
) -> Iterator[tuple[int, Any]]:
    """The index and the result of every item, as they are finished.

    Args:
        address: `local`, or the address of a running cluster.
        needs: what an actor needs, given whether the cluster has accelerators.

    Raises:
        SweepError: no such cluster, no room for an actor, or actors that keep dying.
        SteerError: an item cannot be done; raised once all items before it are.
    """
    if not items:
        return
    with cluster(address) as ray:
        progress("workers", 0, None)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = needs(any(node.get("GPU") for node in nodes))
        room = sum(wanted.times(node) for node in nodes)
        if room < 1:
            raise SweepError(f"ray {address}: {too_small(wanted, nodes)}", "ray")
        count = min(room, len(items))
        note(f"ray {address}: {counted(count, 'worker')} on {counted(len(nodes), 'node')}")
        yield from _Pool(ray, address, work, wanted, count, note).run(items)


class Actor:
    """Runs in a process of its own on a node of the cluster."""

    def __init__(self, work: Work):
        # Threads that spin while they wait would take the other actors' cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        self._work = work
        self._function: Callable[[Any], Any] | None = None

    def start(self) -> SteerError | None:
        """Load what the work needs."""
        try:
            self._function = self._work.start()
        except SteerError as error:
            return error
        return None

    def do(self, item: Any) -> Any:
        """The result of an item, or the error that the user should see."""
        assert self._function is not None
        try:
            return self._function(item)
        except SteerError as error:
            return error


@dataclass
class _Pool:
    """Actors, what each of them does, and the items that wait."""

    ray: Any
    address: str
    work: Work
    needs: Needs
    count: int
    note: Note
    waiting: deque[int] = field(default_factory=deque)
    doing: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)  # reference -> actor and item
    resting: list[Any] = field(default_factory=list)  # actors without an item, kept as others may die
    deaths: dict[int, int] = field(default_factory=dict)

    def run(self, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `run_on_ray`."""
        self.waiting.extend(range(len(items)))
        shared = self.ray.put(self.work)
        for _ in range(self.count):
            self._hire(shared)
        done: set[int] = set()
        failed: dict[int, SteerError] = {}
        worked = time.monotonic()
        while len(done) < len(items):
            first = min(failed, default=len(items))
            if done.issuperset(range(first)):
                raise failed[first]
            self._hand_out(items, first)
            ready, _ = self.ray.wait(list(self.doing), timeout=1.0)
            if not ready and time.monotonic() - worked > PATIENCE and self._none_has_started:
                raise SweepError(
                    f"ray {self.address}: no worker has started for {PATIENCE:.0f} s; wait until the cluster "
                    "has free CPUs",
                    "ray",
                )
            for reference in ready:
                worked = time.monotonic()
                actor, index = self.doing.pop(reference)
                try:
                    result = self.ray.get(reference)
                except self.ray.exceptions.RayTaskError:  # a bug, which keeps its traceback
                    raise
                except self.ray.exceptions.RayError as error:
                    self._replace(index, error, shared)
                    continue
                self.resting.append(actor)
                if isinstance(result, SteerError):
                    failed[-1 if index is None else index] = result
                elif index is not None:
                    done.add(index)
                    yield index, result

    @property
    def _none_has_started(self) -> bool:
        return all(index is None for _, index in self.doing.values())

    def _hire(self, shared: Any) -> None:
        """Start an actor where the cluster has room for it."""
        options = {"num_cpus": self.needs.threads, "num_gpus": self.needs.gpus}
        options |= {"memory": self.needs.memory, "max_restarts": 0, "max_task_retries": 0}
        actor = self.ray.remote(Actor).options(**options).remote(shared)
        self.doing[actor.start.remote()] = actor, None

    def _hand_out(self, items: Sequence[Any], stop: int) -> None:
        """Give every resting actor an item, as long as any is left before `stop`."""
        while self.resting and self.waiting and self.waiting[0] < stop:
            actor, index = self.resting.pop(), self.waiting.popleft()
            self.doing[actor.do.remote(items[index])] = actor, index

    def _replace(self, index: int | None, error: Exception, shared: Any) -> None:
        """Put the item of an actor that died first in the queue, and start another actor."""
        key = -1 if index is None else index
        self.deaths[key] = self.deaths.get(key, 0) + 1
        if self.deaths[key] >= MOST_DEATHS:
            raise SweepError(
                f"ray {self.address}: {MOST_DEATHS} workers died at the same work, the last one of: "
                f"{' '.join(str(error).split())[:160]}; with more `threads` each, fewer share memory",
                "ray",
            )
        if index is not None:
            self.waiting.appendleft(index)
        self.note(f"ray {self.address}: a worker died; what it was doing runs again on another")
        self._hire(shared)
