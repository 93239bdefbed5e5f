"""`steer generate --scan`: the strip on the screen, its records, and what is said where it cannot be made."""

import json
import re
from itertools import pairwise
from statistics import fmean

import pytest
from rich.cells import cell_len
from tiny import LOVE, PROMPT

from steer_cli.report.strip import LEAVES, shared_beginning
from steer_cli.results import reads_like

SAMPLING = {"samples": 2, "max_new_tokens": 12, "top_p": 0.9, "seed": 3}
COUNT = {"any": ["a", "the", "e", "o"]}


@pytest.fixture
def love(recipe_file, tiny_folder):
    return recipe_file(tiny_folder("llama"), LOVE, prompt=PROMPT, sampling=SAMPLING, count=COUNT)


def records(out):
    return [json.loads(line) for line in out.splitlines()]


def error(done):
    code, out, err = done
    assert (code, out) == (1, "") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


@pytest.mark.parametrize("written", [("--scan", "-2:2:2"), ("--scan=-2:2:2",)])
def test_a_range_may_start_with_a_dash(written, command, love):
    code, out, err = command("generate", love, *written, "--jsonl")
    assert (code, err) == (0, "")
    assert [record["coefficient"] for record in records(out)] == [-2, -2, 0, 0, 2, 2]


def test_records_are_those_of_generate(command, love):
    found = records(command("generate", love, "--scan", "2,5", "--scan-layers", "1,3", "--jsonl")[1])
    assert [(record["layer"], record["coefficient"], record["sample"]) for record in found] == [
        *(
            (layer, value, n)
            for layer, value in ((None, None), (1, 2), (1, 5), (3, 2), (3, 5))
            for n in (0, 1)
        )
    ]
    for record in found[2:]:
        values = {"layer": [record["layer"]], "coefficient": record["coefficient"]}
        changes = [f"additions.0.{key}={value}" for key, value in values.items()]
        options = [word for change in changes for word in ("--set", change)]
        expected = records(command("generate", love, *options, "--jsonl")[1])[record["sample"]]
        arm = {key: record[key] for key in ("text", "tokens", "finish", "counts")}
        assert arm.items() <= expected["steered"].items()
        assert record["mean_logprob"] == pytest.approx(expected["steered"]["mean_logprob"], abs=1e-4)
        assert record["model"] == expected["model"] and record["seed"] == 3
    sha256 = records(command("generate", love, "--jsonl")[1])[0]["recipe_sha256"]
    assert {record["recipe_sha256"] for record in found} == {sha256}


def test_samples_seed_and_prompts_are_the_commands(command, love):
    options = ("--samples", 1, "--seed", 9, "-p", "I am", "-p", "The ship sailed", "--batch-rows", 1)
    found = records(
        command("generate", love, "--scan", "1,2", *options, "--set", "additions.0.position=every", "--json")[
            1
        ]
    )
    assert [(record["prompt"], record["seed"]) for record in found] == [
        *([("I am", 9)] * 3),
        *([("The ship sailed", 9)] * 3),
    ]


