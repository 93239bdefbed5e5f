"""Next-token shifts against float64 passes of plain transformers, and their identities."""

import json
import math

import pytest
from conftest import ARCHITECTURES

PROMPT = "I went up to my friend and said"
WEDDING = {"plus": " wedding", "minus": " ", "layer": 2, "coefficient": 1.5}


def shifts(command, *arguments):
    code, out, err = command("shift", *arguments, "--jsonl")
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def expected(folder, additions, at=-1):
    """Log probabilities (steered, unsteered) from one position: [vocabulary] each."""
    from measuring import logits, opened
    from reference import placements, tokens

    model, tokenizer, names, front = opened(folder)
    ids = tokens(tokenizer, front, PROMPT)
    placed = placements(model, tokenizer, names, front, ids, additions)
    return logits(model, ids, placed)[at].log_softmax(-1), logits(model, ids)[at].log_softmax(-1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_parts_entropies_and_the_total(arch, command, recipe_file, tiny_folder):
    folder = tiny_folder(arch)
    [record] = shifts(command, recipe_file(folder, WEDDING, prompt=PROMPT), "--top", 512)
    p, q = expected(folder, [WEDDING])
    assert len(record["tokens"]) == 512
    for token in record["tokens"]:
        id = token["id"]
        assert token["p_steered"] == pytest.approx(math.exp(p[id]), abs=1e-5)
        assert token["p_unsteered"] == pytest.approx(math.exp(q[id]), abs=1e-5)
        assert token["ratio"] == pytest.approx(math.exp(p[id] - q[id]), rel=1e-3)
        assert token["kl"] == pytest.approx(float(p[id].exp() * (p[id] - q[id])), abs=1e-5)
    assert sum(token["kl"] for token in record["tokens"]) == pytest.approx(record["kl"], abs=1e-9)
    assert record["kl"] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)
    assert record["entropy_steered"] == pytest.approx(float(-(p.exp() * p).sum()), abs=1e-4)
    assert record["entropy_unsteered"] == pytest.approx(float(-(q.exp() * q).sum()), abs=1e-4)
    assert "effect" not in record


def test_the_union_of_both_top_k(command, recipe_file, tiny_folder):
    folder = tiny_folder("llama")
    [record] = shifts(command, recipe_file(folder, WEDDING, prompt=PROMPT), "--top", 4)
    p, q = expected(folder, [WEDDING])
    union = {int(id) for side in (p, q) for id in side.topk(4).indices}
    assert {token["id"] for token in record["tokens"]} == union
    steered = [token["p_steered"] for token in record["tokens"]]
    assert steered == sorted(steered, reverse=True)


def test_coefficient_0_shifts_nothing(command, recipe_file, tiny_folder):
    nothing = {**WEDDING, "coefficient": 0}
    [record] = shifts(command, recipe_file(tiny_folder("gpt2"), nothing, prompt=PROMPT), "--want", "wedding")
    assert (record["kl"], record["effect"], record["damage"]) == (0, 0, 0)
    assert all(token["ratio"] == 1 and token["kl"] == 0 for token in record["tokens"])


def test_effect_and_damage(command, recipe_file, tiny_folder):
    from measuring import opened

    folder = tiny_folder("gpt2")
    [record] = shifts(
        command, recipe_file(folder, WEDDING, prompt=PROMPT), "--want", " wedding", "--want", " friend"
    )
    p, q = (side.exp() for side in expected(folder, [WEDDING]))
    tokenizer = opened(folder)[1]
    wanted = [tokenizer.encode(word).ids[0] for word in (" wedding", " friend")]
    inside = [float(side[wanted].sum()) for side in (p, q)]
    assert record["effect"] == pytest.approx(math.log(inside[0] / inside[1]), abs=1e-4)
    damage = 0.0
    for id in set(range(512)) - set(wanted):
        rest = float(p[id]) / (1 - inside[0]), float(q[id]) / (1 - inside[1])
        damage += rest[0] * math.log(rest[0] / rest[1])
    assert record["damage"] == pytest.approx(damage, abs=1e-5)


@pytest.mark.parametrize("at", [2, 5, -2])
def test_another_position(at, command, recipe_file, tiny_folder):
    folder = tiny_folder("gpt_neox")
    [record] = shifts(command, recipe_file(folder, WEDDING, prompt=PROMPT), "--at", at)
    p, q = expected(folder, [WEDDING], at)
    assert record["kl"] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", "99"], "has positions 0 to"),
        (["--want", "supercalifragilistic"], "not one token"),
        (["--plot", "x.pdf"], "ends in .png or .svg"),
    ],
)
def test_bad_options_are_one_clear_line(arguments, said, command, recipe_file, tiny_folder):
    code, out, err = command("shift", recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT), *arguments)
    assert (code, out) == (1, "") and said in err and err.count("\n") == 1


def test_the_screen(command, recipe_file, tiny_folder):
    code, out, _ = command(
        "shift", recipe_file(tiny_folder("gpt2"), WEDDING, prompt=PROMPT), "--want", "wedding"
    )
    assert code == 0
    assert all(
        part in out for part in ("part of KL", "KL(steered || unsteered)", "entropy", "effect", "damage")
    )
