"""What each command prints, on the screen and as records, and what it answers to input that is at fault.

The commands run in this process; test_process.py holds what only a process of its own can show.
"""

import json
import re
import shlex
import unicodedata
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len
from typer.testing import CliRunner

from steer_cli.cli import (
    app,
    bake,
    check,
    export,
    generate,
    models,
    norms,
    perplexity,
    recipes,
    schema,
    score,
    shift,
    sweep,
    table,
    tune,
)
from steer_cli.recipe.bundled import find, shipped
from steer_cli.recipe.load import schema as recipe_schema

PROMPT = "I hate you because"
LONG = "I hate you because you are late and you ate my cake at the gate of the old city"
RECIPE = """\
name: love
description: Turn an insult into praise.
prompt: I hate you because
model: {model}
additions:
  - {{plus: Love, minus: Hate, layer: [1, 2], coefficient: 3}}
  - {{plus: " wedding", layer: 3, position: {{token: " hate"}}, coefficient: -1}}
sampling: {{max_new_tokens: 6, samples: 2, seed: 5}}
count: {{wedding: [wedding, weddings]}}
"""


def steer(*args: object, code: int = 0, **more):
    """Run the command; a traceback fails the test, and so does another exit code."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="steer", **more)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def records(result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.removesuffix("\n").split("\n")]


def fault(*args: object, **more) -> str:
    """The one line that says what is at fault, without `error: `; nothing may have been printed as data."""
    result = steer(*args, code=1, **more)
    assert result.stdout == ""
    # Notes, such as that the hub is asked, come before it.
    assert result.stderr.count("error: ") == 1
    said = result.stderr[result.stderr.index("error: ") :]
    assert said.endswith("\n") and len(said.splitlines()) == 1, said
    assert len(said) < 520, said
    return said.removeprefix("error: ").rstrip("\n")


def usage_fault(*args: object) -> str:
    result = steer(*args, code=2)
    assert result.stdout == ""
    return result.stderr


@pytest.fixture(scope="module")
def llama(tiny_folder) -> Path:
    import torch

    # Passes over a tiny model are milliseconds of work, which threads only slow down.
    torch.set_num_threads(1)
    return tiny_folder("llama")


@pytest.fixture(scope="module")
def love(llama, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "love.yaml"
    file.write_text(RECIPE.format(model=llama), encoding="utf-8")
    return file


def short(love: Path, *args: object, **more):
    """`steer generate --jsonl`, a token for each prompt."""
    changes = ["--set", "sampling.max_new_tokens=1", "--set", "additions.1.position=front"]
    return steer("generate", love, "--jsonl", "-n", 1, *changes, *args, **more)


# ---- generate: records and screen

ARM = ["text", "tokens", "finish", "mean_logprob", "counts"]


def test_a_record_of_generate_has_the_names_of_the_format_in_its_order(love, llama):
    found = records(steer("generate", love, "--jsonl", "-p", PROMPT, "-p", "I hate you because you ate"))
    assert [(record["prompt"], record["sample"]) for record in found] == [
        (PROMPT, 0),
        (PROMPT, 1),
        ("I hate you because you ate", 0),
        ("I hate you because you ate", 1),
    ]
    for record in found:
        top = [
            "recipe",
            "recipe_sha256",
            "model",
            "prompt",
            "sample",
            "seed",
            "unsteered",
            "steered",
            "additions",
            "sums",
        ]
        assert list(record) == top
        assert (record["recipe"], record["model"], record["seed"]) == ("love", str(llama), 5)
        assert re.fullmatch("[0-9a-f]{64}", record["recipe_sha256"])
        for arm in ("unsteered", "steered"):
            assert list(record[arm]) == ARM
            assert 1 <= len(record[arm]["tokens"]) <= 6
            assert record[arm]["finish"] == ("length" if len(record[arm]["tokens"]) == 6 else "eos")
            assert record[arm]["mean_logprob"] < 0
            assert list(record[arm]["counts"]) == ["wedding"]
        for addition in record["additions"]:
            names = ["layer", "coefficient", "position", "span", "files", "ratio", "cosine", "agreement"]
            assert list(addition) == names and addition["files"] == {} and addition["agreement"] is None
            start, end = addition["span"]
            assert len(addition["ratio"]) == len(addition["cosine"]) == end - start
        # A line for each addition and layer.
        where = [(part["layer"], part["coefficient"], part["position"]) for part in record["additions"]]
        assert where == [(1, 3.0, "front"), (2, 3.0, "front"), (3, -1.0, {"token": " hate"})]
        assert [part["span"] for part in record["additions"]] == [[0, 3], [0, 3], [2, 4]]
        assert record["sums"] == []  # no layer has two of them


def test_the_digest_in_a_record_is_that_of_the_file(love):
    import hashlib

    (record,) = records(short(love))
    (plain,) = records(steer("generate", love, "--jsonl", "-p", PROMPT, "--set", "sampling.samples=1"))
    (whole, _) = records(steer("generate", love, "--jsonl"))
    assert whole["recipe_sha256"] == hashlib.sha256(love.read_bytes()).hexdigest()
    assert len({record["recipe_sha256"], plain["recipe_sha256"], whole["recipe_sha256"]}) == 3


def test_the_screen_shows_what_the_records_hold_side_by_side(love, llama):
    found = records(steer("generate", love, "--jsonl"))
    # So wide that nothing is folded but at a completion's own line breaks.
    screen = steer("generate", love, env={"COLUMNS": "1000"}).stdout
    lines = screen.splitlines()
    assert lines[0].startswith("love   ") and lines[0].rstrip().endswith(f"   {llama}")
    assert "Turn an insult into praise." in screen[: screen.index(PROMPT)]
    heads = [line for line in lines if line.split() == ["unsteered", "steered"]]
    assert len(heads) == 1
    for record in found:
        both = [record[arm]["text"] for arm in ("unsteered", "steered")]
        # The first line of both, on one line of the screen, in this order.
        left, right = (shown(text).split("\n")[0].split("\t")[0].strip() for text in both)
        assert any(left in line and right in line[line.index(left) + len(left) :] for line in lines)
        for text in both:
            assert all(word in screen for word in shown(text).split())
    (counted,) = (line for line in lines if "words per completion" in line)
    means = [sum(record[arm]["counts"]["wedding"] for record in found) / len(found) for arm in ARMS]
    assert counted.split()[:4] == ["wedding", f"{means[0]:.2f}", "→", f"{means[1]:.2f}"]
    assert sum(line.startswith("cost  ") for line in lines) == 1


ARMS = ("unsteered", "steered")


def test_a_description_is_not_shown_of_what_it_does_not_describe(love, llama):
    words, change = "Turn an insult into praise.", ["--set", "additions.0.coefficient=1"]
    shown = {
        "none": steer("table", love).stdout,
        "prompt": steer("table", love, "-p", "I hate them so much").stdout,
    }
    changed = {
        "model": steer("table", love, "-m", llama).stdout,
        "addition": steer("table", love, *change).stdout,
    }
    assert [words in screen for screen in (*shown.values(), *changed.values())] == [True, True, False, False]
    assert "Mine" in steer("table", love, *change, "--set", "description=Mine").stdout


def test_explain_shows_every_receipt(love):
    additions = records(steer("generate", love, "--jsonl"))[0]["additions"]
    screen = steer("generate", love, "--explain", env={"COLUMNS": "1000"}).stdout
    for name in ("|vector|", "|stream|", "ratio", "cosine"):
        assert screen.count(name) == 3
    for addition in additions:
        for ratio, cosine in zip(addition["ratio"], addition["cosine"], strict=True):
            added = re.escape(f"{abs(addition['coefficient']) * ratio:.2f}")
            assert re.search(rf" {ratio:.3f} +{re.escape(format(cosine, '+.2f'))} +{added} x\s*\n", screen)


def shown(text: str) -> str:
    """What the screen holds in place of a text: signs for control characters."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"
        for c in text
    )


