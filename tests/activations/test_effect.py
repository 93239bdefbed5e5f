"""Steering that does nothing is an error, whichever way it came to nothing and whoever asked."""

import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from conftest import ARCHITECTURES
from tiny import LOVE, PROMPT, hidden_states, open_model, recipe_of, steer, watching

from steer_cli.activations.arms import UNSTEERED, Arm
from steer_cli.activations.vectors import compute
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Request
from steer_cli.errors import VectorError
from steer_cli.measure.next_token import next_logits
from steer_cli.planning.placement import align_additions, meetings, place
from steer_cli.planning.tokens import open_tokenizer

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
EVERY = {**LOVE, "position": "every"}
LONG = "I went up to my friend and said that the wedding was late"
SILENT = {  # additions, more arguments, what the error says
    "cancelling": ([LOVE, {**LOVE, "coefficient": -3}], [], "they cancel"),
    "cancelling everywhere": ([EVERY, {**EVERY, "coefficient": -3}], [], "they cancel"),
    "one layer of two": (
        [{**LOVE, "layer": [1, 3]}, {**LOVE, "coefficient": -3, "layer": 3}],
        [],
        "at layer 3, in float32",
    ),
    "underflow": ([{**LOVE, "coefficient": 1e-60}], [], "the coefficient is too small; use a larger one"),
    "rounding": ([{**LOVE, "coefficient": 1e-14}], [], "the coefficient is too small"),
    "bfloat16": (
        [{**LOVE, "layer": 3, "coefficient": 1e-12}],
        ["--dtype", "bfloat16"],
        "in bfloat16: the coefficient is too small; use a larger one, or --dtype float32",
    ),
}


def fails(command, said, *arguments):
    code, _, err = command(*arguments)
    assert code == 1 and err.count("\n") == 1, err
    assert "does nothing" in err and said in err
    return err


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "two.txt").write_text(f"{LONG}.\nI talk about ships constantly because of you.\n", "utf-8")
    return f"two={tmp_path / 'two.txt'}"


# All faults on a plain network and on one of transformers; the other architectures with one each.
FAULTS = [
    *product(["llama", "gemma3_adapted"], SILENT),
    *zip((each for each in ARCHITECTURES if each not in ("llama", "gemma3_adapted")), SILENT, strict=False),
]


@pytest.mark.parametrize(("arch", "silent"), FAULTS)
def test_it_is_told_by_every_command_that_steers(arch, silent, command, recipe_file, tiny_folder, corpus):
    additions, arguments, said = SILENT[silent]
    recipe = recipe_file(tiny_folder(arch), *additions, prompt=PROMPT, count={"love": ["love"]})
    layers = ["--layers", additions[-1]["layer"], "--addition", len(additions) - 1]
    overlay = ["--corpus", corpus, "--method", "overlay", "--lines"]
    fails(command, said, "generate", recipe, *arguments)
    fails(command, said, "shift", recipe, *arguments)
    fails(command, said, "perplexity", recipe, *overlay, *arguments)
    fails(command, said, "sweep", recipe, *layers, "--measure", "kl,counts", "--samples", 1, *arguments)
    fails(command, said, "sweep", recipe, *layers, "--measure", "perplexity", *overlay, *arguments)


def test_a_coefficient_of_0_is_no_fault_anywhere(command, recipe_file, tiny_folder, corpus):
    recipe = recipe_file(tiny_folder("llama"), {**LOVE, "coefficient": 0}, prompt=PROMPT)
    for arguments in (["generate"], ["shift"], ["perplexity", "--corpus", corpus, "--lines"]):
        code, _, err = command(arguments[0], recipe, *arguments[1:])
        assert code == 0, err
    code, out, err = command("sweep", recipe, "--layers", "2", "--coefficients", "-1:1:1", "--jsonl")
    assert code == 0, err
    kl = [point["kl"][0]["kl"] for point in map(json.loads, out.splitlines())]
    assert kl[1] == 0 and kl[0] > 0 and kl[2] > 0


@every_architecture
def test_every_on_bos_alone_needs_a_new_token_that_is_run(arch, command, recipe_file, tiny_folder):
    alone = recipe_file(tiny_folder(arch), EVERY, prompt="")
    fails(command, "acts on no position up to 0", "shift", alone)
    fails(command, "acts on no position up to 0", "sweep", alone, "--layers", "2")
    one = ["--set", "sampling.max_new_tokens=1"]
    fails(command, "acts on no position up to 0", "generate", alone, *one)
    code, _, err = command("generate", alone, "--set", "sampling.max_new_tokens=2")
    assert code == 0, err
    fails(command, "too small", "generate", alone, "--set", "additions.0.coefficient=1e-14")


@every_architecture
def test_additions_that_cancel_on_the_first_new_token_alone_are_found(arch, tiny_folder):
    one = steer(tiny_folder(arch), EVERY, {**EVERY, "coefficient": -3}, prompt="")
    one.prefilled()
    with pytest.raises(VectorError, match="they cancel"):
        one.rows(2, max_new_tokens=3)


def test_a_prediction_from_before_the_vector_is_not_one_of_its_effect(command, recipe_file, tiny_folder):
    back = recipe_file(tiny_folder("gpt2"), {**LOVE, "position": "back"}, prompt=PROMPT)
    fails(command, "acts on no position up to 3", "shift", back, "--at", 3)


