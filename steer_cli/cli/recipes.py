"""`steer recipes`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from steer_cli.cli import options, output

HELP = options.help_text(
    "List the recipes that ship with the tool, or print one.\n\nWith --jsonl each record also has what was "
    "measured with the recipe.",
    "steer recipes",
    "steer recipes love-hate > mine.yaml",
    "steer recipes --jsonl | jq -r .name",
)


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Print the file of this recipe.",
            autocompletion=options.recipe_names,
            show_default=False,
        ),
    ] = None,
    jsonl: output.Jsonl = False,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.errors import RecipeError
    from steer_cli.recipe.bundled import find, read, shipped
    from steer_cli.recipe.load import load
    from steer_cli.report import terminal

    if name is not None:
        if name == "-":
            raise RecipeError(["-: not a recipe's name; `steer recipes` lists them"])
        _print(read(find(name), name), name)
        return
    rows = []
    for full in shipped():
        recipe = load(full)
        rows.append(
            {
                "name": full,
                "model": recipe.model,
                "description": recipe.description.strip(),
                "measured": recipe.measured.strip(),
                "source": recipe.source,
            }
        )
    output.Output(jsonl).show(rows, [terminal.listing(("name", "description"), rows)])


def _print(content: bytes, name: str) -> None:
    """Print a recipe's file: unchanged to a file or pipe, without control characters to a terminal."""
    from steer_cli.recipe.bundled import decode
    from steer_cli.recipe.yaml_source import check_characters
    from steer_cli.report.printable import visible

    text = decode(content, name)
    check_characters(text, name)
    shown = visible(text.replace("\r\n", "\n")) if sys.stdout is not None and sys.stdout.isatty() else content
    typer.echo(shown, nl=False)
