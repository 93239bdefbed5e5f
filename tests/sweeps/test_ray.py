"""Sweeps on a Ray cluster: the records of a run without Ray, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from steer_cli.errors import SweepError, VectorError
from steer_cli.models.hardware import Hardware
from steer_cli.recipe.load import load
from steer_cli.sweeps.plan import SweepOptions, plan_sweep
from steer_cli.sweeps.ray_cluster import Needs
from steer_cli.sweeps.ray_pool import run_on_ray
from steer_cli.sweeps.sweep import sweep

ray = pytest.importorskip("ray")
ONE_THREAD = Hardware(device="cpu", threads=1)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes as processes, each with room for one worker."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, filter(None, sys.path))))
        small = {"num_cpus": 1, "object_store_memory": 80_000_000, "memory": 4_000_000_000}
        try:
            made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        except Exception as error:  # of many kinds: no shared memory, no free port, no network interface
            pytest.skip(f"Ray starts no cluster on this machine: {error}")
        made.add_node(**small)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def plan(tiny_folder, tmp_path):
    recipe = tmp_path / "r.yaml"
    addition = {"plus": " wedding", "minus": " ", "layer": 0}
    prompt = "I went up to my friend and said"
    recipe.write_text(
        json.dumps({"model": str(tiny_folder("llama")), "prompt": prompt, "additions": [addition]})
    )
    return plan_sweep(load(str(recipe)), (), SweepOptions("0:4", "1:3:1"))


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


def squares(cluster, work, items, note=lambda _: None):
    return run_on_ray(cluster.address, work, items, lambda _: Needs(), note=note)


def test_records_are_those_of_a_run_without_ray(cluster, plan, tmp_path):
    alone = [list(point.records()) for point in sweep(plan, ONE_THREAD)]
    notes, store = [], tmp_path / "points.jsonl"
    spread = [
        list(point.records())
        for point in sweep(plan, ONE_THREAD, store, note=notes.append, ray=cluster.address)
    ]
    assert spread == alone and len(alone) == 12
    assert any("2 workers on 2 nodes" in said for said in notes)
    # The store is the driver's; what is in it is not computed again, with or without workers.
    assert [list(point.records()) for point in sweep(plan, ONE_THREAD, store, ray="no such cluster")] == alone


def test_items_of_a_node_that_is_killed_run_elsewhere_and_finished_ones_stay(cluster, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=80_000_000, memory=4_000_000_000)
    work, notes, found, alive = Squares(tmp_path), [], {}, True
    for index, (square, where) in squares(cluster, work, range(120), notes.append):
        found[index] = square
        if alive and where == node.node_id:
            cluster.remove_node(node, allow_graceful=False)
            alive = False
    assert not alive and found == {index: index * index for index in range(120)}
    assert sum("a worker died" in said for said in notes) == 1
    tries = sorted(work.tries(item) for item in range(120))
    assert tries[:-1] == [1] * 119 and tries[-1] <= 2


def test_an_item_that_kills_its_workers_is_one_line(cluster, tmp_path):
    work = Squares(tmp_path, kills=(2,))
    with pytest.raises(SweepError, match="3 workers died at the same work") as caught:
        list(squares(cluster, work, range(6)))
    assert "\n" not in str(caught.value) and work.tries(2) == 3


def test_an_error_comes_after_all_items_before_it(cluster, tmp_path):
    found = []
    with pytest.raises(VectorError, match="item 3 does nothing"):
        for index, _ in squares(cluster, Squares(tmp_path, fails=(3, 5)), range(30)):
            found.append(index)
    assert {0, 1, 2} <= set(found) and 29 not in found


def test_a_worker_that_fits_nowhere_and_a_cluster_that_is_not_there_are_one_line(cluster, plan):
    with pytest.raises(
        SweepError, match=r"a worker needs 7 CPUs and .* memory, and the largest node has 1 CPUs"
    ):
        list(sweep(plan, Hardware(device="cpu", threads=7), ray=cluster.address))
    with pytest.raises(SweepError, match=r"ray 127\.0\.0\.1:1: no cluster to join: "):
        list(sweep(plan, ONE_THREAD, ray="127.0.0.1:1"))


def processes():
    """Ray's processes on this machine."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,stat,args"], capture_output=True, text=True
    ).stdout.splitlines()
    names = ("raylet", "ray::", "gcs_server")
    return {
        line.split()[0] for line in listed if any(name in line for name in names) and "<defunct>" not in line
    }


def test_ctrl_c_leaves_finished_points_and_no_process(cluster, plan, tmp_path):
    before, store = processes(), tmp_path / "s.jsonl"
    command = [
        sys.executable,
        "-m",
        "steer_cli",
        "sweep",
        str(tmp_path / "r.yaml"),
        "--layers",
        "0:4",
        "--jsonl",
    ]
    command += ["--coefficients", "0:400:0.05", "--device", "cpu", "--ray", "local", "--store", str(store)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout.readline().startswith("{")
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130 and "Traceback" not in said
    assert f"points are kept in {store}" in said
    assert not processes() - before
