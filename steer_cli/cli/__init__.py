"""The command line: each command parses options, calls one function and chooses an output.

This is the only place that catches `SteerError`. Heavy modules are imported inside the commands, so that
help and completion stay fast.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from steer_cli.cli import (
    bake,
    check,
    export,
    generate,
    models,
    norms,
    perplexity,
    recipes,
    schema,
    score,
    shift,
    sweep,
    table,
    tune,
)
from steer_cli.cli.options import Debug, error_text
from steer_cli.cli.plain_help import PlainHelp
from steer_cli.cli.unknown_option import RecipeCommand, WrongUsage
from steer_cli.cli.waiting import how_to_wait
from steer_cli.errors import SteerError
from steer_cli.models.same_sums import same_sums

# Errors of an output that cannot be written, not bugs.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Interrupt:
    """Whether Ctrl-C was pressed."""

    seen = False

    @staticmethod
    def handle(signum: int, frame: FrameType | None) -> None:
        _Interrupt.seen = True
        signal.default_int_handler(signum, frame)


@contextmanager
def _expected_errors() -> Iterator[None]:
    """Turn expected errors into one line on standard error and an exit code."""
    try:
        try:
            yield
        except Exception as error:
            # Libraries in C may turn the interrupt into an error of their own.
            if _Interrupt.seen:
                raise KeyboardInterrupt from error
            raise
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except SteerError as error:
        if Debug.on:
            raise
        from steer_cli.report.printable import error_line

        typer.echo(f"error: {error_line(error_text(error))}", err=True)
        raise typer.Exit(2 if isinstance(error, WrongUsage) else 1) from None
    except BrokenPipeError:
        _discard_output()
        raise typer.Exit(0) from None
    except SystemExit as ending:
        # Rich exits with 1 if its reader is gone.
        if not isinstance(ending.__context__, BrokenPipeError):
            raise
        raise typer.Exit(0) from None
    except OSError as error:
        if error.errno not in FULL or Debug.on:
            raise
        _discard_output()
        typer.echo(f"error: standard output: {error.strerror}; the output is incomplete", err=True)
        raise typer.Exit(1) from None


class _Group(PlainHelp, TyperGroup):
    """All commands; expected errors of any of them end in one line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            # As Typer does, but Typer prints nothing unless help is rich's.
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **options: Any) -> Any:
        Debug.on = False  # a process may run several commands
        with _expected_errors():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _expected_errors():
            return super().invoke(ctx)


def _discard_output() -> None:
    # The interpreter flushes again at exit and would report the same error.
    if sys.stdout is None:
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="steer",
    cls=_Group,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog='steer generate --plus Love --minus Hate -p "I hate you because"\n'
    "steer generate love-hate\nsteer recipes\nsteer generate --help",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Steer a language model by adding activation vectors made from prompts.",
)
for module, function in (
    (generate, generate.generate),
    (table, table.table),
    (shift, shift.shift),
    (perplexity, perplexity.perplexity),
    (norms, norms.norms),
    (sweep, sweep.sweep),
    (export, export.export),
    (bake, bake.bake),
    (tune, tune.tune),
    (score, score.score),
    (check, check.check),
    (schema, schema.schema),
    (recipes, recipes.recipes),
):
    examples = "\n".join(module.HELP.examples)
    app.command(function.__name__, cls=RecipeCommand, help=module.HELP.text, epilog=examples)(function)
app.add_typer(models.app, name="models")


def _version(wanted: bool) -> None:
    if wanted:
        from steer_cli.version import __version__

        typer.echo(f"steer {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    debug: Debug.option = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


def _reconfigure(stream: Any, **settings: str) -> None:
    stream.reconfigure(**settings)


def main() -> None:
    """The command `steer`."""
    # OpenMP and MKL read these when torch is loaded.
    os.environ.update(how_to_wait(os.environ) | same_sums(os.environ))
    if sys.stdout is not None and not sys.stdout.isatty():
        _reconfigure(sys.stdout, encoding="utf-8")  # records are UTF-8 whatever the locale is
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and stream.encoding.lower() != "utf-8":
            # A character that the terminal cannot show becomes a question mark, not a traceback.
            _reconfigure(stream, errors="replace")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Interrupt.handle)
    # Looking for garbage among the many objects that importing torch makes takes a tenth of a second.
    gc.set_threshold(100_000)
    try:
        app(prog_name="steer")
    except SystemExit as ending:
        # A profiler or a debugger has something to write at the end.
        watched = sys.getprofile() is not None or sys.gettrace() is not None
        if "torch" in sys.modules and not watched and isinstance(ending.code, int | None):
            _exit_at_once(ending.code or 0)
        raise


def _exit_at_once(code: int) -> None:
    """End the process without taking torch's modules apart, which takes a third of a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # reported where it was written to, or closed
            if stream is not None:
                stream.flush()
    os._exit(code)
