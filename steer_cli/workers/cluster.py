"""Join a Ray cluster, or start one for this command alone; what one worker takes of its nodes."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from steer_cli.errors import SweepError
from steer_cli.events import Progress, silent
from steer_cli.recipe.quoting import counted

LOCAL = "local"  # a cluster for this command alone, on this machine
STORE_BYTES = 100_000_000  # of the object store: results are a few numbers
SECONDS_TO_ANSWER = 10.0
SECONDS_TO_END = 3.0


@dataclass(frozen=True)
class Needs:
    """What one worker takes of its node: CPU threads, accelerators, bytes of memory."""

    threads: int = 1
    gpus: int = 0
    memory: int = 0

    def times(self, resources: dict[str, float]) -> int:
        """How many workers a node has room for."""
        rooms = [int(resources.get("CPU", 0)) // self.threads]
        if self.gpus:
            rooms.append(int(resources.get("GPU", 0)) // self.gpus)
        if self.memory:
            rooms.append(int(resources.get("memory", 0)) // self.memory)
        return min(rooms)


@dataclass(frozen=True)
class Cluster:
    """A cluster that has been joined, and how many workers there is room for."""

    ray: Any
    address: str
    needs: Needs  # of each worker
    nodes: int
    room: int


def check_installed(address: str) -> None:
    """Raise SweepError if Ray is not installed."""
    if find_spec("ray") is None:
        raise SweepError(f"ray {address}: needs Ray; install it with: pip install 'ray>=2.50'", "ray")


@contextmanager
def joined(address: str, needs: Callable[[bool], Needs], progress: Progress = silent) -> Iterator[Cluster]:
    """The cluster, for as long as the context lasts; see `_connected`.

    Args:
        address: `local`, or the address of a running cluster.
        needs: what a worker needs, given whether the cluster has accelerators.

    Raises:
        SweepError: no such cluster, or no room for a worker.
    """
    progress("workers", 0, None)
    with _connected(address) as ray:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = needs(any(node.get("GPU") for node in nodes))
        room = sum(wanted.times(node) for node in nodes)
        if room < 1:
            raise SweepError(f"ray {address}: {_too_small(wanted, nodes)}", "ray")
        yield Cluster(ray, address, wanted, len(nodes), room)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected; a local cluster ends with the context, and so do all processes of the work."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    before = _children()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # An address in the environment would make Ray join that cluster.
        options |= {"address": "local", "num_cpus": _cpus(), "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False}
    else:
        options["address"] = address
    try:
        _join(ray, address, options)
    except BaseException:  # Ctrl-C too; Ray knows not yet all that it has started, and its agents outlive it
        started = _children() - before
        ray.shutdown()
        _kill(started, before)
        raise
    try:
        yield ray
    finally:
        started = _children() - before
        ray.shutdown()
        _wait_for(started)


def _join(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Connect Ray to a cluster, or have it start one.

    Raises:
        SweepError: there is no such cluster.
    """
    try:
        _check_reachable(address)
        ray.init(**options)
    except Exception as error:  # of many kinds; a plain one where a node does not come up in time
        said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        reason = said.splitlines()[0].removesuffix(".")
        if address == LOCAL:
            what, remedy = "Ray does not start here", "try again when the machine is less busy"
        else:
            what, remedy = (
                "no cluster to join",
                "write `ray=local`, or the address that `ray start --head` prints",
            )
        raise SweepError(f"ray {address}: {what}: {reason[:160]}; {remedy}", "ray") from None


def _too_small(needs: Needs, nodes: Sequence[dict[str, float]]) -> str:
    """Why no node has room for a worker."""
    wanted = [counted(needs.threads, "CPU"), *([counted(needs.gpus, "GPU")] if needs.gpus else [])]
    if needs.memory:
        wanted.append(f"{needs.memory / 1e9:.1f} GB of memory")
    most = max((node.get("CPU", 0) for node in nodes), default=0)
    memory = max((node.get("memory", 0) for node in nodes), default=0)
    return (
        f"a worker needs {' and '.join(wanted)}, and the largest node has {most:g} CPUs and "
        f"{memory / 1e9:.1f} GB; use fewer `threads`, `dtype=bfloat16` or larger nodes"
    )


def _children() -> set[Any]:
    """This process's children and theirs."""
    import psutil

    return set(psutil.Process().children(recursive=True))


def _kill(started: set[Any], before: set[Any]) -> None:
    """Kill processes, and all children and theirs that were not there before."""
    import psutil

    stopped: set[Any] = set()
    while fresh := (started | _children()) - before - stopped:
        for process in fresh:
            with suppress(psutil.Error):
                process.suspend()  # from here on it starts no more, and what it has started stays a child
        stopped |= fresh
    for process in stopped:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stopped, SECONDS_TO_END)


def _wait_for(processes: set[Any]) -> None:
    """Wait until processes that should end have ended; on a busy machine Ray's own may stay for a minute."""
    import psutil

    _, alive = psutil.wait_procs(processes, SECONDS_TO_END)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
