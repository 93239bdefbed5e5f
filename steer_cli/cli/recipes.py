"""`steer recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "List the recipes that ship with the tool, or print one.",
    "steer recipes",
    "steer recipes love-hate > mine.yaml",
    "steer recipes --json | jq -r .name",
)


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Print this recipe's file.",
            autocompletion=options.recipe_names,
            show_default=False,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="A JSON record for each recipe.")] = False,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.errors import RecipeError
    from steer_cli.recipe import load
    from steer_cli.report import jsonl, terminal
    from steer_cli.shipped import decode, find, read, shipped

    if name is not None:
        if name == "-":
            raise RecipeError(["-: not a recipe's name; `steer recipes` lists them"])
        typer.echo(decode(read(find(name), name), name), nl=False)
        return
    rows = []
    for full in shipped():
        recipe = load(full)
        rows.append(
            {
                "name": full,
                "model": recipe.model,
                "description": recipe.description.strip(),
                "source": recipe.source,
            }
        )
    if json:
        for row in rows:
            print(jsonl.line(row))
        return
    terminal.console().print(terminal.listing(("name", "description"), rows))
