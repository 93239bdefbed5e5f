"""Items on the actors of a Ray cluster: each done once, whatever dies, and errors in order."""

import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from steer_cli.errors import SweepError, VectorError
from steer_cli.workers import pool as pool_module
from steer_cli.workers.cluster import Needs, joined
from steer_cli.workers.pool import Actor, Pool

ray = pytest.importorskip("ray")


@dataclass(frozen=True)
class Squares:
    """Work whose items say where and how often they were done."""

    folder: Path
    fails: tuple[int, ...] = ()
    kills: tuple[int, ...] = ()

    def start(self):
        return self.do

    def do(self, item):
        tries = self.folder / f"{item}"
        with tries.open("a") as opened:
            opened.write(f"{os.getpid()}\n")
        if item in self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if item in self.fails:
            raise VectorError(f"item {item} does nothing")
        time.sleep(0.1)
        return item * item, ray.get_runtime_context().get_node_id()

    def tries(self, item):
        return len((self.folder / f"{item}").read_text().split())


@dataclass(frozen=True)
class SlowStart:
    """Work that begins once a file is there."""

    folder: Path

    def start(self):
        (self.folder / "starting").touch()
        while not (self.folder / "loaded").exists():
            time.sleep(0.05)
        return abs


@dataclass(frozen=True)
class DiesAtStart:
    def start(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Unpickled:
    """Work that says how OpenMP's threads were to wait when it was unpickled."""

    policy: str | None = "not unpickled"

    def __setstate__(self, state):
        self.policy = os.environ.get("OMP_WAIT_POLICY")

    def __getstate__(self):
        return {"one": "value"}

    def start(self):
        return lambda item: self.policy


@contextmanager
def pool_of(cluster, work, most=2, note=lambda _: None):
    with joined(cluster.address, lambda _: Needs()) as there:
        yield Pool(there, work, most, note)


def squares(cluster, work, items, note=lambda _: None):
    with pool_of(cluster, work, len(items), note) as pool:
        for item in items:
            pool.submit(item, item)
        yield from pool.finished()


def test_items_of_a_node_that_is_killed_run_elsewhere_and_finished_ones_stay(two_nodes, tmp_path):
    node = two_nodes.add_node(num_cpus=1, object_store_memory=80_000_000, memory=4_000_000_000)
    work, notes, found, alive = Squares(tmp_path), [], {}, True
    for index, (square, where) in squares(two_nodes, work, range(120), notes.append):
        found[index] = square
        if alive and where == node.node_id:
            two_nodes.remove_node(node, allow_graceful=False)
            alive = False
    assert not alive and found == {index: index * index for index in range(120)}
    assert sum("a worker died" in said for said in notes) == 1
    tries = sorted(work.tries(item) for item in range(120))
    assert tries[:-1] == [1] * 119 and tries[-1] <= 2


def test_workers_that_died_at_rest_are_no_fault_of_the_next_item(two_nodes, tmp_path, monkeypatch):
    """As when a node goes away between the rounds of a search."""
    monkeypatch.setattr(pool_module, "MOST_DEATHS", 2)
    with pool_of(two_nodes, Squares(tmp_path)) as pool:
        workers: set[int] = set()
        for item in range(0, 1000, 2):
            pool.submit(item, item)
            pool.submit(item + 1, item + 1)
            for key, _ in pool.finished():
                workers |= {int(pid) for pid in (tmp_path / f"{key}").read_text().split()}
            if len(workers) == 2:
                break
        assert len(workers) == 2
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        pool.submit(1000, 1000)
        [(key, (found, _))] = pool.finished()
        assert (key, found) == (1000, 1_000_000)


def test_an_item_that_kills_its_workers_is_one_line(two_nodes, tmp_path):
    work = Squares(tmp_path, kills=(2,))
    with pytest.raises(SweepError, match="3 workers died on the same task") as caught:
        list(squares(two_nodes, work, range(6)))
    assert "\n" not in str(caught.value) and work.tries(2) == 3


def test_an_error_comes_after_all_items_before_it(two_nodes, tmp_path):
    found = []
    with pytest.raises(VectorError, match="item 3 does nothing"):
        for index, _ in squares(two_nodes, Squares(tmp_path, fails=(3, 5)), range(30)):
            found.append(index)
    assert {0, 1, 2} <= set(found) and 29 not in found


def test_items_that_come_up_while_others_run_go_where_the_last_of_their_key_was(two_nodes, tmp_path):
    """Two chains of ten items each, in two rounds: an item is submitted when the one before it is done."""
    where: dict[int, Counter] = {key: Counter() for key in range(4)}
    with pool_of(two_nodes, Squares(tmp_path)) as pool:
        for keys in ((0, 1), (2, 3)):
            left = dict.fromkeys(keys, 10)
            for key in keys:
                pool.submit(key, 100 * key)
            for key, (square, node) in pool.finished():
                left[key] -= 1
                assert square == (100 * key + 9 - left[key]) ** 2
                where[key][node] += 1
                if left[key]:
                    pool.submit(key, 100 * key + 10 - left[key])
            assert not any(left.values())
    # The first item of a chain may wait for an actor that starts late; from then on each chain has its own.
    assert all(max(nodes.values()) >= 9 for nodes in where.values()), where
    assert max(where[2], key=where[2].get) != max(where[3], key=where[3].get)


def test_an_error_of_a_later_key_waits_for_all_that_an_earlier_one_brings(two_nodes, tmp_path):
    found = []
    with pool_of(two_nodes, Squares(tmp_path, fails=(1,))) as pool:
        pool.submit(1, 1)
        pool.submit(0, 0)
        with pytest.raises(VectorError, match="item 1 does nothing"):
            for key, (square, _) in pool.finished():
                found.append(square)
                if len(found) < 4:
                    pool.submit(key, 10 + len(found))
    assert found == [0, 121, 144, 169]


def test_patience_is_not_for_a_model_that_loads_slowly(two_nodes, tmp_path, monkeypatch):
    def meanwhile():
        while not (tmp_path / "starting").exists():
            time.sleep(0.05)
        monkeypatch.setattr(pool_module, "PATIENCE", 0.0)
        time.sleep(2.5)  # several times as long as the pool waits before it looks at the clock
        (tmp_path / "loaded").touch()

    loading = threading.Thread(target=meanwhile, daemon=True)
    loading.start()
    with pool_of(two_nodes, SlowStart(tmp_path), most=1) as pool:
        pool.submit(0, -3)
        assert list(pool.finished()) == [(0, 3)]
    loading.join(10)


def test_a_cluster_that_has_no_room_is_one_line(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "PATIENCE", 1.0)
    with pool_of(two_nodes, Squares(tmp_path)) as pool:
        others = [ray.remote(Squares).options(num_cpus=1).remote(tmp_path) for _ in range(2)]
        ray.get([other.start.remote() for other in others])
        pool.submit(0, 0)
        with pytest.raises(SweepError, match="no node has had room for a worker for 1 s; wait until"):
            list(pool.finished())


def test_workers_that_die_while_they_load_are_one_line(two_nodes):
    with pytest.raises(SweepError, match="3 workers died on the same task"):
        list(squares(two_nodes, DiesAtStart(), range(2)))


def test_threads_are_told_not_to_spin_before_the_work_may_load_torch(two_nodes):
    assert list(squares(two_nodes, Unpickled(), range(1))) == [(0, "passive")]


def test_a_worker_does_not_take_over_that_the_command_was_alone(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "5000")
    Actor()
    assert os.environ["OMP_WAIT_POLICY"] == "passive" and "GOMP_SPINCOUNT" not in os.environ
