"""Trials whose logits are not finite: the search goes on below them, and a store keeps them."""

from __future__ import annotations

import io
import json
import math
import shutil

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import open_model, recipe_of

from steer_cli.errors import SweepError, VectorError
from steer_cli.measure.evidence import Choice, Choices, gathered
from steer_cli.measure.evidence_files import read_set
from steer_cli.report import tuning_plot
from steer_cli.report.tuning import tuning_parts
from steer_cli.results import OVERFLOWN, Figures, Place
from steer_cli.tuning.figures import Figuring
from steer_cli.tuning.plan import TuneOptions, plan_tuning
from steer_cli.tuning.search import in_turn, search
from steer_cli.tuning.tune import tune
from steer_cli.tuning.vectors import vectors_of_places

HERE = Place(2, "front")
LOVE = {"plus": "Love", "minus": "Hate", "layer": 1}
QUICK = {"max_new_tokens": 2, "samples": 1}


def enlarged(folder, made, times: float) -> object:
    """A copy of a model, in float16, whose stream is longer."""
    shutil.copytree(folder, made, dirs_exist_ok=True)
    tensors = load_file(made / "model.safetensors")
    [name] = [name for name in tensors if name.endswith("embed_tokens.weight")]
    tensors[name] *= times
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    return open_model(made, "float16")


@pytest.fixture(scope="module")
def model(tiny_llama, tmp_path_factory):
    """Its stream has values up to about a quarter of the largest number of float16, 65,504."""
    return enlarged(tiny_llama, tmp_path_factory.mktemp("large"), 2e4)


@pytest.fixture(scope="module")
def planned(evidence_files):
    def plan(model, **options):
        sets = {name: read_set(name, str(file)) for name, file in evidence_files.items()}
        asked = TuneOptions(**{"layers": "2", "positions": "front", "budget": 50.0, **options})
        return plan_tuning(recipe_of(LOVE, sampling=QUICK), gathered(**sets), asked, model.located)

    return plan


def test_a_trial_that_overflows_does_not_stop_those_beside_it(model, planned):
    plan = planned(model)
    figuring = Figuring(model.network, plan, vectors_of_places(model.network, plan))
    small, large, other = figuring(0.25, [(HERE, 1.0), (HERE, 1000.0), (HERE, -0.5)])
    assert large == OVERFLOWN
    assert [small] == figuring(0.25, [(HERE, 1.0)])
    assert [other] == figuring(0.25, [(HERE, -0.5)])


def test_a_search_that_overflows_ends_and_its_store_continues(model, planned, tmp_path):
    plan, store = planned(model, oddness=1e-9), tmp_path / "trials.jsonl"
    found = tune(plan, model, store)
    lines = [json.dumps(record) for record in found.records()]
    beyond = [trial for trial in found.searched.trials if not trial.figures.finite]
    within = [trial for trial in found.searched.trials if trial.figures.finite]
    assert beyond and within
    assert max(abs(trial.coefficient) for trial in within) < min(abs(trial.coefficient) for trial in beyond)
    assert not {*found.searched.best, *found.searched.frontier} & {*beyond}
    record = json.loads(lines[found.searched.trials.index(beyond[0])])
    assert record["damage"] is None and record["effect"] is None
    whole = store.read_bytes()
    store.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    assert [json.dumps(record) for record in tune(plan, model, store).records()] == lines
    assert store.read_bytes() == whole


def test_where_the_card_overflows_the_search_is_not_lost(model, evidence_files):
    """The card looks at half as much again as the coefficient, where choices are the effect."""
    neutral = read_set("neutral", str(evidence_files["neutral"]))
    items = Choices.of(
        Choice(f"The {one} {other} is", " bride", " ship", f"c:{one}{other}")
        for one in ("lamp", "road", "bread", "clock", "field", "glass", "paper")
        for other in ("ship", "rope", "tide", "port", "crew", "dock")
    )
    asked = TuneOptions(layers="2", positions="front", budget=50.0)
    evidence = gathered(neutral=neutral, choices=items)
    recipe = recipe_of(LOVE).model_copy(update={"prompt": None})
    found = tune(plan_tuning(recipe, evidence, asked, model.located), model)
    assert found.chosen is not None and found.card is None and not found.steers
    *trials, last = found.records()
    assert len(trials) == len(found.searched.trials)
    assert last["chosen"] is not None and last["card"] is None
    assert last["says"].startswith("what was found has no card: the steered logits are not finite")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*tuning_parts(found, "", 200))
    screen = console.export_text()
    assert "what was found has no card" in screen and "nearest miss" not in screen


def test_half_of_the_figures_is_not_a_finished_trial(model, planned, tmp_path):
    plan, store = planned(model, oddness=1e-9), tmp_path / "trials.jsonl"
    tune(plan, model, store)
    head, first, *rest = store.read_text(encoding="utf-8").splitlines()
    edited = json.dumps(json.loads(first) | {"damage": None})
    store.write_text("\n".join([head, edited, *rest, ""]), encoding="utf-8")
    with pytest.raises(SweepError, match=r"trials.jsonl:2: not a finished point: damage is null"):
        tune(plan, model, store)


@pytest.mark.usefixtures("model")  # loads first, so that models of this shape have been tested by then
def test_a_model_that_overflows_by_itself_is_named_as_such(tiny_llama, planned, tmp_path):
    broken = enlarged(tiny_llama, tmp_path, 1e6)
    with pytest.raises(VectorError, match=r"not finite"):
        tune(planned(broken), broken)


@pytest.mark.parametrize("limit", [0.001, 0.01, 0.3, 2.0, 30.0])
@pytest.mark.parametrize("guess", [0.05, 1.0, 8.0])
def test_the_search_comes_close_to_what_can_be_measured(limit, guess):
    """The effect grows up to the coefficient that overflows, and damage stays far below the budget."""

    def measure(share, asked):
        return [
            OVERFLOWN if abs(value) >= limit else Figures(value, 1e-9 * value**2, 1e-3, 1e-3)
            for _, value in asked
        ]

    found = search({HERE: guess}, 0.02, in_turn(measure))
    if guess > 200 * limit:
        assert not any(trial.figures.finite for trial in found.trials)
    else:
        assert found.best[0].coefficient > min(limit, 60 * guess) / 5
    assert all(math.isfinite(trial.figures.damage) for trial in (*found.best, *found.frontier))


def test_the_screen_says_overflow_and_the_plot_leaves_it_out(model, planned, tmp_path):
    """One place, which only ever overflowed, beside one that steers."""
    found = tune(planned(model, layers="1,2", oddness=1e-9), model)
    other = search({HERE: 1.0, Place(1, "front"): 1.0}, 50.0, in_turn(_second_overflows))
    found = type(found)(**{**vars(found), "searched": other})
    console = Console(width=100, record=True, file=io.StringIO())
    for part in tuning_parts(found, "", 100):
        console.print(part)
    screen = console.export_text()
    [row] = [line.split() for line in screen.splitlines() if line.split()[:2] == ["2", "front"]]
    assert row[3:5] == ["–", "overflow!"]
    assert "overflow: logits are not finite" in " ".join(screen.split())
    tuning_plot.plot(found, tmp_path / "found.svg")
    assert (tmp_path / "found.svg").stat().st_size > 0


def _second_overflows(share, asked):
    return [
        OVERFLOWN if place == HERE else Figures(value, 0.01 * value**2, 0.001, 0.001)
        for place, value in asked
    ]