def test_a_text_whose_end_alone_is_acted_on_does_not_stop_a_corpus(
    command, recipe_file, tiny_folder, tmp_path
):
    (tmp_path / "lines.txt").write_text(f"I\n{LONG}\n", "utf-8")  # `every` acts on a last token only
    recipe = recipe_file(tiny_folder("gpt2"), EVERY)
    corpus = f"lines={tmp_path / 'lines.txt'}"
    code, out, err = command(
        "perplexity", recipe, "--corpus", corpus, "--lines", "--method", "overlay", "--jsonl"
    )
    assert code == 0, err
    assert json.loads(out.splitlines()[0])["sentences"] == 2


def test_the_error_names_a_few_of_many(tiny_folder):
    many = [{**LOVE, "coefficient": c} for c in (1, -1) * 5]
    with pytest.raises(VectorError, match=r"'Love' - 'Hate', 'Love' - 'Hate', 'Love' - 'Hate' and 7 more: "):
        steer(tiny_folder("gpt2"), *many).prefilled()


def test_each_prompt_of_a_pass_answers_for_itself(tiny_folder):
    """Rows of one pass: one is changed, the other is not."""
    acting = steer(tiny_folder("llama"), LOVE)
    silent = steer(tiny_folder("llama"), LOVE, {**LOVE, "coefficient": -3}, prompt=LONG)
    with pytest.raises(VectorError, match="they cancel"):
        prefill(acting.network, [acting.request, silent.request])
    with pytest.raises(VectorError, match="they cancel"):
        arms = [UNSTEERED, acting.arm, silent.arm]
        next_logits(acting.network, silent.prompt, arms, len(silent.prompt) - 1)


# ---- the receipt of what meets


@pytest.mark.parametrize(
    ("acting", "met"),
    [
        ([(0, 3), (3, 6)], []),
        ([(0, 3), (2, 6)], [(2, 3)]),
        ([(0, 3), (0, 3), (3, 6), (3, 6)], [(0, 6)]),
        ([(0, 2), (1, 9), (5, 7), (6, 8)], [(1, 2), (5, 8)]),
        ([(1, 1), (0, 9)], []),
    ],
)
def test_where_additions_meet(acting, met, tiny_folder):
    (one,) = steer(tiny_folder("gpt2"), LOVE).placements
    assert meetings(replace(one, start=start, end=end) for start, end in acting) == met


def test_what_a_coefficient_of_0_adds_meets_nothing(tiny_folder):
    assert meetings(steer(tiny_folder("gpt2"), LOVE, {**LOVE, "coefficient": 0}).placements) == []


@every_architecture
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_sum_is_the_stream_after_less_the_stream_before(arch, dtype, tiny_folder):
    additions = [LOVE, {**EVERY, "coefficient": 0.7}, {**EVERY, "layer": 3}]
    network, tokenizer = open_model(tiny_folder(arch), dtype).network, open_tokenizer(tiny_folder(arch))
    alignments = align_additions(recipe_of(*additions), tokenizer, network.depth)
    ids = tokenizer.prompt(PROMPT)
    arm = Arm(place(alignments, tokenizer, ids, PROMPT), tuple(compute(network, alignments)))
    vectors = arm.vectors
    with watching(network) as plain:
        prefill(network, [Request(ids, (UNSTEERED, UNSTEERED))])
    with watching(network) as handed_on:
        (started,) = prefill(network, [Request(ids, (UNSTEERED, arm), receipts=True)])
    (met,) = started.receipts[1].sums
    assert (met.layer, met.start, met.end) == (2, 1, 3)
    before = plain[2][1, 1:3]
    assert str(before.dtype) == f"torch.{dtype}"
    total = torch.zeros(len(ids), network.width)
    arm.add_to(total, 2)
    assert torch.equal(handed_on[2][1, 1:3], before + total[1:3].to(before))
    before = before.double()
    added = handed_on[2][1, 1:3].double() - before
    close = torch.testing.assert_close
    close(torch.tensor(met.sum).double(), added.norm(dim=-1), rtol=1e-6, atol=1e-6)
    close(torch.tensor(met.stream).double(), before.norm(dim=-1), rtol=1e-6, atol=1e-6)
    close(torch.tensor(met.ratio), torch.tensor(met.sum) / torch.tensor(met.stream))
    close(torch.tensor(met.cosine).double(), torch.cosine_similarity(added, before, dim=-1))
    if dtype == "float32":
        expected = 3 * vectors[0][1:3] + 0.7 * vectors[1]
        close(torch.tensor(met.sum), expected.norm(dim=-1), rtol=1e-4, atol=1e-4)
        close(plain[2][1], hidden_states(tiny_folder(arch), ids)[2], rtol=1e-4, atol=1e-4)


def test_the_sum_is_on_the_screen_and_in_the_records(command, recipe_file, tiny_folder):
    recipe = recipe_file(tiny_folder("llama"), LOVE, {**LOVE, "plus": " wedding"}, prompt=PROMPT)
    code, out, err = command("generate", recipe, "--jsonl", "--samples", 1)
    assert code == 0, err
    record = json.loads(out)
    (met,) = record["sums"]
    assert list(met) == ["layer", "span", "ratio", "cosine"]
    assert (met["layer"], met["span"], len(met["ratio"]), len(met["cosine"])) == (2, [0, 3], 3, 3)
    assert "sum" not in record["additions"][0]
    code, out, _ = command("generate", recipe, "--samples", 1)
    (row,) = (line for line in out.splitlines() if line.startswith("together, layer 2 "))
    assert len(row.removeprefix("together, layer 2").split()) == 3
    code, out, _ = command("generate", recipe, "--samples", 1, "--explain")
    assert "together: layer 2  [0, 3)" in out and "|sum|" in out
