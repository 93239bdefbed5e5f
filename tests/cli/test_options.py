"""Options are named in cli alone: messages from below name parameters, which cli turns into options."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import typer

from steer_cli.cli import app
from steer_cli.cli.options import NAMES, error_text, in_options
from steer_cli.errors import CorpusError, RecipeError, SteerError

PACKAGE = Path(__file__).parents[2] / "steer_cli"
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] != "cli")


@cache
def options() -> set[str]:
    """The long options of all commands."""
    return options_of(typer.main.get_command(app))


def options_of(command) -> set[str]:
    found = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    for below in getattr(command, "commands", {}).values():
        found |= options_of(below)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_text_below_cli_names_an_option(file):
    named = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named |= set(re.findall(r"--[a-z][a-z-]*", node.value)) & options()
    assert not named


def test_parameters_stand_for_options_that_there_are():
    assert set(NAMES.values()) <= options()


@pytest.mark.parametrize(
    "message, shown",
    [
        ("use `dtype=float32`", "use --dtype float32"),
        ("add `column=NAME`, or take `lines`", "add --column NAME, or take --lines"),
        ("use `batch_rows=3`", "use --batch-rows 3"),
        ("at `position`", "at --at"),
        # Keys of a recipe, commands and words that are no parameter stay as they are.
        ("write `bos: none` or `overflow: clip`", "write `bos: none` or `overflow: clip`"),
        ("add `prompt: ...` to it", "add `prompt: ...` to it"),
        ("see `steer check` and `bos`", "see `steer check` and `bos`"),
        ("`dtype=", "`dtype="),
    ],
)
def test_a_parameter_in_backticks_becomes_an_option(message, shown):
    assert in_options(message) == shown


def test_an_error_of_a_parameter_begins_with_its_option():
    assert error_text(SteerError("want 'x': not one token", "want")) == "--want 'x': not one token"
    assert error_text(CorpusError("corpus a: gone; use `lines`", "corpus")) == "--corpus a: gone; use --lines"
    assert error_text(RecipeError(["device 'x': gone", "b"], parameter="device")).startswith("--device 'x': ")
    # Without a parameter the word at the start is a word.
    assert error_text(SteerError("prompt 'x': no tokens")) == "prompt 'x': no tokens"


def test_help_of_all_commands_looks_alike_and_is_never_cut():
    from typer.testing import CliRunner

    below = (["models", "pull"], ["models", "check"])
    for words in ([], ["generate"], ["sweep"], ["models"], *below, ["recipes"]):
        shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).output
        titles = re.findall(r"^(\w+):", shown, re.MULTILINE)
        assert titles[0] == "Usage" and titles[-1] == "Examples" and "Options" in titles
        assert "..." not in shown.split("Examples:")[0].replace("[ARGS]...", "")
        assert not set("│─…{}") & set(shown)
        # A metavar is a word.
        assert not re.search(r"^  -.* [A-Z](?: |$)", shown, re.MULTILINE) or words == ["sweep"]


def test_a_device_map_without_accelerate_is_one_line(monkeypatch):
    from typer.testing import CliRunner

    from steer_cli.cli import options as shared

    monkeypatch.setattr(shared.importlib.util, "find_spec", lambda name: None)
    found = CliRunner().invoke(app, ["generate", "love-hate", "--device-map", "auto"])
    assert found.exit_code == 1
    assert found.stderr == (
        "error: --device-map auto: needs accelerate; install it with: pip install accelerate\n"
    )
