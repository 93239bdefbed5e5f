"""Relative coefficients of corpora, sweeps and scans: each text has a number of its own."""

import json

import pytest
from conftest import FIVE
from measuring import opened, perplexity, token_logprobs
from reference import placements, record, single, tokens

WEDDING = {"plus": " wedding", "minus": " ", "layer": [2, 3], "coefficient": {"relative": 0.6}}
PROMPT = "I went up to my friend and said"


def changes(folder, sentence, addition, method):
    """Of one sentence: (unsteered, steered) of its compared predictions, and the numbers that it takes."""
    model, tokenizer, names, front = opened(folder)
    covering = addition.get("position") != "every"
    n = max(len(tokens(tokenizer, front, addition[side])) for side in ("plus", "minus"))
    pads = [single(tokenizer, " ")] * (n - len(front)) if method == "pad" else []
    ids = front + pads + tokens(tokenizer, [], sentence)
    placed = []
    for one in placements(model, tokenizer, names, front, ids, [addition]):
        start, end = one["span"]
        # The last token predicts nothing, so nothing is added there.
        stream = record(model, ids, one["layer"])[start : len(ids) if end is None else end][
            : len(ids) - 1 - start
        ]
        rows = one["vector"].expand(len(stream), -1) if not covering else one["vector"][: len(stream)]
        lengths = rows.norm(dim=-1)
        acting = lengths > 0
        number = 0.6 * float(stream.norm(dim=-1)[acting].mean() / lengths[acting].mean())
        placed.append({**one, "coefficient": number})
    plain, steered = token_logprobs(model, ids), token_logprobs(model, ids, placed)
    first = n if covering else len(front) + len(pads) - 1
    pairs = [(plain[p], steered[p]) for p in range(first, len(ids) - 1)]
    return pairs, [one["coefficient"] for one in placed]


@pytest.mark.parametrize(
    ("arch", "method", "position"),
    [
        ("llama", "pad", "front"),
        ("gpt_neox", "overlay", "front"),
        *((arch, "overlay", "every") for arch in ("gpt2", "gemma3_adapted")),
    ],
)
def test_each_sentence_has_a_number_of_its_own(
    arch, method, position, command, recipe_file, tiny_folder, monkeypatch
):
    from steer_cli.measure import scoring

    folder, addition = tiny_folder(arch), {**WEDDING, "position": position}
    found = [changes(folder, text, addition, method) for text in FIVE]
    asked = [
        recipe_file(folder, addition),
        "--corpus",
        "a=five.txt",
        "--lines",
        "--method",
        method,
        "--jsonl",
    ]
    for kept in (scoring.KEPT_STREAM, 0):  # with streams that are kept, and recorded anew
        monkeypatch.setattr(scoring, "KEPT_STREAM", kept)
        code, out, err = command("perplexity", *asked)
        assert code == 0, err
        made = json.loads(out)
        for key, value in perplexity([pairs for pairs, _ in found]).items():
            assert made[key] == pytest.approx(value, rel=1e-4), key
        for one, layer, numbers in zip(
            made["coefficients"], (2, 3), zip(*(numbers for _, numbers in found), strict=True), strict=True
        ):
            assert (one["addition"], one["layer"], one["relative"]) == (0, layer, 0.6)
            assert one["coefficient"] == pytest.approx(sum(numbers) / len(numbers), rel=1e-4)
            assert one["least"] == pytest.approx(min(numbers), rel=1e-4)
            assert one["most"] == pytest.approx(max(numbers), rel=1e-4)


def records(done):
    code, out, err = done
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def love(recipe_file, tiny_folder, **more):
    addition = {"plus": "Love", "minus": "Hate", "layer": 2, **more}
    sampling = {"samples": 1, "max_new_tokens": 5}
    return recipe_file(
        tiny_folder("gpt2"), addition, prompt=PROMPT, sampling=sampling, count={"any": ["a", "the"]}
    )


