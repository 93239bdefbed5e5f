"""Run the chains of a search at the same time, each trial on a worker of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count

from steer_cli.events import Note, Progress
from steer_cli.models.hardware import Hardware
from steer_cli.models.located import Located
from steer_cli.results import Figures
from steer_cli.tuning.kept import Kept
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import Chain, Climbed, Request, RunChains
from steer_cli.tuning.vectors import PlaceVectors
from steer_cli.workers.cluster import Cluster, joined
from steer_cli.workers.node import NodeModel
from steer_cli.workers.pool import Pool


@dataclass(frozen=True)
class TuneWork:
    """Measuring the trials of a plan with vectors that are made once, where the command runs."""

    plan: TunePlan
    model: NodeModel
    vectors: PlaceVectors

    def start(self) -> Callable[[Request], list[Figures]]:
        """Load the model; return what measures a request."""
        from steer_cli.tuning.figures import Figuring

        network = self.model.load().network
        figuring = Figuring(network, self.plan, self.vectors.on(network.device))
        return lambda request: figuring(request.share, request.asked)


@dataclass(frozen=True)
class Workers:
    """A cluster with room for workers, and the model that they will hold."""

    cluster: Cluster
    model: NodeModel

    def running(self, vectors: PlaceVectors, dtype: str, kept: Kept, note: Note) -> RunChains:
        """Runs chains at once, all those of a search on the same workers.

        Args:
            dtype: of the model here, which makes the vectors and the card.
        """
        same = replace(self.model, hardware=replace(self.model.hardware, dtype=dtype))
        work = TuneWork(vectors.plan, same, vectors.on("cpu"))
        return at_once(Pool(self.cluster, work, len(vectors.at), note), kept)


@contextmanager
def workers_of(address: str, located: Located, hardware: Hardware, progress: Progress) -> Iterator[Workers]:
    """Join a cluster.

    Args:
        address: `local`, or that of a running cluster.
        hardware: of each worker; one thread by default, and as many workers as there is room for.

    Raises:
        SteerError: no such cluster, or no room for a worker.
    """
    model = NodeModel.of(located, hardware)
    with joined(address, model.needs, progress) as cluster:
        yield Workers(cluster, model)


def at_once(pool: Pool, kept: Kept) -> RunChains:
    """Runs chains at the same time: each waits for its own figures only.

    An error is that of the first chain that has one, as it would be if they ran in turn.
    """
    keys = count()

    def run(chains: Sequence[Chain]) -> list[Climbed]:
        running = dict(zip(keys, chains, strict=False))
        asked: dict[int, Request] = {}
        ended: dict[int, Climbed] = {}

        def go_on(key: int, figures: list[Figures] | None = None) -> None:
            """Send a chain its figures, if it waits for any, until it asks for some that must be measured."""
            chain = running[key]
            try:
                while True:
                    asked[key] = next(chain) if figures is None else chain.send(figures)
                    figures = kept.known(asked[key])
                    if figures is None:
                        return pool.submit(key, asked[key])
            except StopIteration as end:
                ended[key] = end.value

        for key in running:
            go_on(key)
        for key, figures in pool.finished():
            kept.keep(asked[key], figures)
            go_on(key, figures)
        return [ended[key] for key in running]

    return run
