"""A sweep's store that somebody has edited, or that is no file at all: one line, and it is left alone."""

import json
import os
import stat
from pathlib import Path

import pytest

WEDDING = {"plus": " wedding", "minus": " ", "layer": 0}
LABELLED = "text,kind\nThe ship sailed to Rome with stones.,trade\nThe wedding of my friend was late.,talk\n"
posix = pytest.mark.skipif(os.name == "nt", reason="devices and pipes of POSIX")


@pytest.fixture
def sweep(command, recipe_file, tiny_folder, tmp_path):
    """A function: a store -> what a sweep of four points with all measures answers."""
    (tmp_path / "c.csv").write_text(LABELLED, encoding="utf-8")
    count = {"any": ["a", "the", "e"], "wedding": ["wedding"]}
    recipe = recipe_file(
        tiny_folder("gpt2"),
        WEDDING,
        prompts=["I went up to my friend and said", "I hate you because you are late"],
        count=count,
        sampling={"max_new_tokens": 2, "samples": 2},
    )
    corpus = ("--corpus", "c=c.csv", "--column", "text", "--label", "kind", "--lines")
    grid = ("--layers", "1,2", "--coefficients", "1,2", "--measure", "perplexity,kl,counts", *corpus)
    more = ("--want", " wedding", "--device", "cpu", "--jsonl")
    return lambda store: command("sweep", recipe, *grid, *more, "--store", store)


def edited(change):
    """A change of the second point, which the third line holds."""

    def edit(lines: list[str]) -> None:
        record = json.loads(lines[2])
        change(record)
        lines[2] = json.dumps(record)

    return edit


EDITS = {
    "perplexity is missing": edited(lambda record: record.pop("perplexity")),
    "kl is missing": edited(lambda record: record.update(kl=None)),
    "layer is missing": edited(lambda record: record.pop("layer")),
    "dims is missing": edited(lambda record: record.pop("dims")),
    "counts is []": edited(lambda record: record.update(counts=[])),
    "kl is {}": edited(lambda record: record.update(kl={})),
    "kl holds null": edited(lambda record: record["kl"].append(None)),
    "kl is null": edited(lambda record: record["kl"][1].update(kl=None)),
    'kl is "0.1"': edited(lambda record: record["kl"][1].update(kl="0.1")),
    "effect is null": edited(lambda record: record["kl"][1].pop("effect")),
    "kl is not of [": edited(lambda record: record["kl"].pop()),
    "perplexity is not of [": edited(lambda record: record["perplexity"].reverse()),
    "ratio is true": edited(lambda record: record["perplexity"][0].update(ratio=True)),
    "stderr is []": edited(lambda record: record["perplexity"][1].update(stderr=[])),
    "counts is not of [": edited(lambda record: record["counts"].pop("any")),
    "steered is null": edited(lambda record: record["counts"]["wedding"].pop("steered")),
    "steered_stderr is {}": edited(lambda record: record["counts"]["any"].update(steered_stderr={})),
    "logprob is null": edited(lambda record: record.pop("logprob")),
    "cost is null": edited(lambda record: record["logprob"].pop("cost")),
    "cost_stderr is []": edited(lambda record: record["logprob"].update(cost_stderr=[])),
    "repeats the point of an earlier line": lambda lines: lines.__setitem__(2, lines[1]),
}


def test_each_edit_is_refused_by_its_line_and_its_point_computed_again(sweep, tmp_path):
    store = tmp_path / "s.jsonl"
    code, whole, err = sweep(store)
    assert code == 0, err
    lines = store.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5 and sweep(store)[:2] == (0, whole)
    for said, edit in EDITS.items():
        changed = list(lines)
        edit(changed)
        store.write_text("\n".join(changed) + "\n", encoding="utf-8")
        before = store.read_bytes()
        code, out, err = sweep(store)
        assert (code, out) == (1, "") and err.startswith("error: --store ") and err.count("\n") == 1
        assert f"s.jsonl:3: not a finished point: {said}" in err and "delete this line" in err
        assert store.read_bytes() == before
    del changed[2]
    store.write_text("\n".join(changed) + "\n", encoding="utf-8")
    code, again, err = sweep(store)
    assert (code, again) == (0, whole), err


@pytest.mark.parametrize("line", ["null", "3", "[1]", "{", "[" * 100_000, '{"layer": ' + "9" * 5000 + "}"])
def test_a_line_that_is_no_object_is_named(line, sweep, tmp_path):
    store = tmp_path / "s.jsonl"
    assert sweep(store)[0] == 0
    store.write_text(store.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    code, out, err = sweep(store)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "s.jsonl:6: not the store of a sweep; use another file, or delete this line" in err


def test_a_store_of_another_release(sweep, tmp_path):
    store = tmp_path / "s.jsonl"
    assert sweep(store)[0] == 0
    head, *rest = store.read_text(encoding="utf-8").splitlines()
    head = json.dumps(json.loads(head) | {"steer_sweep": 2})
    store.write_text("\n".join([head, *rest]) + "\n", encoding="utf-8")
    code, _, err = sweep(store)
    assert code == 1 and "written by another release of steer" in err and err.count("\n") == 1


@posix
@pytest.mark.parametrize("kind", ["null", "full", "zero", "fifo", "folder"])
def test_a_store_is_a_regular_file(kind, sweep, tmp_path):
    store = tmp_path / "store" / "s.jsonl"
    store.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(store)
    elif kind == "folder":
        store.mkdir()
    else:
        store.symlink_to(f"/dev/{kind}")
    for name in (store, *([Path(f"/dev/{kind}")] if kind in ("null", "full", "zero") else [])):
        code, out, err = sweep(name)
        assert (code, out, err) == (1, "", f"error: --store {name}: not a regular file; use another name\n")
        assert not Path(f"{name}.lock").exists()
    assert not stat.S_ISREG(store.stat().st_mode) and len(list(store.parent.iterdir())) == 1


@posix
def test_a_store_that_is_a_loop_of_links(sweep, tmp_path):
    (tmp_path / "s.jsonl").symlink_to(tmp_path / "s.jsonl")
    code, out, err = sweep(tmp_path / "s.jsonl")
    assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith("error: --store ")