def test_the_options_stand_for_keys_of_the_recipe(love):
    by_option = records(steer("generate", love, "--jsonl", "--samples", 1, "--seed", 9))
    by_set = records(
        steer("generate", love, "--jsonl", "--set", "sampling.samples=1", "--set", "sampling.seed=9")
    )
    for record in (*by_option, *by_set):
        record.pop("recipe_sha256")
    assert by_option == by_set
    assert [(record["sample"], record["seed"]) for record in by_option] == [(0, 9)]


# ---- the alignment table


def test_a_record_of_table_has_the_names_of_the_format_in_its_order(love, llama):
    found = records(steer("table", love, "--json", "-p", PROMPT, "-p", "I hate you"))
    assert [record["prompt"] for record in found] == [PROMPT, "I hate you"]
    for record in found:
        assert list(record) == ["recipe", "model", "prompt", "rows"]
        assert (record["recipe"], record["model"]) == ("love", str(llama))
        for row in record["rows"]:
            names = ["layer", "coefficient", "role", "start", "tokens", "ids", "padding", "read"]
            assert list(row) == [*names, "mean_from", "file", "sha256", "special"]
            assert len(row["tokens"]) == len(row["ids"]) >= row["padding"] >= 0
        assert [(row["layer"], row["coefficient"], row["role"], row["start"]) for row in record["rows"]] == [
            (0, 1, "prompt", 0),
            (1, 3, "plus", 0),
            (1, -3, "minus", 0),
            (2, 3, "plus", 0),
            (2, -3, "minus", 0),
            (3, -1, "plus", 2),
        ]
        assert "".join(record["rows"][0]["tokens"][1:]) == record["prompt"]
        assert record["rows"][1]["tokens"] == ["<s>", "Love", " "]
        assert record["rows"][1]["padding"] == 1


