"""`steer tune` from the command line, on a tiny model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steer_cli.cli import app
from steer_cli.errors import PlotError
from steer_cli.recipe.load import load
from steer_cli.report import tuning_plot
from steer_cli.results import Tuning

WORDS = {
    "toward": ["bride", "veil", "cake", "vow", "ring", "dress", "guest", "toast"],
    "away": ["ship", "crane", "dock", "port", "crew", "cargo", "rope", "tide"],
    "neutral": ["lamp", "road", "bread", "clock", "field", "glass", "paper", "stone"],
}


def steer(*args: object, code: int = 0, **more):
    """Run the command; a traceback fails the test, and so does another exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="steer", **more)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def records(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def fault(*args: object) -> str:
    """The one line that says what is at fault; nothing may have been printed as data."""
    result = steer(*args, code=1)
    assert result.stdout == ""
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.stderr.endswith(f"{line}\n")
    return line.removeprefix("error: ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Evidence of forty sentences for each set."""
    made, draw = tmp_path_factory.mktemp("evidence"), random.Random(3)
    for name, words in WORDS.items():
        drawn = {" and the ".join(draw.choices(words, k=draw.randint(2, 4))) for _ in range(60)}
        lines = [f"The {nouns} waited." for nouns in sorted(drawn)[:40]]
        (made / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def asked(tiny_folder, folder) -> list[object]:
    """A search over two places."""
    import torch

    torch.set_num_threads(1)
    sets = [part for name in WORDS for part in (f"--{name}", folder / f"{name}.txt")]
    model = ["--plus", "Love", "--minus", "Hate", "--model", tiny_folder("llama")]
    return ["tune", *model, *sets, "--layers", "1,2", "--positions", "every", "--budget", "0.3"]


def test_a_record_for_each_trial_and_one_of_the_choice(asked):
    found = records(steer(*asked, "--jsonl"))
    *trials, last = found
    assert trials
    head = ["recipe", "recipe_sha256", "model", "revision", "dtype", "version", "kind", "relative", "budget"]
    keys = ["share", "layer", "position", "coefficient", "effect", "effect_stderr", "damage", "damage_stderr"]
    assert all(list(trial) == [*head, *keys] for trial in trials)
    assert {trial["layer"] for trial in trials} == {1, 2}
    more = ["oddness", "read", "frontier", "odd", "nearest_miss", "chosen", "steers"]
    more += ["beyond_budget", "says", "card", "tuned"]
    assert list(last) == [*head, *more]
    assert last["chosen"] in [{key: trial[key] for key in keys} for trial in trials]
    assert last["chosen"]["damage"] <= 0.3


def test_the_same_command_gives_the_same_bytes_with_and_without_a_store(asked, tmp_path):
    first = steer(*asked, "--jsonl").stdout
    store = tmp_path / "store.jsonl"
    for _ in range(2):
        assert steer(*asked, "--jsonl", "--store", store).stdout == first


@pytest.mark.parametrize("width", [80, 140])
def test_the_screen_has_the_places_the_verdict_and_the_card(asked, width):
    screen = steer(*asked, env={"COLUMNS": str(width)}).stdout
    assert "searched 2 places" in screen
    assert "the card is of the other half" in " ".join(screen.split())
    assert "frontier" in screen
    assert "random 1501" in screen
    assert all(len(line) <= width for line in screen.split("\nname:")[0].splitlines())


def test_the_recipe_is_written_where_it_steers_and_else_the_command_fails(asked, tmp_path):
    last = records(steer(*asked, "--jsonl"))[-1]
    file = tmp_path / "tuned.yaml"
    if last["steers"]:
        steer(*asked, "-o", file)
        addition = load(str(file)).additions[0]
        assert (addition.layer, addition.coefficient) == (
            last["chosen"]["layer"],
            last["chosen"]["coefficient"],
        )
        assert "Tuned by steer" in load(str(file)).measured
    else:
        result = steer(*asked, "-o", file, code=1)
        assert f"error: --output {file}: not written" in result.stderr
        assert "nothing steers within a damage of 0.3" in result.stdout
        assert not file.exists()


def test_an_output_that_exists_is_refused_before_anything_runs(asked, tmp_path):
    file = tmp_path / "there.yaml"
    file.write_text("mine", encoding="utf-8")
    assert fault(*asked, "-o", file).startswith(f"--output {file}: the file already exists")
    assert file.read_text(encoding="utf-8") == "mine"


def test_files_to_write_are_apart(asked, tmp_path):
    file = tmp_path / "one.svg"
    assert fault(*asked, "-o", file, "--store", file) == (
        f"--store {file}: is the --output too; write another name"
    )
    assert fault(*asked, "-o", file, "--plot", file).startswith(f"--plot {file}: is the --output too")
    assert fault(*asked, "--store", file, "--plot", file).startswith(f"--plot {file}: is the --store too")
    assert not file.exists()


def test_a_plot_that_fails_does_not_lose_the_recipe(asked, tmp_path, monkeypatch):
    def full(found, file):
        raise PlotError(f"--plot {file}: no space left")

    monkeypatch.setattr(tuning_plot, "plot", full)
    # The card of a tiny random model seldom says so.
    monkeypatch.setattr(Tuning, "steers", True)
    file = tmp_path / "tuned.yaml"
    said = steer(*asked, "-o", file, "--plot", tmp_path / "found.svg", code=1).stderr
    assert "no space left" in said
    assert "Tuned by steer" in load(str(file)).measured


def test_the_remedy_is_that_of_the_limit_that_was_in_the_way(asked, tmp_path):
    file = tmp_path / "tuned.yaml"
    found = steer(*asked, "-p", "I hate you because", "--oddness", "0.000001", "-o", file, code=1)
    assert found.stderr.endswith("not written, as there is no recipe that steers; raise --oddness\n")
    # There is no card to speak of.
    assert "passed over" in found.stdout and "other half" not in " ".join(found.stdout.split())


def test_what_is_at_fault_is_one_clear_line(asked, folder, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("\n".join(f"Sentence {number} is short." for number in range(9)), encoding="utf-8")
    assert fault(*asked, "--toward", few).startswith("--toward: 9 sentences are too few to search")
    assert fault(*asked, "--away", folder / "toward.txt").startswith("--away")
    assert fault(*asked, "--budget", "0").startswith("--budget 0: write nats per token, above 0")
    assert fault(*asked, "--layers", "9").startswith("--layers 9: no layer 9")
    assert fault(*asked, "--positions", "left").startswith("--positions left: 'left' is not a position")
    assert fault(*asked, "--addition", "3").startswith("--addition 3:")
    assert fault(*asked[:7]).startswith("nothing to measure an effect by")


def test_a_plot_is_drawn(asked, tmp_path):
    plot = tmp_path / "found.svg"
    steer(*asked, "--plot", plot)
    assert plot.read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_choices_are_followed(tiny_folder, folder, tmp_path):
    items = [
        {"prompt": f"The {noun} is", "matching": " bride", "not_matching": " ship"}
        for noun in [f"{first} {second}" for first in WORDS["neutral"] for second in WORDS["neutral"]][:48]
    ]
    file = tmp_path / "choices.jsonl"
    file.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    model = ["--plus", "Love", "--minus", "Hate", "--model", tiny_folder("llama")]
    where = ["--layers", "1", "--positions", "every", "--budget", "0.3", "--neutral", folder / "neutral.txt"]
    found = records(steer("tune", *model, "--choices", file, *where, "--jsonl"))
    assert {record["kind"] for record in found} == {"choices"}
    assert any(record["effect"] != 0 for record in found[:-1])
