"""Sweeps on a Ray cluster: the records of a run without Ray, whatever dies."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress

import psutil
import pytest

from steer_cli.errors import SweepError
from steer_cli.models.hardware import Hardware
from steer_cli.recipe.load import load
from steer_cli.sweeps import on_ray
from steer_cli.sweeps.plan import SweepOptions, plan_sweep
from steer_cli.sweeps.sweep import sweep

pytest.importorskip("ray")
ONE_THREAD = Hardware(device="cpu", threads=1)


class NoWorkers:
    def submit(self, *_):
        pass

    def finished(self):
        return iter(())


@pytest.fixture
def plan(tiny_folder, tmp_path):
    recipe = tmp_path / "r.yaml"
    addition = {"plus": " wedding", "minus": " ", "layer": 0}
    prompt = "I went up to my friend and said"
    recipe.write_text(
        json.dumps({"model": str(tiny_folder("llama")), "prompt": prompt, "additions": [addition]})
    )
    return plan_sweep(load(str(recipe)), (), SweepOptions("0:4", "1:3:1"))


def test_records_are_those_of_a_run_without_ray(two_nodes, plan, tmp_path):
    alone = [list(point.records()) for point in sweep(plan, ONE_THREAD)]
    notes, store = [], tmp_path / "points.jsonl"
    spread = [
        list(point.records())
        for point in sweep(plan, ONE_THREAD, store, note=notes.append, ray=two_nodes.address)
    ]
    assert spread == alone and len(alone) == 12
    assert any("2 workers on 2 nodes" in said for said in notes)
    # The store is the driver's; what is in it is not computed again, with or without workers.
    assert [list(point.records()) for point in sweep(plan, ONE_THREAD, store, ray="no such cluster")] == alone


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_workers_compute_in_the_precision_that_the_store_names(
    two_nodes, plan, tmp_path, monkeypatch, device
):
    """Whatever devices their nodes have; a machine without an accelerator may lead a cluster of them."""
    asked = []
    monkeypatch.setattr(on_ray, "Pool", lambda cluster, work, *_: asked.append(work) or NoWorkers())
    store = tmp_path / "points.jsonl"
    with suppress(StopIteration, RuntimeError):
        list(sweep(plan, Hardware(device=device, threads=1), store, ray=two_nodes.address))
    [head, *_] = store.read_text(encoding="utf-8").splitlines()
    assert json.loads(head)["dtype"] == "float32"
    [work] = asked
    assert (work.model.hardware.dtype, work.model.hardware.device) == ("float32", device)


def test_a_worker_that_fits_nowhere_and_a_cluster_that_is_not_there_are_one_line(two_nodes, plan):
    with pytest.raises(
        SweepError, match=r"a worker needs 7 CPUs and .* memory, and the largest node has 1 CPUs"
    ):
        list(sweep(plan, Hardware(device="cpu", threads=7), ray=two_nodes.address))
    with pytest.raises(SweepError, match=r"ray 127\.0\.0\.1:1: no cluster to join: "):
        list(sweep(plan, ONE_THREAD, ray="127.0.0.1:1"))


def processes(mark):
    """Processes of this machine whose environment holds a mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("STEER_TEST") == mark:
                found.append(process.name())
    return found


def test_ctrl_c_leaves_finished_points_and_no_process(plan, tmp_path):
    mark, store = tmp_path.name, tmp_path / "s.jsonl"
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
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "STEER_TEST": mark}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        assert run.stdout.readline().startswith("{")
        assert len(processes(mark)) > 2
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=120)
    assert run.returncode == 130 and "Traceback" not in said
    assert f"points are kept in {store}" in said
    assert not processes(mark)