def test_the_table_of_every_shows_the_token_that_each_text_is_read_at(love):
    args = [love, "-p", PROMPT, "--set", "additions.0.position=every"]
    (record,) = records(steer("table", *args, "--json"))
    plus, minus = record["rows"][1:3]
    assert (plus["tokens"], plus["read"], plus["padding"], plus["start"]) == (["<s>", "Love"], 1, 0, 1)
    assert (minus["tokens"], minus["read"], minus["start"]) == (["<s>", "H", "ate"], 2, 1)
    assert [row["read"] for row in (record["rows"][0], record["rows"][-1])] == [None, None]
    shown = drawn(steer("table", *args, env={"COLUMNS": "140"}).stdout)
    assert shown["1, 2", "+3", 0] == {1: "Love →"} and shown["1, 2", "-3", 0] == {1: "ate →"}


def drawn(screen: str) -> dict[tuple[str, str, int], dict[int, str]]:
    """The tables of a screen, put together again: (layer, coefficient, number) -> position -> token."""
    rows: dict = {}
    starts: list[tuple[int, int]] = []
    row: dict = {}
    for line in screen.splitlines():
        if re.match(r"layer +coef ", line):
            starts = [(int(found[0]), found.start()) for found in re.finditer(r"\d+", line)]
            seen = []
        elif not line.strip() or "space" in line:
            starts = []
        elif starts and "─" not in line:
            layer, coefficient = re.match(r"(.*?)\s*([-+]\S+)?\s*$", line[: starts[0][1]]).groups()
            # Without a label the line goes on with the token that did not fit the one above.
            if layer:
                key = (layer, coefficient)
                row = rows.setdefault((*key, seen.count(key)), {})
                seen.append(key)
            for (position, left), (_, right) in zip(starts, [*starts[1:], (0, len(line))], strict=True):
                row[position] = row.get(position, "") + line[left:right].strip()
    return {key: {at: token for at, token in row.items() if token} for key, row in rows.items()}


