"""What stands at the edge: records without a character that a terminal obeys, lines of errors, --debug."""

import io
import json
import os
import random
import threading
import unicodedata

import pytest
from rich.console import Console
from typer.testing import CliRunner

from steer_cli.cli import app
from steer_cli.cli.options import Debug
from steer_cli.recipe.bundled import find
from steer_cli.report import token_columns
from steer_cli.report.jsonl import line
from steer_cli.report.printable import LONGEST_ERROR, error_line

RECIPE = "prompt: a\nadditions:\n  - {plus: Love, layer: 1}\n"


def steer(*args: object, **more):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="steer", **more)


def test_a_record_is_one_line_with_nothing_that_a_terminal_obeys():
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    # From the last to the first, so that no two surrogates are a pair.
    obeyed = "".join(
        sign for sign in map(chr, range(0x10FFFF, -1, -1)) if unicodedata.category(sign) in kinds
    )
    # Of each kind, beside text of all sorts that stays as it is.
    assert {"\x1b", "\x85", "\u2028", "\u202e", "\u200d", "\ud800", "\ufeff", "\U000e0001"} <= set(obeyed)
    shown = 'é 漢字 😀 \u00a0 ␀ \ue000 \u0378 "\\'
    for record in ({"text": shown}, {"text": obeyed + shown, obeyed: [1]}):
        said = line(record)
        assert json.loads(said) == record
        assert not set(obeyed) & set(said)
        assert all(character in said for character in shown)
        assert len(said.splitlines()) == 1


def test_an_error_fits_a_screen_and_keeps_its_place_and_its_remedy():
    assert error_line("here: short\nremedy") == "here: short remedy"
    said = error_line("here: " + 9999 * "long \x1b" + " use another")
    assert len(said) <= LONGEST_ERROR
    assert said.startswith("here: long ␛") and " … " in said and said.endswith(" use another")


@pytest.mark.parametrize("command", ["check", "generate", "table"])
def test_no_error_is_longer_than_a_screen(command, tmp_path):
    file = tmp_path / "r.yaml"
    for content in (RECIPE + f"{'k' * 9999}: 1\n", f"prompt: {'9' * 4000}\n" + RECIPE[10:]):
        file.write_text(content)
        for said in steer(command, file).stderr.splitlines():
            assert said.startswith("error: ") and len(said) < LONGEST_ERROR + 10
    if command != "check":
        for change in (f"prompt.{'a' * 99999}=1", f"sampling.seed={'x' * 99999}", "x" * 99999):
            said = steer(command, "love-hate", "--set", change).stderr
            assert said.startswith("error: --set ") and len(said) < LONGEST_ERROR + 10
            assert len(said.splitlines()) == 1


def test_check_counts_the_faults_that_it_does_not_name(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE + "".join(f"k{number}: 1\n" for number in range(100)))
    result = steer("check", file)
    said = result.stderr.splitlines()
    assert (result.exit_code, len(said)) == (1, 21)
    assert said[0] == f"error: {file}:4: k0: unknown key; known keys: " + said[0].split("known keys: ")[1]
    assert said[-1] == f"error: {file}: and 80 more faults; fix these first, they may have the same cause"


# ---- steer recipes FILE


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_recipe_is_printed_byte_for_byte_into_a_pipe(tmp_path):
    file = tmp_path / "r.yaml"
    content = ("\ufeff# \u202e caf\u00e9\r\n" + RECIPE + "# no line end").encode()
    file.write_bytes(content)
    assert steer("recipes", file).stdout_bytes == content
    assert steer("recipes", "love-hate").stdout_bytes == find("love-hate").read_bytes()


def test_a_recipe_on_a_terminal_holds_nothing_that_it_obeys(tmp_path, monkeypatch):
    file, screen = tmp_path / "r.yaml", Terminal(io.BytesIO(), encoding="utf-8", write_through=True)
    file.write_bytes(("# \u202e caf\u00e9\r\n" + RECIPE).encode())
    monkeypatch.setattr("sys.stdout", screen)
    from steer_cli.cli.recipes import recipes

    recipes(str(file))
    assert screen.buffer.getvalue().decode() == "# \ufffd caf\u00e9\n" + RECIPE


@pytest.mark.parametrize("control", ["\x1b", "\0", "\x9b", "\x07"])
def test_a_file_with_raw_controls_is_no_recipe_and_is_not_printed(control, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(RECIPE + f"# {control}[2J\n", encoding="utf-8")
    result = steer("recipes", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {file}:4: not readable as YAML: the character #x{ord(control):04x} is not allowed\n"
    )


# ---- --debug


def test_debug_ends_with_its_command():
    for args in (["--debug", "check", "nowhere"], ["check", "nowhere", "--debug"]):
        assert "RecipeError" in repr(steer(*args).exception)
        after = steer("check", "nowhere")
        assert isinstance(after.exception, SystemExit) and after.stderr.startswith("error: nowhere: ")
    assert not Debug.on


# ---- the alignment table


@pytest.mark.parametrize("width", [40, 80, 140])
def test_tokens_in_columns_look_like_a_table_of_rich(width):
    generator = random.Random(width)
    texts = ["a", "·hate", "漢字", "😀", "∅", "", "␣x", "e\u0301", "--" * 20]
    for _ in range(200):
        count = generator.randint(1, 8)
        lines = [[("layer", "dim"), ("coef", "dim"), *((str(at), "dim") for at in range(count))]]
        for _ in range(generator.randint(1, 4)):
            cells = [(generator.choice(texts), "green") for _ in range(count)]
            lines.append([("0 (prompt)", ""), (f"{generator.choice([1, -2.5, 1e-7]):+.4g}", ""), *cells])
        folding = token_columns._folding_table(lines, (1,))
        assert plain(token_columns.drawn(lines, width), width) == plain(folding, width)


def plain(renderable, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False, emoji=False).print(renderable)
    return file.getvalue()


def test_a_file_without_end_is_read_to_a_bound(command):
    for arguments in (
        ("generate", "/dev/zero"),
        ("generate", "love-hate", "--prompts", "/dev/zero"),
        ("perplexity", "love-hate", "--corpus", "a=/dev/zero"),
    ):
        code, out, err = command(*arguments)
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert "/dev/zero: more than" in err


def test_a_recipe_may_come_through_a_pipe(command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    text = "prompt: I\nadditions: [{plus: Love, layer: 1}]\n"
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(text))
    writer.start()
    assert command("check", tmp_path / "pipe")[0] == 0
    writer.join()
