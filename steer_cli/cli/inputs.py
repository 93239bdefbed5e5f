"""Turn options for recipes, prompts, corpora and plots into values."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_cli.cli.changes import changes_of, check_given, recipe_of
from steer_cli.cli.direction import Chats, Direction
from steer_cli.cli.options import in_options
from steer_cli.cli.saving import check_free
from steer_cli.errors import CorpusError, PlotError, RecipeError
from steer_cli.measure import corpus as corpora
from steer_cli.measure.corpus import Columns, Corpus, parse_groups
from steer_cli.planning.text_file import is_table
from steer_cli.recipe.bundled import decode, find, read
from steer_cli.recipe.chat import Chat, Turn
from steer_cli.recipe.file_text import identified_by_file, without_stale
from steer_cli.recipe.load import load
from steer_cli.recipe.named_files import moved_to
from steer_cli.recipe.overrides import parse_override
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import Override
from steer_cli.report import progress

if TYPE_CHECKING:
    from steer_cli.events import Note
    from steer_cli.measure.evidence import Evidence
    from steer_cli.models.located import Located
    from steer_cli.planning.plan import ModelFacts


def recipe_from(
    name: str | None,
    changes: list[str] | None = None,
    prompts: list[str] | None = None,
    prompts_file: str | None = None,
    model: str | None = None,
    needs_prompt: bool = True,
    direction: Direction = Direction(),  # noqa: B008 - frozen
    save: Path | None = None,
    sampling: Mapping[str, Any] | None = None,
    chats: Chats = Chats(),  # noqa: B008 - frozen
) -> Recipe:
    """Load a recipe, or make one of the options alone, and apply the changes from the command line.

    Args:
        direction: one addition: of the recipe to make, or changes of a recipe's first.
        save: the file that the recipe will be saved in, which gives it its digest; it must not exist.
        needs_prompt: False if the command may run without prompts.
        sampling: options for keys of `sampling`; None keeps the recipe's value.
        chats: prompts that are chats, after the others.

    Raises:
        WrongUsage: there is neither a recipe nor a direction.
        RecipeError: a value is at fault; the message names its option.
    """
    check_given(name, direction, needs_prompt)
    check_free(save)
    if name is not None and direction.plus is not None:
        _check_recipe(name)
    if name == "-" and prompts_file == "-":
        raise RecipeError(["--prompts -: standard input is already the recipe; put one of them in a file"])
    overrides = [parse_override(change, f"--set {change}") for change in changes or []]
    if model is not None:
        overrides.append(Override(f"--model {model}", ("model",), model))
    for key, value in (sampling or {}).items():
        if value is not None:
            option = f"--{key.replace('_', '-')} {value}"
            # Records name samples and seed themselves; the digest tells the others apart.
            assignment = "" if key in ("samples", "seed") else f"sampling.{key}={value}"
            overrides.append(Override(option, ("sampling", key), value, str(value), assignment))
    overrides += changes_of(direction)
    _check_kept(overrides[: len(changes or [])], overrides[len(changes or []) :])
    recipe = recipe_of(direction, overrides) if name is None else load(name, overrides)
    texts: list[str | Chat] = [*(prompts or [])]
    if prompts_file is not None:
        texts += read_prompts(prompts_file)
    texts += _chats(chats)
    changed = {str(override.path[0]) for override in overrides} | ({"prompt"} if texts else set())
    recipe = without_stale(recipe, changed)
    if texts:
        recipe = recipe.with_prompts(texts)
    elif needs_prompt and not recipe.all_prompts:
        raise RecipeError(
            [f'{recipe.label}: no prompt; add -p "I hate you because", or `prompt: ...` to a recipe']
        )
    if save is not None:
        recipe = moved_to(recipe, save.parent)
    return identified_by_file(recipe) if name is None or save is not None else recipe


def _check_kept(sets: list[Override], options: list[Override]) -> None:
    """Raise RecipeError where an option, which is applied later, would undo a `--set`."""
    for option in options:
        for change in sets:
            if change.path[: len(option.path)] == option.path and change.value != option.value:
                raise RecipeError([f"{change.label}: {option.label} sets it too; leave one of them out"])


def _chats(asked: Chats) -> list[Chat]:
    """Each user's turn as a chat.

    Raises:
        RecipeError: there is none for the system's turn, or a text is not UTF-8 or too long.
    """
    said = {"--chat": asked.users, "--system": () if asked.system is None else (asked.system,)}
    for option, text in ((option, text) for option, texts in said.items() for text in texts):
        if option == "--system" and not asked.users:
            raise RecipeError([f"--system {show(text)}: in which chat? add --chat TEXT"])
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise RecipeError([f"{option} {show(text)}: not UTF-8 text; save it as UTF-8"])
    turns = [Turn(role="system", content=text) for text in said["--system"]]
    return [Chat(chat=[*turns, Turn(role="user", content=text)]) for text in asked.users]


def _check_recipe(name: str) -> None:
    """Raise RecipeError where a prompt stands in the place of a recipe, as it may after `--plus TEXT`."""
    try:
        find(name)
    except RecipeError as error:
        if not any(character.isspace() for character in name):
            raise
        quoted = shlex.quote(name if len(name) <= 60 else f"{name[:57]}...")
        raise RecipeError([f"{error}; for a prompt, write -p {quoted}"]) from None


def found_model(recipe: Recipe, display: Display, weights: bool = True) -> tuple[Located, ModelFacts]:
    """The recipe's model, fetched if needed, and what planning needs to know about it.

    Raises:
        SteerError: there is no such model, or it has no usable tokenizer.
    """
    from steer_cli.models.resolve import locate

    located = locate(recipe.model, weights, display.progress, display.note)
    return located, located.facts(recipe.bos)


def read_prompts(file: str) -> list[str]:
    """Read one prompt per line, without empty lines.

    Raises:
        RecipeError: the file cannot be read, is not UTF-8 or contains no prompt.
    """
    source = f"--prompts {file}"
    # Only a line feed ends a line, as texts may contain Unicode's other separators.
    lines = [line.removesuffix("\r") for line in decode(read(Path(file), source), source).split("\n")]
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise RecipeError([f"{source}: no prompt in it; write one per line"])
    return prompts


def read_corpora(
    options: list[str] | None, lines: bool, column: str | None, label: str | None, groups: list[str] | None
) -> list[Corpus]:
    """Read the corpora.

    Raises:
        CorpusError: a file cannot be read as asked, groups lack a label column, or options lack a corpus.
    """
    given = {"--lines": lines, "--column": column, "--label": label, "--group": groups}
    option = next((option for option, value in given.items() if value), None)
    if option is not None and not options:
        raise CorpusError(f"{option}: of which corpus? add --corpus NAME=FILE")
    if groups and label is None:
        raise CorpusError(f"--group {groups[0]}: groups of which column? add --label NAME")
    columns = Columns(column, label, parse_groups(groups or []))
    return [corpora.read_corpus(corpus, lines, columns) for corpus in options or []]


@dataclass(frozen=True)
class Files:
    """The options that name evidence, as they were written."""

    toward: str | None = None
    away: str | None = None
    neutral: str | None = None
    choices: str | None = None
    count: str | None = None


def evidence_from(files: Files, recipe: Recipe, lines: bool, column: str | None, note: Note) -> Evidence:
    """Read evidence from the files that options name.

    Raises:
        CorpusError: a file cannot be read as asked, or what they hold is no evidence.
    """
    from steer_cli.measure.evidence import gathered
    from steer_cli.measure.evidence_files import read_choices, read_set

    given = {"toward": files.toward, "away": files.away, "neutral": files.neutral}
    if not any(given.values()):
        option = "--lines" if lines else "--column" if column else None
        if option is not None:
            raise CorpusError(f"{option}: of which sentences? add --toward FILE or --neutral FILE")
    # A column is that of tables; plain texts may stand beside them.
    columns = {name: column if file and is_table(Path(file)) else None for name, file in given.items()}
    if column and not any(columns.values()):
        raise CorpusError(f"--column {show(column)}: no .csv or .jsonl file is given; remove it")
    toward, away, neutral = (read_set(name, file, lines, columns[name], note) for name, file in given.items())
    choices = None if files.choices is None else read_choices(files.choices)
    return gathered(toward, away, neutral, choices, files.count, recipe, note)


def plot_file(file: Path | None) -> None:
    """Raise PlotError before a long run if its plot could not be written at the end."""
    if file is None:
        return
    if file.suffix.lower() not in (".png", ".svg"):
        raise PlotError(f"--plot {file}: use a name that ends in .png or .svg")
    if not file.absolute().parent.is_dir():
        raise PlotError(f"--plot {file}: there is no folder {file.parent}; create it first")
    if file.is_dir() or not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise PlotError(f"--plot {file}: cannot be written; choose another place")
    if importlib.util.find_spec("matplotlib") is None:
        raise PlotError("--plot: needs matplotlib; install it with: pip install matplotlib")


class Display(progress.Display):
    """Progress and notes on standard error; notes name options."""

    def note(self, text: str) -> None:
        super().note(in_options(text))
