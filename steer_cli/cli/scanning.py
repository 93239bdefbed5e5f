"""`--scan` and `--scan-layers`: a row for each setting, instead of two columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated

import typer

from steer_cli.cli import options, output
from steer_cli.errors import SteerError, SweepError

Scan = Annotated[
    str | None,
    typer.Option(
        metavar="RANGE", help="Show a row for each of these coefficients, such as -2:4:1 or 0.5,1,2."
    ),
]
ScanLayers = Annotated[
    str | None,
    typer.Option(metavar="RANGE", help="Show a row for each of these layers, such as 0:30:3 or 6,16."),
]

# What the command line calls the ranges of a scan.
RANGES = {"coefficients": "scan", "layers": "scan_layers"}


def check(
    ranges: tuple[str | None, str | None],
    columns_only: Mapping[str, str | bool | None],
    fixed: tuple[str | None, str | None],
) -> None:
    """Refuse options that a scan would ignore.

    Args:
        ranges: of coefficients and of layers.
        columns_only: options about columns, with their values.
        fixed: one coefficient and one layer, which a range replaces.

    Raises:
        SweepError: one of them was given.
    """
    for name, value in columns_only.items() if any(text is not None for text in ranges) else ():
        if value:
            said = name if value is True else f"{name} {value}"
            raise SweepError(f"{said}: a scan has rows and no columns; leave it out", name)
    for name, option, text, value in zip(
        ("coefficient", "layer"), ("scan", "scan_layers"), ranges, fixed, strict=True
    ):
        if text is not None and value is not None:
            raise SweepError(f"{name} {value}: `{option}` takes its place; leave one out", name)


def show(recipe, found, ranges, save, hardware, batch_rows, jsonl: bool, display) -> None:
    """Show each row as soon as its completions are there.

    Args:
        found: the recipe's model, and what planning needs to know about it.
        ranges: of coefficients and of layers, as they were written.
    """
    from steer_cli import run_plan
    from steer_cli.cli import saving
    from steer_cli.measure.scan import scan
    from steer_cli.report import strip
    from steer_cli.report.title import title
    from steer_cli.sweeps.scan import plan_ranges

    located, facts = found
    with _range_options():
        plan = plan_ranges(recipe, facts, *ranges)
    loaded = run_plan.load(located, hardware, display.progress)
    saving.save(recipe, save, display.note)
    shown = output.Output(jsonl, display, title(recipe, located.name))
    points = scan(loaded.network, plan, batch_rows, display.progress, display.note)
    for index, point in enumerate(points):
        if index == 0:
            shown.screen(strip.introduction(plan))
        if index % len(plan.settings) == 0:
            shown.screen(strip.heading(plan, point.prompt, shown.width))
        if point.error is not None:
            point = replace(point, error=options.in_options(point.error))
        shown.show(point.records(), strip.row(plan, point, shown.width))


@contextmanager
def _range_options() -> Iterator[None]:
    """Errors of a range name the option that holds it."""
    try:
        yield
    except SteerError as error:
        name = error.parameter or ""
        if name not in RANGES:
            raise
        message = RANGES[name] + str(error).removeprefix(name).replace(f"`{name}=", f"`{RANGES[name]}=")
        raise type(error)(message, RANGES[name]) from error