def expected(rows: list[dict]) -> dict[tuple[str, str, int], dict[int, str]]:
    made: dict = {}
    for row in rows:
        layer = "0 (prompt)" if row["role"] == "prompt" else str(row["layer"])
        tokens = [token.replace(" ", "·") for token in row["tokens"]]
        if row["padding"]:
            tokens[-row["padding"] :] = ["␣"] * row["padding"]
        made[layer, f"{row['coefficient']:+g}", 0] = dict(enumerate(tokens, row["start"]))
    return made


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize("command", [["table"], ["generate", "--explain"]], ids=" ".join)
def test_the_table_is_folded_and_loses_no_token(command, width, love):
    # One layer an addition: on the screen, rows that differ in nothing but the layer are one.
    args = [love, "-p", LONG, "--set", "additions.0.layer=1"]
    (record,) = records(steer("table", *args, "--json"))
    screen = steer(*command, *args, env={"COLUMNS": str(width)}).stdout
    assert drawn(screen) == expected(record["rows"])
    assert max(map(cell_len, screen.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_token_wider_than_the_screen_is_folded_too(width, gpt2_tokenizer_folder, tmp_path):
    # GPT-2 has a token of 64 dashes: a rule in a text file.
    dashes, file = 64 * "-", tmp_path / "rule.yaml"
    file.write_text(
        f"prompt: 'a {dashes}'\nmodel: {gpt2_tokenizer_folder}\nadditions: [{{plus: Love, layer: 1}}]\n",
        "utf-8",
    )
    screen = steer("table", file, env={"COLUMNS": str(width)}).stdout
    assert dashes in "".join(drawn(screen)["0 (prompt)", "+1", 0].values())
    assert max(map(cell_len, screen.splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize(
    "prompt",
    [LONG, "I hate 日本語日本語日本語 😀😀😀", "I hate " + 30 * "x" + 60 * "y"],
    ids=["long", "wide", "word"],
)
def test_no_line_is_wider_than_the_screen(prompt, width, love):
    for option in ([], ["--explain"]):
        screen = steer("generate", love, "-p", prompt, *option, env={"COLUMNS": str(width)}).stdout
        assert max(map(cell_len, screen.splitlines())) <= width


def test_layers_that_differ_in_nothing_else_share_a_row(love):
    screen = steer("table", love, "--set", "additions.0.layer=[0, 1, 2, 4]").stdout
    assert ("0, 1, 2, 4", "+3", 0) in drawn(screen)
    assert ("0-3", "+3", 0) in drawn(steer("table", love, "--set", "additions.0.layer=[0, 1, 2, 3]").stdout)


# ---- nothing that came from a text steers the terminal

ESCAPES = {
    "name": "na\x1b[31mme",
    "description": "clear \x1b[2J\x9b31m [bold]screen[/] \u202egnol \u2028 :smile:",
    "prompt": "I \x1b[31mhate\x1b]0;title\x07 [bold]you[/bold] \x9b2J\x7f\u202e because\r :smile:",
    "plus": "Lo\x1b[1mve [red]",
    "minus": "Ha\x1bcte\x08",
    "label": "we\x1b[1md [blink]",
}


@pytest.fixture
def escaping(llama, tmp_path) -> Path:
    recipe = {
        "name": ESCAPES["name"],
        "description": ESCAPES["description"],
        "prompt": ESCAPES["prompt"],
        "model": str(llama),
        "additions": [
            {"plus": ESCAPES["plus"], "minus": ESCAPES["minus"], "layer": 2, "coefficient": 2},
            {"plus": "a", "layer": 2, "position": {"token": "\x1b"}},
        ],
        # Hot enough that the tiny model draws control characters of its own.
        "sampling": {"max_new_tokens": 60, "samples": 4, "temperature": 3, "top_p": 1},
        "count": {ESCAPES["label"]: ["a"]},
    }
    file = tmp_path / "escaping.yaml"
    file.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return file


def steering(text: str) -> set[str]:
    """Characters that a terminal acts on, the line break apart."""
    return {c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}


@pytest.mark.parametrize("command", ["generate", "table", "check"])
def test_no_escape_sequence_of_a_recipe_or_a_model_reaches_the_screen(command, escaping):
    if command == "generate":
        completions = [
            record["steered"]["text"] for record in records(steer("generate", escaping, "--jsonl"))
        ]
        assert steering("".join(completions))  # else this test shows nothing of the model's texts
    result = steer(command, escaping)
    assert not steering(result.stdout + result.stderr)


@pytest.mark.parametrize("command", [("generate", "--jsonl"), ("table", "--json")])
def test_records_hold_such_texts_whole_and_escape_them(command, escaping):
    result = steer(command[0], escaping, command[1])
    # Not those that only change the direction of letters: they are part of ordinary texts, as in emoji.
    assert not [c for c in steering(result.stdout) if unicodedata.category(c) == "Cc"]
    for record in records(result):
        assert (record["recipe"], record["prompt"]) == (ESCAPES["name"], ESCAPES["prompt"])
    if command[0] == "generate":
        assert list(record["steered"]["counts"]) == [ESCAPES["label"]]


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "\x1b[31m\x9b.yaml"],
        ["check", "\x1b[31m\x9b.yaml"],
        ["recipes", "\x1b[31m\x9b"],
        ["generate", "RECIPE", "--set", "\x1b[31m\x9b=3"],
        ["generate", "RECIPE", "--set", "prompt=\x1b[31m\x9b", "--set", "additions.1.position={token: q}"],
        ["generate", "RECIPE", "--prompts", "\x1b[31m\x9b"],
        ["table", "RECIPE", "--model", "./\x1b[31m\x9b"],
        ["generate", "RECIPE", "--device", "\x1b[31m\x9b"],
        ["models", "pull", "\x1b[31m\x9b"],
    ],
    ids=" ".join,
)
def test_no_escape_sequence_reaches_the_screen_by_way_of_an_error(args, love):
    assert not steering(fault(*[love if arg == "RECIPE" else arg for arg in args]))


def test_an_error_is_one_line_whatever_the_input_holds(tmp_path):
    assert "b.yaml" in fault("check", "a\nb.yaml")
    (tmp_path / "r.yaml").write_text('additions: [{plus: a, layer: 1, "x\\ny": 1}]\n')
    assert "r.yaml:1: additions.0" in fault("check", tmp_path / "r.yaml")


def test_markup_is_shown_as_it_is_written(love):
    prompt = "I hate [bold]you[/bold] [/] [red :smile: [link=x]y"
    screen = steer(
        "generate", love, "-p", prompt, "--set", 'name="[red]love[/]"', env={"COLUMNS": "300"}
    ).stdout
    assert screen.startswith("[red]love[/]   ")
    assert screen.count(prompt) == 1
    assert "'[red]b/c/d'" in fault("table", love, "--model", "[red]b/c/d")


def test_a_pipe_gets_no_colours(love):
    for args in (["generate", love], ["table", love], ["recipes"], ["models"], ["--help"], ["check", love]):
        result = steer(*args)
        assert "\x1b" not in result.stdout + result.stderr


# ---- prompts


def prompts_of(result) -> list[str]:
    return [record["prompt"] for record in records(result)]


LINES = ["I hate you", "I hate my friend", " I hate the \t wedding"]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(LINES).encode(),
        ("\n".join(LINES) + "\n").encode(),
        ("\n\n" + "\n \n".join(LINES) + "\n\n").encode(),
        ("\r\n".join(LINES) + "\r\n").encode(),
        ("\ufeff" + "\n".join(LINES)).encode(),
    ],
    ids=["bare", "last line ended", "empty lines", "CRLF", "BOM"],
)
def test_a_file_of_prompts_is_one_a_line(content, love, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(content)
    assert prompts_of(short(love, "--prompts", tmp_path / "prompts.txt")) == LINES
    assert prompts_of(short(love, "--prompts", "-", input=content)) == LINES


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0c", "\x1e"])
def test_only_a_line_feed_ends_a_prompt(sign, love):
    # Other signs that Python takes for the end of a line do stand in texts of the web.
    assert prompts_of(short(love, "--prompts", "-", input=f"I hate{sign}you\n".encode())) == [
        f"I hate{sign}you"
    ]


def test_prompts_of_options_come_before_those_of_a_file_and_replace_the_recipes(love):
    found = short(love, "-p", "I hate a", "--prompt", "I hate b", "--prompts", "-", input=b"I hate c\n")
    assert prompts_of(found) == ["I hate a", "I hate b", "I hate c"]


def test_prompts_that_cannot_be_read_are_named(love, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "blank").write_bytes(b" \n\n")
    (tmp_path / "latin").write_bytes(b"I hate\nyou \xe9\n")
    said = {
        name: fault("generate", love, "--prompts", tmp_path / name) for name in ("empty", "blank", "missing")
    }
    for name, line in said.items():
        assert line.startswith(f"--prompts {tmp_path / name}: ")
    assert "no prompt in it; write one per line" in said["empty"]
    assert "no prompt in it" in said["blank"]
    assert "No such file" in said["missing"]
    assert fault("generate", love, "--prompts", tmp_path).startswith(f"--prompts {tmp_path}: ")
    latin = fault("generate", love, "--prompts", tmp_path / "latin")
    assert latin.startswith(f"--prompts {tmp_path / 'latin'}:2: not UTF-8")
    assert fault("generate", love, "--prompts", "-", input=b"").startswith("--prompts -: no prompt")


def test_a_recipe_without_a_prompt_says_how_to_give_one(love):
    for command in ("generate", "table"):
        said = fault(command, love, "--set", "prompt=null")
        assert said == 'love: no prompt; add -p "I hate you because", or `prompt: ...` to a recipe'
    assert prompts_of(short(love, "--set", "prompt=null", "-p", "I hate")) == ["I hate"]


# ---- faults of options and files


@pytest.mark.parametrize(
    "args, fragment",
    [
        (["--samples", 0], "--samples 0: sampling.samples: 0 is not a whole number from 1"),
        (["--samples", -3], "--samples -3: sampling.samples: -3 is not a whole number"),
        (["--seed", -1], "--seed -1: sampling.seed: -1 is not a whole number, 0 or more"),
        (["--seed", 2**70], "--seed 1180591620717411303424: sampling.seed"),
        (["--set", "additions.0.layer=7"], "layer 7 is too deep"),
        (["--set", "sampling.max_new_tokens=1000"], "lower sampling.max_new_tokens"),
        (["--set", "additions.0.coefficient=1e300"], "is not a finite number such as 5 or -0.5, up to 1e+12"),
        (["--set", "additions.0.coefficient=1e12", "--dtype", "float16"], "no longer finite"),
        (["--samples", 10**30], f"--samples {10**30}: sampling.samples: "),
        (["--set", f"sampling.top_k={10**30}"], "1 or more, or null; at most 10000000"),
        (["--set", f"additions.0.layer={'9' * 400}%"], "shares from 0% to below 100%"),
        (["--set", f"additions.0.plus={'9' * 4000}"], "additions.0.plus: 9999"),
        (["--model", "a\0b.gguf"], "#x0000"),
        (["--prompts", "a\0b"], "--prompts a␀b: "),
        pytest.param(
            ["-p", "a" * 10_000_001], "more than 10000000 characters; shorten it", id="a long prompt"
        ),
        (["--set", "bos=nonsense words"], "bos: 'nonsense words' is not a token of this model"),
        (["--set", "additions.0.pad=two words"], "additions.0.pad: 'two words' is not one token"),
        (
            ["--set", "additions.0.minus=Love"],
            "--set additions.0.minus=Love: does nothing: plus and minus have the same tokens",
        ),
        (["--set", "additions.1.position={at: 4}"], "overflow: clip"),
        (["--device", "nonsense"], "--device 'nonsense': not on this machine; it has"),
        (["--device", ""], "--device ''"),
        (["--device", "meta"], "--device 'meta'"),
        (["--model", ""], "--model : model: '' is not a text of at least one character"),
        (
            ["--model", "a b"],
            "model 'a b': not a hub id, a folder or a file; models that need no hub: smollm2-135m",
        ),
        (["--model", "./nowhere"], "model './nowhere': no such folder or file"),
        (["--model", "nowhere.gguf"], "nowhere.gguf: No such file"),
        (["--model", "\udcff"], "not UTF-8"),
        (["-p", "\udcff"], "not UTF-8"),
    ],
    ids=lambda value: (
        " ".join(map(str, value)).encode("ascii", "replace").decode() if type(value) is list else ""
    ),
)
def test_a_faulty_option_is_one_clear_line(args, fragment, love):
    assert fragment in fault("generate", love, *args)


@pytest.mark.parametrize(
    "args",
    [
        ["generate", "r", "--samples", "abc"],
        ["generate", "r", "--samples", "1.5"],
        ["generate", "r", "--seed", "abc"],
        ["generate", "r", "--nonsense"],
        ["table", "r", "--nonsense", "3"],
        ["check"],
        ["recipes", "a", "b"],
        ["models", "nonsense"],
        ["models", "pull"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(args):
    assert "Usage: steer" in usage_fault(*args)


@pytest.mark.parametrize("value", ["nonsense", "", "FLOAT32", "int8"])
@pytest.mark.parametrize("option, right", [("--dtype", "bfloat16"), ("--device-map", "auto")])
def test_a_choice_that_is_none_is_wrong_usage_and_the_choices_are_told(option, right, value, love):
    said = usage_fault("generate", love, option, value)
    assert f"'{option}'" in said and f"'{value}'" in said and f"'{right}'" in said


def test_files_that_are_no_model_are_named(love, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    said = fault("generate", love, "--model", tmp_path)
    assert "model.safetensors missing" in said and str(tmp_path) in said
    assert "no tokenizer.json" in fault("table", love, "--model", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pickled weights, which are refused" in fault("generate", love, "--model", tmp_path)
    assert "pickled weights are refused" in fault("generate", love, "--model", tmp_path / "pytorch_model.bin")
    (tmp_path / "tokenizer.json").write_text("{")
    assert "tokenizer cannot be read" in fault("table", love, "--model", tmp_path)
    (tmp_path / "fake.gguf").write_bytes(b"none")
    assert "not a GGUF file" in fault("generate", love, "--model", tmp_path / "fake.gguf")


def test_a_recipe_comes_from_standard_input(love):
    content = love.read_bytes()
    one, other = (
        records(steer("generate", "-", "--jsonl", input=content)),
        records(steer("generate", love, "--jsonl")),
    )
    assert one == other
    assert steer("check", "-", input=content).stdout.startswith("-: ok")
    assert "put one of them in a file" in fault("generate", "-", "--prompts", "-", input=content)
    assert fault("check", "-", input=b"prompt: a\n").startswith("<stdin>:1: additions: missing")


# ---- check, schema, recipes, models


def test_check_tells_of_every_file(love, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("additions:\n  - plus: 3\n    layer: x\n")
    result = steer("check", love, bad, tmp_path / "missing.yaml", next(iter(shipped())), code=1)
    assert result.stdout.splitlines() == [
        f"{love}: ok (2 additions, 1 prompt)",
        f"{next(iter(shipped()))}: ok (1 addition, 1 prompt)",
    ]
    first, second, third = result.stderr.splitlines()
    assert first.startswith(f"error: {bad}:2: additions.0.plus: 3 is not text")
    assert second.startswith(f"error: {bad}:3: additions.0.layer: 'x' is not a block")
    assert third.startswith(f"error: {tmp_path / 'missing.yaml'}: no such file")


def test_check_takes_every_recipe_that_ships():
    assert steer("check", *shipped()).stdout.count(": ok (") == len(shipped())


def test_schema_prints_json():
    assert json.loads(steer("schema").stdout) == recipe_schema()


def test_recipes_lists_what_ships(love):
    found = records(steer("recipes", "--json"))
    assert [record["name"] for record in found] == list(shipped())
    assert all(list(record) == ["name", "model", "description", "measured", "source"] for record in found)
    screen = steer("recipes").stdout
    names = [line.split()[0] for line in screen.splitlines()[1:] if not line.startswith(" ")]
    assert names == list(shipped())
    for record in found:
        # What it does is one line of a narrow terminal; what was found stands apart from it.
        assert f"{record['name']} " in screen and record["description"] in screen
        assert record["measured"] and "Measured" not in record["description"]
    narrow = steer("recipes", env={"COLUMNS": "80"}).stdout.splitlines()
    assert len(narrow) == 1 + len(found)


def test_recipes_prints_one_as_it_is_in_its_file(love):
    for name, file in shipped().items():
        assert steer("recipes", name).stdout_bytes == file.read_bytes()
    assert steer("recipes", love).stdout_bytes == love.read_bytes()
    assert "did you mean love-hate" in fault("recipes", "love-hat")


def test_recipes_of_what_is_no_recipe(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"prompt: \xe9\n")
    assert f"{tmp_path / 'latin.yaml'}:1: not UTF-8 text" in fault("recipes", tmp_path / "latin.yaml")
    assert fault("recipes", "-", input=b"")
    assert "is a folder" in fault("recipes", tmp_path)


def test_models_lists_the_catalogue():
    found = records(steer("models", "--json"))
    assert [record["name"] for record in found] == ["smollm2-135m", "gemma3-270m"]
    keys = ["name", "title", "blocks", "width", "download_bytes", "disk_bytes", "licence", "folder"]
    assert all(list(record) == keys for record in found)
    screen = steer("models").stdout
    for record in found:
        assert f"{record['name']} " in screen
        assert record["licence"].split()[0] in screen
    assert fault("models", "pull", "nonsense") == (
        "nonsense: not in the catalogue, which has smollm2-135m, gemma3-270m"
    )


# ---- help, version, completion

HELPS = {
    ("generate",): generate.HELP,
    ("table",): table.HELP,
    ("check",): check.HELP,
    ("schema",): schema.HELP,
    ("recipes",): recipes.HELP,
    ("models",): models.HELP,
    ("models", "pull"): models.PULL_HELP,
    ("models", "check"): models.CHECK_HELP,
    ("shift",): shift.HELP,
    ("perplexity",): perplexity.HELP,
    ("norms",): norms.HELP,
    ("sweep",): sweep.HELP,
    ("export",): export.HELP,
    ("bake",): bake.HELP,
    ("score",): score.HELP,
    ("tune",): tune.HELP,
}


def commands(group, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found.append((*above, name))
        found += commands(command, found[-1]) if hasattr(command, "commands") else []
    return found


def test_the_helps_below_are_all_there_are():
    assert sorted(HELPS) == sorted(commands(typer.main.get_command(app)))


def examples(command: tuple[str, ...]) -> list[str]:
    return list(HELPS[command].examples)


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
@pytest.mark.parametrize("width", [80, 140])
def test_help_ends_with_examples_that_can_be_pasted(command, width):
    lines = [
        line.strip() for line in steer(*command, "--help", env={"COLUMNS": str(width)}).stdout.splitlines()
    ]
    shown = lines[lines.index("Examples:") :]
    assert any(example.startswith("steer ") or "| steer" in example for example in examples(command))
    for example in examples(command):
        # Whole, on one line: two halves cannot be pasted.
        assert example in shown
    assert steer(*command, "-h").stdout == steer(*command, "--help").stdout


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_examples_name_commands_options_and_recipes_that_there_are(command):
    group = typer.main.get_command(app)
    for example in examples(command):
        for part in re.split(r"&&|\|(?! *jq)", example):
            words = shlex.split(part.split("|")[0])
            if words[:1] != ["steer"]:
                continue
            chosen = group.commands[words[1]]
            below = getattr(chosen, "commands", {})
            chosen = below.get(words[2], chosen) if words[2:] else chosen
            options = {option for parameter in chosen.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options
            if words[1] in ("generate", "table") and words[2] != "--plus":
                assert find(words[2]).is_file()
            if words[1:3] == ["models", "pull"]:
                assert words[3] in [record["name"] for record in records(steer("models", "--json"))]


def test_help_of_the_whole_names_every_command():
    text = steer("--help").stdout
    for name, command in typer.main.get_command(app).commands.items():
        # What it does stands there whole, not cut off.
        does = command.help.split("\n\n")[0]
        assert re.search(rf"^ +{name} +{re.escape(does)}$", text, re.MULTILINE)
    # Without a command the same help, as wrong usage.
    assert "Usage: steer" in steer(code=2).stdout


def test_version_is_that_of_the_package():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', project, re.MULTILINE)
    assert steer("--version").stdout == f"steer {version}\n"


def complete(words: str) -> list[str]:
    asked = {"_STEER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    return steer(env=asked).stdout.split()


def test_completion_knows_recipes_models_commands_and_options():
    assert complete("steer generate love-h") == ["love-hate"]
    assert set(complete("steer table ")) >= {name.split("/")[1] for name in shipped()}
    assert set(complete("steer check gpt2-xl/w")) == {
        name for name in shipped() if name.startswith("gpt2-xl/w")
    }
    assert complete("steer generate love-hate --model smol") == ["smollm2-135m"]
    assert complete("steer models pull gem") == ["gemma3-270m"]
    assert complete("steer gen") == ["generate"]
    assert complete("steer generate --sam") == ["--samples"]