@pytest.mark.parametrize("width", [40, 63, 80, 140])
def test_a_row_has_its_setting_text_counts_and_cost(width, command, love, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = command("generate", love, "--scan", "-400:400:400")
    assert (code, err) == (0, "")
    assert all(cell_len(line) <= width for line in out.splitlines())
    rules = [index for index, line in enumerate(out.splitlines()) if set(line) == {"─"}]
    rows = [" ".join(out.splitlines()[start + 1 :]) for start in rules]
    assert [re.split(r"  +", row.strip())[0] for row in rows] == ["coefficient", "-400", "0", "+400"]
    assert "unsteered" in rows[2].split("+400")[0]
    assert out.count(LEAVES) == 3  # the legend and two rows
    assert len(re.findall(r"any +\d+\.\d\d ±\d\.\d\d", out)) == 3
    found = records(command("generate", love, "--scan", "-400:400:400", "--jsonl")[1])
    for coefficient, row in zip((-400, 400), (rows[1].split(" 0 ")[0], rows[3]), strict=True):
        cost = fmean(record["cost"] for record in found if record["coefficient"] == coefficient)
        assert f"cost {cost:5.2f} ±" in row and reads_like(cost) in " ".join(row.split())
        blocks = next(line for line in out[out.index(f"cost {cost:5.2f}") :].splitlines()).count("▪")
        assert blocks == (round(cost / 0.5) if cost < 4 else 7)


def test_a_grid_names_both_values_and_what_stays(command, recipe_file, tiny_folder):
    other = {"plus": " ship", "layer": [1, 3], "coefficient": -2, "position": {"token": " friend"}}
    path = recipe_file(tiny_folder("llama"), LOVE, other, prompt=PROMPT, sampling=SAMPLING)
    out = command("generate", path, "--scan", "2,5", "--scan-layers", "1,3", "-n", 1)[1]
    assert "moved: 'Love' - 'Hate'  front\n" in re.sub(" +\n", "\n", out)
    assert "stays: ' ship'  layer 1, 3  coefficient -2  token ' friend'" in out
    lines = [line.split() for line in out.splitlines()]
    pairs = [(one[0], two[0]) for one, two in pairwise(lines) if one and two]
    assert {("layer", "coefficient"), ("1", "+2"), ("1", "+5"), ("3", "+2"), ("3", "+5")} <= {*pairs}
    assert "±" not in out and "sample" not in out


def test_a_row_as_the_unsteered_one_and_one_that_cannot_be_run_say_so(command, love):
    out = command("generate", love, "--scan", "1e-30,1e-3,2")[1]
    assert "cannot be run: 'Love' - 'Hate': does nothing" in " ".join(out.split())
    assert "the same as unsteered" in out
    half = ("--dtype", "float16", "--scan", "1e12,2")
    assert "finite" in " ".join(command("generate", love, *half)[1].split())
    found = records(command("generate", love, *half, "--jsonl")[1])
    [fault] = [record["error"] for record in found if record["error"]]
    assert fault.endswith("or --dtype float32")
    code, _, err = command("generate", love, "--scan", "1e-30", "--jsonl")
    assert code == 1 and err.startswith("error: no row could be run: ")


def test_long_labels_are_cut_and_keep_their_lines(command, love):
    changes = ("--set", "count.a_long_label_1=['a']", "--set", "count.a_long_label_2=['e']")
    out = command("generate", love, "--scan", "2", *changes)[1]
    assert len(re.findall(r"a_long_la… +\d+\.\d\d ±\d\.\d\d", out)) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--scan", "1:2:0"), "--scan 1:2:0: the step of 1:2:0 is not above 0; write -1:4:0.5 or 1,2"),
        (("--scan", "2:1"), "--scan 2:1: 2:1 holds no value; write -1:4:0.5 or 1,2"),
        (("--scan=nan",), "--scan nan: nan is not a value; write -1:4:0.5 or 1,2"),
        (("--scan", ""), "--scan : nothing is not a value; write -1:4:0.5 or 1,2"),
        (("--scan-layers", "x"), "--scan-layers x: x is not a value; write 0:30 or 6,16"),
        (
            ("--scan-layers", "0:9"),
            "--scan-layers 0:9: no layer 5; the model has 0 to 4, so --scan-layers 0:5 is all of them",
        ),
        (
            ("--scan", "1:99", "--scan-layers", "0:5"),
            "--scan: 495 rows, more than the 256 that a strip may have; take fewer, or measure them with "
            "`steer sweep`",
        ),
        (("--scan", "0"), "every row would be the unsteered one; scan coefficients other than 0"),
        (
            ("--scan", "1", "--control", "random"),
            "--control random: a scan has rows and no columns; leave it out",
        ),
    ],
)
def test_what_cannot_be_scanned_is_one_line(options, said, command, love):
    found = error(command("generate", love, *options))
    assert found == said or found.endswith(f": {said}")


@pytest.mark.parametrize(
    ("text", "other", "shared"),
    [
        (" of your mind", " of your body", " of your "),
        (" of you", " of your", " of "),
        (" of you.", " of you!", " of you"),
        ("no", "yes", ""),
        ("", "yes", ""),
        ("the same", "the same", "the same"),
        ("the same", "the same old", "the same"),
    ],
)
def test_a_text_leaves_another_at_a_word(text, other, shared):
    assert text[: shared_beginning(text, other)] == shared
    assert other[: shared_beginning(other, text)] == shared
