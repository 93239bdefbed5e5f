"""The edge: options in, one function called, an output chosen.

The one place that catches `SteerError`. Heavy modules are imported inside the commands, so that help
and completion stay quick.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steer_cli.cli import check, generate, models, norms, perplexity, recipes, schema, shift, sweep, table
from steer_cli.cli.options import Debug
from steer_cli.errors import SteerError

# What an output that cannot take more answers, as against a bug.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Group(TyperGroup):
    """Commands whose foreseen errors are one line on standard error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except SteerError as error:
            if Debug.on:
                raise
            from steer_cli.report.plain import visible

            typer.echo(f"error: {visible(' '.join(str(error).splitlines()))}", err=True)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            _discard_output()
            raise typer.Exit(0) from None
        except OSError as error:
            if error.errno not in FULL or Debug.on:
                raise
            _discard_output()
            typer.echo(f"error: standard output: {error.strerror}; what was printed is cut off", err=True)
            raise typer.Exit(1) from None


def _discard_output() -> None:
    # The interpreter flushes once more at exit, and would complain about the same output.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="steer",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Steer a language model by adding activation vectors made of prompts.\n\n"
    "Start with: [bold]steer generate love-hate[/]",
)
for module, function in (
    (generate, generate.generate),
    (table, table.table),
    (shift, shift.shift),
    (perplexity, perplexity.perplexity),
    (norms, norms.norms),
    (sweep, sweep.sweep),
    (check, check.check),
    (schema, schema.schema),
    (recipes, recipes.recipes),
):
    app.command(function.__name__, help=module.HELP)(function)
app.add_typer(models.app, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        from steer_cli import __version__

        typer.echo(f"steer {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    debug: Debug.option = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None: ...


def main() -> None:
    """The command `steer`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure") and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="replace")
    app()
