"""Norms by layer and position against hidden states of plain transformers."""

import json

import pytest
from conftest import ARCHITECTURES

PROMPT = "I went up to my friend and said"
LOVE = {"plus": "Love wins", "minus": "Hate", "layer": 2, "coefficient": 5}
WEDDING = {"plus": " wedding", "layer": [1, 3], "coefficient": 1, "position": "back"}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ratios_are_those_of_hidden_states(arch, command, recipe_file, tiny_folder):
    from measuring import opened
    from reference import placements, record, tokens

    folder = tiny_folder(arch)
    code, out, err = command("norms", recipe_file(folder, LOVE, WEDDING, prompt=PROMPT), "--jsonl")
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert [(each["addition"], each["layer"]) for each in found] == [(a, x) for a in (0, 1) for x in range(5)]
    model, tokenizer, names, front = opened(folder)
    ids = tokens(tokenizer, front, PROMPT)
    for each in found:
        addition = {**(LOVE, WEDDING)[each["addition"]], "layer": each["layer"]}
        [placed] = placements(model, tokenizer, names, front, ids, [addition])
        stream = record(model, ids, each["layer"])[slice(*placed["span"])]
        assert each["start"] == placed["span"][0]
        assert each["vector"] == pytest.approx(placed["vector"].norm(dim=-1).tolist(), rel=1e-4, abs=1e-5)
        assert each["stream"] == pytest.approx(stream.norm(dim=-1).tolist(), rel=1e-4)
        ratios = [v / s for v, s in zip(each["vector"], each["stream"], strict=True)]
        assert each["ratio"] == pytest.approx(ratios, rel=1e-6)
    assert found[0]["ratio"][0] == 0  # both texts begin with the same BOS


def test_centring_takes_the_mean_over_the_width_away(command, recipe_file, tiny_folder):
    from measuring import opened
    from reference import record, tokens

    folder = tiny_folder("gpt2")
    code, out, err = command("norms", recipe_file(folder, LOVE, prompt=PROMPT), "--centre", "--jsonl")
    assert code == 0, err
    model, tokenizer, _, front = opened(folder)
    ids = tokens(tokenizer, front, PROMPT)
    for line in out.splitlines():
        each = json.loads(line)
        stream = record(model, ids, each["layer"])[: len(each["stream"])]
        centred = stream - stream.mean(-1, keepdim=True)
        assert each["stream"] == pytest.approx(centred.norm(dim=-1).tolist(), rel=1e-4)
        assert each["centred"] is True


@pytest.mark.parametrize("arch", ["llama", "gemma3", "llama_adapted", "gemma3_adapted"])
def test_centring_is_refused_where_the_norm_keeps_the_mean(arch, command, recipe_file, tiny_folder):
    code, out, err = command("norms", recipe_file(tiny_folder(arch), LOVE, prompt=PROMPT), "--centre")
    assert (code, out) == (1, "") and "norms keep the mean" in err and err.count("\n") == 1


def test_the_screen_has_a_row_for_each_layer(command, recipe_file, tiny_folder):
    code, out, _ = command("norms", recipe_file(tiny_folder("gpt2"), LOVE, prompt=PROMPT))
    assert code == 0 and "|stream|" in out
    assert [line.split()[0] for line in out.splitlines() if line[1:2].isdigit()] == list("01234")


def test_a_stream_of_zeros_is_null_in_a_record_and_no_traceback():
    from steer_cli.report.jsonl import line
    from steer_cli.results import Norms

    ratios = (float("inf"), float("nan"), 0.5)
    found = Norms(
        "r", "m", "p", 0, "l", 1, 0, ("a", "b", "c"), (1.0, 0.0, 1.0), (0.0, 0.0, 2.0), ratios, False
    )
    [record] = map(json.loads, map(line, found.records()))
    assert record["ratio"] == [None, None, 0.5] and record["stream"] == [0, 0, 2]


def test_layers_a_few_at_a_time_give_the_same_figures(command, recipe_file, tiny_folder, monkeypatch):
    from steer_cli.measure import norms

    moved = {**LOVE, "source_layer": 1}
    arguments = ("norms", recipe_file(tiny_folder("llama"), LOVE, moved, WEDDING, prompt=PROMPT), "--jsonl")
    whole = [json.loads(line) for line in command(*arguments)[1].splitlines()]
    captured, capture = [], norms.capture
    monkeypatch.setattr(norms, "capture", lambda *asked: captured.append(asked) or capture(*asked))
    monkeypatch.setattr(norms, "HELD_STREAM", 1)
    few = [json.loads(line) for line in command(*arguments)[1].splitlines()]
    assert len(captured) == 5
    assert [(each["addition"], each["layer"]) for each in few] == [(a, x) for a in range(3) for x in range(5)]
    for one, other in zip(few, whole, strict=True):
        assert one["ratio"] == pytest.approx(other["ratio"], rel=1e-5)
