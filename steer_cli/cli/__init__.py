"""The edge: options in, one function called, an output chosen.

The one place that catches `SteerError`. Heavy modules are imported inside the commands, so that help
and completion stay quick.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steer_cli.cli import check, generate, models, norms, perplexity, recipes, schema, shift, sweep, table
from steer_cli.cli.options import Debug
from steer_cli.errors import SteerError

# What an output that cannot take more answers, as against a bug.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

# By which a user may say how long OpenMP's threads spin.
WAITING = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}


@contextmanager
def _foreseen() -> Iterator[None]:
    """Errors that are foreseen become one line on standard error and an exit code."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except SteerError as error:
        if Debug.on:
            raise
        from steer_cli.report.plain import error_line

        typer.echo(f"error: {error_line(str(error))}", err=True)
        raise typer.Exit(1) from None
    except BrokenPipeError:
        _discard_output()
        raise typer.Exit(0) from None
    except SystemExit as leaving:
        # Rich leaves with 1 where it prints help to a reader that has gone.
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        raise typer.Exit(0) from None
    except OSError as error:
        if error.errno not in FULL or Debug.on:
            raise
        _discard_output()
        typer.echo(f"error: standard output: {error.strerror}; what was printed is cut off", err=True)
        raise typer.Exit(1) from None


class _Group(TyperGroup):
    """Help and commands, both with foreseen errors."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # The plain one: rich would take longer to import than all else, where an answer should be at once.
        super(TyperGroup, self).format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            # What Typer does itself, but its own way prints only what rich has drawn.
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **options: Any) -> Any:
        Debug.on = False  # a process may run several commands
        with _foreseen():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _foreseen():
            return super().invoke(ctx)


def _discard_output() -> None:
    # The interpreter flushes once more at exit, and would complain about the same output.
    if sys.stdout is None:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="steer",
    cls=_Group,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Steer a language model by adding activation vectors made of prompts.\n\n"
    "Start with: steer generate love-hate",
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
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None: ...


def main() -> None:
    """The command `steer`."""
    if not os.environ.keys() & WAITING:
        # Threads that spin while they wait take the cores from other processes: two of them on two cores made
        # each other many times slower. Read when torch loads, so set before.
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if sys.stdout is not None and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8")  # records are UTF-8 whatever the locale is
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.encoding.lower() != "utf-8":
            # A terminal that cannot show a sign gets a question mark, not a traceback.
            stream.reconfigure(errors="replace")
    app(prog_name="steer")
