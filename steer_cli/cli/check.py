"""`steer check`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Validate recipes: one line per fault, with its place.",
    "steer check love-hate",
    "steer check mine.yaml",
    "steer check recipes/*/*.yaml && git commit -a",
)


def check(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE",
            help="Recipe files, names of shipped recipes, or - for standard input.",
            autocompletion=options.recipe_names,
            show_default=False,
        ),
    ],
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.errors import PlanError, RecipeError
    from steer_cli.planning.directions import check_files
    from steer_cli.recipe.load import load
    from steer_cli.report.printable import error_line, one_line

    faulty = False
    for name in recipes:
        try:
            recipe = load(name)
            check_files(recipe)
        except (RecipeError, PlanError) as error:
            if options.Debug.on:
                raise
            faulty = True
            problems, unsaid = (
                (error.problems, error.unsaid) if isinstance(error, RecipeError) else ([str(error)], 0)
            )
            for problem in problems:
                typer.echo(f"error: {error_line(options.in_options(problem))}", err=True)
            if unsaid:
                more = f"{unsaid} more faults; fix these first, they may have the same cause"
                typer.echo(f"error: {error_line(f'{name}: and {more}')}", err=True)
        else:
            amounts = [(len(recipe.additions), "addition"), (len(recipe.all_prompts), "prompt")]
            counted = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in amounts)
            typer.echo(one_line(f"{name}: ok ({counted})"))
    if faulty:
        raise typer.Exit(1)
