"""Searches on a Ray cluster: the records and the store of a run without Ray, whatever dies."""

from __future__ import annotations

import json
import time

import psutil
import pytest
from tiny import open_model, recipe_of

from steer_cli.measure.evidence import gathered
from steer_cli.measure.evidence_files import read_choices, read_set
from steer_cli.models.hardware import Hardware
from steer_cli.models.located import Located
from steer_cli.results import Place
from steer_cli.tuning import on_ray
from steer_cli.tuning.figures import Figuring
from steer_cli.tuning.on_ray import TuneWork
from steer_cli.tuning.plan import TuneOptions, plan_tuning
from steer_cli.tuning.search import Request
from steer_cli.tuning.tune import tune
from steer_cli.tuning.vectors import vectors_of_places
from steer_cli.workers.node import NodeModel

pytest.importorskip("ray")
from ray import cloudpickle

ONE_THREAD = Hardware(device="cpu", threads=1)
LOVE = {"plus": "Love", "minus": "Hate", "layer": 1}


@pytest.fixture(scope="module")
def sets(evidence_files):
    return {name: read_set(name, str(file)) for name, file in evidence_files.items()}


@pytest.fixture(scope="module")
def plan(tiny_llama, sets):
    """Eight places, so that all three rounds run; no card, whose completions are too odd."""
    options = TuneOptions(layers="0:4", positions="front,every", budget=0.05, oddness=1e-9)
    recipe = recipe_of(LOVE, sampling={"max_new_tokens": 2, "samples": 1})
    return plan_tuning(recipe, gathered(**sets), options, Located("tiny", tiny_llama))


@pytest.fixture(scope="module")
def alone(plan, tmp_path_factory):
    """The records of a run without Ray, and its store."""
    store = tmp_path_factory.mktemp("alone") / "trials.jsonl"
    return lines_of(tune(plan, ONE_THREAD, store)), store.read_bytes()


def lines_of(found) -> list[str]:
    return [json.dumps(record) for record in found.records()]


def trials_of(store: bytes) -> set[bytes]:
    """The lines of a store after the first, each once."""
    lines = store.splitlines()[1:]
    assert len({*lines}) == len(lines)
    return {*lines}


class SlowWork(TuneWork):
    """So that a worker is in the middle of a trial when another has finished one."""

    def start(self):
        measure = super().start()

        def slowly(request):
            time.sleep(0.3)
            return measure(request)

        return slowly


def measuring(node) -> bool:
    """Whether a worker of a node is in the middle of a trial."""
    [raylet] = node.all_processes["raylet"]
    return "ray::Actor.do" in [child.name() for child in psutil.Process(raylet.process.pid).children()]


def actors() -> dict[int, psutil.Process]:
    """Workers on the nodes that this process started, by the ids of their processes."""
    children = psutil.Process().children(recursive=True)
    return {child.pid: child for child in children if child.name().startswith("ray::Actor")}


def test_records_are_those_of_a_run_without_ray_though_a_node_is_killed(
    two_nodes, plan, alone, tmp_path, monkeypatch
):
    """The search continues the store of one without Ray, which was stopped early."""
    records, whole = alone
    notes, store, killed = [], tmp_path / "trials.jsonl", []
    store.write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    [second] = two_nodes.worker_nodes

    def kill(stage, done, total):
        if stage == "tune" and not killed and measuring(second):
            killed.append(len(store.read_bytes().splitlines()))
            two_nodes.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(on_ray, "TuneWork", SlowWork)
    try:
        spread = tune(plan, ONE_THREAD, store, kill, notes.append, two_nodes.address)
    finally:
        two_nodes.add_node(num_cpus=1, object_store_memory=80_000_000, memory=4_000_000_000)
    assert lines_of(spread) == records
    assert trials_of(store.read_bytes()) == trials_of(whole)
    assert 5 < killed[0] < len(whole.splitlines())
    assert any("a worker died" in said for said in notes)
    assert not actors()


def test_ctrl_c_keeps_finished_trials_for_a_run_without_ray_and_leaves_no_process(
    two_nodes, plan, alone, tmp_path
):
    records, whole = alone
    store, running = tmp_path / "trials.jsonl", []

    def stop(stage, done, total):
        if stage == "tune" and done and done >= 40:
            running.extend(actors())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(plan, ONE_THREAD, store, stop, ray=two_nodes.address)
    assert running and not actors()
    assert trials_of(store.read_bytes()) < trials_of(whole)
    assert lines_of(tune(plan, ONE_THREAD, store)) == records
    assert trials_of(store.read_bytes()) == trials_of(whole)


@pytest.mark.parametrize("kind", ["choices", "count"])
def test_what_a_worker_measures_is_the_same_for_choices_and_counted_words(tiny_llama, sets, tmp_path, kind):
    """A worker's part without the worker: the work as it is sent, on a model of its own."""
    sampling = {"max_new_tokens": 4, "temperature": 1.0, "top_p": 1.0}
    recipe = recipe_of(LOVE, count={"e": ["e", "a", "t", "s"]}, sampling=sampling)
    file = tmp_path / "choices.jsonl"
    answers = {"matching": " yes", "not_matching": " no"}
    items = [{"prompt": f"Is {number} a friend of mine?", **answers} for number in range(40)]
    file.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    effect = {"choices": read_choices(str(file))} if kind == "choices" else {"count": "e"}
    evidence = gathered(neutral=sets["neutral"], recipe=recipe, **effect)
    options = TuneOptions(layers="1:3", positions="every")
    plan = plan_tuning(recipe, evidence, options, Located("tiny", tiny_llama))
    network = open_model(tiny_llama).network
    vectors = vectors_of_places(network, plan)
    work = TuneWork(plan, NodeModel.of(plan.located, ONE_THREAD), vectors)
    measure = cloudpickle.loads(cloudpickle.dumps(work)).start()
    asked = ((Place(2, "every"), 3.0), (Place(2, "every"), -1.0))
    assert measure(Request(0.5, asked)) == Figuring(network, plan, vectors)(0.5, asked)
