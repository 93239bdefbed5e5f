"""Hand items out to actors on a Ray cluster, one at a time each.

Items may be submitted at any time, also while others run. An actor that dies loses only the item it was
working on, which goes to another one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from steer_cli.errors import SteerError, SweepError
from steer_cli.events import Note, silent
from steer_cli.models.same_sums import same_sums
from steer_cli.recipe.quoting import counted
from steer_cli.workers.cluster import Cluster

MOST_DEATHS = 3  # of actors that worked on one item, before it is blamed
PATIENCE = 120.0  # seconds in which no node has had room for an actor


class Work(Protocol):
    """What an actor does; pickled once for each of them."""

    def start(self) -> Callable[[Any], Any]:
        """Load what is needed; return the function that is called with every item.

        Raises:
            SteerError: it cannot be done on the actor's machine.
        """
        ...


class Actor:
    """Runs in a process of its own on a node of the cluster."""

    def __init__(self) -> None:
        # Threads that spin while they wait would take the other actors' cores. OpenMP reads this when torch
        # is loaded, which unpickling the work may do: it comes later, with `start`.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.pop("GOMP_SPINCOUNT", None)  # of a command that was alone when it started this node
        os.environ.update(same_sums(os.environ))
        self._function: Callable[[Any], Any] | None = None

    def placed(self) -> None:
        """Answers once a node has had room for the actor, and as long as it lives."""

    def start(self, work: Work) -> SteerError | None:
        """Load what the work needs, which may take as long as it likes."""
        try:
            self._function = work.start()
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


class Task(NamedTuple):
    """An item and its key, which also says whose errors count first: the lowest."""

    key: int
    item: Any


@dataclass(eq=False)
class Hired:
    """An actor, whether it has a node and has loaded the work yet, and the key of what it did last."""

    handle: Any
    placed: bool = False
    loaded: bool = False
    last: int | None = None


@dataclass
class Pool:
    """Actors, what each of them does, and the items that wait. Actors start when there is work for them.

    Args:
        most: no more actors than this, however much room there is.
    """

    cluster: Cluster
    work: Work
    most: int
    note: Note = silent
    _shared: Any = field(default=None, init=False)  # the work, in the cluster's store
    _waiting: list[Task] = field(default_factory=list, init=False)
    _doing: dict[Any, tuple[Hired, Task | None]] = field(default_factory=dict, init=False)  # by reference
    _resting: list[Hired] = field(default_factory=list, init=False)
    _deaths: dict[int | None, int] = field(default_factory=dict, init=False)  # by key, in a row

    def __post_init__(self) -> None:
        self.most = min(self.most, self.cluster.room)

    def submit(self, key: int, item: Any) -> None:
        """Have an item done, preferably by the actor that did the last item with this key.

        Only one item with a key may be unfinished at a time.
        """
        self._waiting.append(Task(key, item))

    def finished(self) -> Iterator[tuple[int, Any]]:
        """The key and the result of every item, as they finish, until none is left.

        Raises:
            SweepError: actors keep dying, or none can start.
            SteerError: an item cannot be done; raised once there are no unfinished items with lower keys.
        """
        failed: dict[int, SteerError] = {}
        heard = time.monotonic()
        while unfinished := [task.key for task in (*self._waiting, *self._at_work)]:
            if failed and min(failed) < min(unfinished):
                break
            self._hand_out(before=min(failed, default=None))
            ready, _ = self.cluster.ray.wait(list(self._doing), timeout=1.0)
            if ready:
                finished = self._received(ready[0])
                if finished is not None and isinstance(finished[1], SteerError):
                    failed.update([finished])
                elif finished is not None:
                    yield finished
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE and not self._any_placed:
                raise self._error(
                    f"no node has had room for a worker for {PATIENCE:.0f} s; wait until the cluster has "
                    "free CPUs and memory"
                )
        if failed:
            raise failed[min(failed)]

    @property
    def _at_work(self) -> list[Task]:
        return [task for _, task in self._doing.values() if task is not None]

    @property
    def _any_placed(self) -> bool:
        return any(hired.placed for hired, _ in self._doing.values())

    def _hand_out(self, before: int | None) -> None:
        """Give resting actors the items that wait, and start as many more actors as there are items left.

        Args:
            before: items from this key on stay where they are.
        """
        tasks = [task for task in self._waiting if before is None or task.key < before]
        # First those of which an actor did the last, then the others.
        for familiar in (True, False):
            for task in [*tasks] if self._resting else ():
                chosen = [hired for hired in self._resting if hired.last == task.key or not familiar]
                if chosen:
                    tasks.remove(task)
                    self._give(task, chosen[0])
        starting = len(self._doing) - len(self._at_work)
        room = self.most - len(self._doing) - len(self._resting)
        for _ in range(min(room, len(tasks) - starting)):
            self._hire()

    def _give(self, task: Task, hired: Hired) -> None:
        self._waiting.remove(task)
        self._resting.remove(hired)
        hired.last = task.key
        self._doing[hired.handle.do.remote(task.item)] = hired, task

    def _hire(self) -> None:
        """Start an actor where the cluster has room for it."""
        cluster, needs = self.cluster, self.cluster.needs
        if self._shared is None:
            self._shared = cluster.ray.put(self.work)
            workers, nodes = counted(self.most, "worker"), counted(cluster.nodes, "node")
            self.note(f"ray {cluster.address}: up to {workers} on {nodes}")
        options = {"num_cpus": needs.threads, "num_gpus": needs.gpus, "memory": needs.memory}
        options |= {"max_restarts": 0, "max_task_retries": 0}
        handle = cluster.ray.remote(Actor).options(**options).remote()
        self._doing[handle.placed.remote()] = Hired(handle), None

    def _received(self, reference: Any) -> tuple[int, Any] | None:
        """The key and the result of what an actor has finished; None if it is merely starting, or died.

        Raises:
            SteerError: the actor cannot start, or too many died.
        """
        exceptions = self.cluster.ray.exceptions
        hired, task = self._doing.pop(reference)
        try:
            result = self.cluster.ray.get(reference)
        except exceptions.RayTaskError:  # a bug, which keeps its traceback
            raise
        except exceptions.RayError as error:
            self._bury(hired, task, error)
            return None
        if not hired.placed:
            hired.placed = True
            self._doing[hired.handle.start.remote(self._shared)] = hired, None
            return None
        hired.loaded = True
        self._resting.append(hired)
        self._deaths.pop(None if task is None else task.key, None)
        if task is not None:
            return task.key, result
        if isinstance(result, SteerError):
            raise result
        return None

    def _bury(self, hired: Hired, task: Task | None, error: Exception) -> None:
        """Put the item of an actor that died first in the queue."""
        if hired.loaded and task is None:  # it died at rest, which is nobody's fault
            return
        key = None if task is None else task.key
        self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._deaths[key] >= MOST_DEATHS:
            said = " ".join(str(error).split())[:160]
            raise self._error(
                f"{MOST_DEATHS} workers died on the same task (last error: {said}); raise `threads` so that "
                "fewer workers share a node's memory"
            )
        if task is not None:
            self._waiting.insert(0, task)
        self.note(f"ray {self.cluster.address}: a worker died; its task will be retried on another")
        # Those at rest may have died with it, as on a node that is gone: only the living get another item.
        self._doing |= {other.handle.placed.remote(): (other, None) for other in self._resting}
        self._resting.clear()

    def _error(self, what: str) -> SweepError:
        return SweepError(f"ray {self.cluster.address}: {what}", "ray")
