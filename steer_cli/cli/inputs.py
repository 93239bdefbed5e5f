"""What the options say about a recipe -> the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steer_cli.document import Override, parse_override
from steer_cli.errors import RecipeError
from steer_cli.library import decode, read
from steer_cli.recipe import Recipe, load


def recipe_from(
    name: str,
    changes: list[str] | None = None,
    prompts: list[str] | None = None,
    prompts_file: str | None = None,
    model: str | None = None,
    **sampling: Any,
) -> Recipe:
    """Load a recipe and apply what the command line changes.

    Args:
        sampling: options that stand for keys of `sampling`; None leaves the recipe's value.

    Raises:
        RecipeError: a value is at fault; named by its option.
    """
    if name == "-" and prompts_file == "-":
        raise RecipeError(["--prompts -: standard input is the recipe already; put one of them in a file"])
    overrides = [parse_override(change) for change in changes or []]
    if model is not None:
        overrides.append(Override(f"--model {model}", ("model",), model))
    for key, value in sampling.items():
        if value is not None:
            overrides.append(Override(f"--{key} {value}", ("sampling", key), value))
    recipe = load(name, overrides)
    texts = list(prompts or [])
    if prompts_file is not None:
        texts += read_prompts(prompts_file)
    return recipe.with_prompts(texts)


def read_prompts(file: str) -> list[str]:
    """One prompt a line; empty lines are left out.

    Raises:
        RecipeError: the file cannot be read, is not UTF-8 or holds no prompt.
    """
    source = f"--prompts {file}"
    # Only a line feed ends a line: a text may hold the other separators that Unicode knows.
    lines = [line.removesuffix("\r") for line in decode(read(Path(file), source), source).split("\n")]
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise RecipeError([f"{source}: no prompt in it; write one a line"])
    return prompts