def test_a_sweep_has_an_axis_of_them_and_a_store_tells_them_apart(command, recipe_file, tiny_folder):
    recipe = love(recipe_file, tiny_folder)
    sweep = ("sweep", recipe, "--layers", "2,3", "--measure", "kl,counts", "--store", "s.jsonl", "--jsonl")
    found = records(command(*sweep, "--relative", "0.4:0.8:0.4"))
    assert [(point["layer"], point["coefficient"]) for point in found] == [
        (layer, {"relative": strength}) for layer in (2, 3) for strength in (0.4, 0.8)
    ]
    for point in found[1:3]:
        options = ("--layer", str(point["layer"]), "--relative", str(point["coefficient"]["relative"]))
        [shift] = records(command("shift", recipe, *options, "--jsonl"))
        [at_prompt] = point["kl"]
        assert at_prompt["kl"] == pytest.approx(shift["kl"], rel=1e-4)
        assert at_prompt["coefficients"] == [
            {**one, "coefficient": pytest.approx(one["coefficient"], rel=1e-5)}
            for one in shift["coefficients"]
        ]
        [run] = records(command("generate", recipe, *options, "--jsonl"))
        assert point["counts"]["any"]["steered"] == run["steered"]["counts"]["any"]
    # A plain number of the same size is another point of the same store, and what is stored comes back.
    plain = records(command(*sweep, "--coefficients", "0.8"))
    assert [point["coefficient"] for point in plain] == [0.8, 0.8]
    assert plain[0]["kl"][0]["kl"] != pytest.approx(found[1]["kl"][0]["kl"], rel=1e-3)
    code, out, err = command(*sweep, "--relative", "0.8,0.4")
    assert code == 0 and "4 of 4 points are already there" in err
    assert sorted(out.splitlines()) == sorted(map(json.dumps, found))
    # The winner's recipe is relative as well.
    best = records(command(*sweep, "--relative", "0.4,0.8", "--best", "max kl"))[-1]
    assert best["best_recipe"]["additions"][0]["coefficient"] == best["coefficient"]
    screen = command("sweep", recipe, "--layers", "2", "--relative", "0.4,0.8")[1]
    assert "relative" in screen and "coefficient" not in screen


@pytest.mark.parametrize("way", ["--relative", "--set"])
def test_a_scan_of_a_relative_recipe_is_of_relative_values(way, command, recipe_file, tiny_folder):
    recipe = love(recipe_file, tiny_folder, coefficient={"relative": 0.3} if way == "--set" else 2)
    options = ("--relative", "1") if way == "--relative" else ()
    scan = ("generate", recipe, *options, "--scan", "0,0.4,0.8")
    _, *found = records(command(*scan, "--jsonl"))
    for point, strength in zip(found, (0.4, 0.8), strict=True):
        assert point["coefficient"] == {"relative": strength}
        changed = ("--set", f"additions.0.coefficient.relative={strength}")
        [run] = records(command("generate", recipe, *changed, "--jsonl"))
        assert point["text"] == run["steered"]["text"]
        [came_to], [addition] = point["coefficients"], run["additions"]
        assert came_to["coefficient"] == pytest.approx(addition["coefficient"], rel=1e-5)
    screen = command(*scan)[1]
    assert " relative  " in screen and "+0.4" in screen and "× " in screen


def test_ranges_that_cannot_be_are_errors(command, recipe_file, tiny_folder):
    recipe = love(recipe_file, tiny_folder)
    ablating = (recipe, "--set", "additions.0.operation=ablate")
    for words, expected in (
        (["sweep", recipe, "--layers", "2", "--relative", "1", "--coefficients", "1"], "leave one out"),
        (["sweep", recipe, "--layers", "2", "--relative", "1e7"], "more than 1e+06 lengths of the stream"),
        (["sweep", recipe, "--layers", "2", "--relative", "x"], "write 0.2:1:0.2 or 0.5,1"),
        (["sweep", *ablating, "--layers", "2", "--relative", "1"], "ablates, which adds no length"),
        (["generate", recipe, "--relative", "1", "--scan", "1e7"], "--scan 1e7: 1e+07 is more than"),
        (
            ["generate", recipe, "--relative", "1", "-c", "1"],
            "--relative 1: --coefficient 1 stands in its place",
        ),
        (["generate", recipe, "--relative", "x"], "'x' is not a finite number such as 0.8"),
        (["generate", recipe, "--relative", "nan"], "is not a finite number such as 0.8"),
        (["generate", recipe, "--relative", "1e7"], "up to 1e+06 in size"),
        (["shift", *ablating, "--relative", "1"], "an ablation adds none"),
        (
            ["table", recipe, "--set", "additions.0.coefficient={relativ: 1}"],
            "coefficient.relative: missing; write a",
        ),
    ):
        code, out, err = command(*words)
        assert (code, out) == (1, "") and expected in err, (words, err)
