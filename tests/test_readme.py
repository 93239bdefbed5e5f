"""The README is true: its examples run, its recipe loads, every command stands in its table."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from forked import COMMAND, python
from typer.testing import CliRunner

from steer_cli.cli import app
from steer_cli.recipe import load as recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def examples() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line for line in lines if "steer " in line and not line.startswith("make")]


def commands(group=None, above=()) -> dict[str, object]:
    """Every command that can be typed, by its words: `models pull`."""
    found = {}
    for name, command in (group or typer.main.get_command(app)).commands.items():
        found[" ".join((*above, name))] = command
        if hasattr(command, "commands"):
            found |= commands(command, (*above, name))
    return found


@pytest.fixture
def shell(tmp_path, real_folder):
    """Runs a line as a user would, in an empty folder, with `steer` on the path.

    With `tokens`, texts are at most that long.
    """
    shim = tmp_path / "bin" / "steer"
    shim.parent.mkdir()
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"

    def run(line: str, tokens: int | None = None, steer: Sequence[str] = ()) -> subprocess.CompletedProcess:
        fewer = f" --set sampling.max_new_tokens={tokens}" if tokens else ""
        start = f'exec {shlex.join(steer or python(COMMAND))} "$@"'
        shim.write_text(f"#!/bin/sh\ncase $1 in generate | sweep) {start}{fewer} ;; esac\n{start}\n")
        shim.chmod(0o755)
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        options = {"shell": True, "cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(line, **options)

    return run


@pytest.mark.parametrize("line", examples()[1:])
def test_an_example_of_the_readme_runs(shell, line):
    """With fewer tokens than it writes for a user."""
    done = shell(line, tokens=10)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_first_example_runs_with_the_installed_script(shell):
    script = Path(sys.executable).with_name("steer")
    steer = [str(script)] if script.exists() else [sys.executable, "-m", "steer_cli"]
    done = shell(examples()[0], steer=steer)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_guide_runs_from_top_to_bottom(shell):
    """With fewer samples and tokens than on the page, which shows figures that take minutes."""
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    commands = re.findall(r"```console\n(.*?)```", guide, re.DOTALL)
    assert len(commands) == 6
    for command in commands:
        done = shell(re.sub(r"-n (12|64)", "-n 2", command), tokens=10)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_page_on_directions_runs_from_top_to_bottom(shell):
    page = (ROOT / "docs" / "directions.md").read_text(encoding="utf-8")
    found = re.findall(r"```(console|python)\n(.*?)```", page, re.DOTALL)
    assert len(found) >= 5
    for language, block in found:
        script = shlex.join(python(block))
        done = shell(block if language == "console" else script, tokens=10)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        assert done.stdout.strip() or language == "python"


def test_the_recipe_that_travels_says_the_same_everywhere(shell):
    page = (ROOT / "docs" / "travel.md").read_text(encoding="utf-8")
    found = re.findall(r"```(console|python)\n(.*?)```", page, re.DOTALL)
    text, _of_llama_cpp = re.findall(r"says:\n\n```text\n(.*?)\n```", page, re.DOTALL)
    printed = []
    for language, block in found:
        script = shlex.join(python(block))
        done = shell(
            block.replace("bible.yaml\n", "bible.yaml --jsonl\n") if language == "console" else script
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        printed.append(done.stdout)
    here, notebook, checkpoint = printed[0], printed[1], printed[3]
    assert json.loads(here)["steered"]["text"] == notebook.rstrip("\n") == checkpoint.rstrip("\n") == text


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in links:
        assert link.startswith("http") or ((ROOT / page).parent / link).exists(), link


def test_there_are_six_things_to_try():
    section = README.split("## Six things to try")[1].split("\n## ")[0]
    assert len([line for line in section.splitlines() if "steer " in line]) == 6


def test_the_recipe_of_the_readme_is_one(tmp_path):
    (text,) = blocks("yaml")
    file = tmp_path / "readme.yaml"
    file.write_text(text)
    assert recipe.load(str(file)).additions[0].plus == "Love"


def test_both_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_command_stands_in_the_table_once():
    table = re.findall(r"^\| `steer ([a-z]+(?: pull| check)?)", README, re.MULTILINE)
    assert sorted(table) == sorted(commands())


@pytest.mark.parametrize("name", commands())
def test_every_command_has_examples_that_can_be_pasted(name):
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "300"}).output
    examples = shown.split("Examples")[1].split("─")[0]
    lines = [line.strip() for line in examples.splitlines() if "steer" in line]
    assert lines
    for line in lines:
        words = shlex.split(re.split(r"\||>|&&", line[line.index("steer ") :])[0])
        assert " ".join(words[1:]).startswith(name)
        # The options exist: with --help behind them, the line is parsed and nothing is run.
        asked = CliRunner().invoke(app, [*words[1:], "--help"])
        assert asked.exit_code == 0, asked.output


def test_the_tree_names_files_that_exist():
    tree = README.split("## The code")[1]
    names = re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert (ROOT / "steer_cli" / name).exists(), name
    parts = {path.name for path in (ROOT / "steer_cli").glob("*.py")} - {"__init__.py", "__main__.py"}
    for part in parts:
        assert part in tree, f"{part} has no line in the README's tree"
