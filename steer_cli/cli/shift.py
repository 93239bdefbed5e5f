"""`steer shift`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Compare next-token distributions, steered against unsteered.\n\nFor the likeliest tokens of either "
    "after the prompt: both probabilities, their ratio, and the token's signed part p ln(p/q) of KL(steered "
    "|| unsteered), in nats. With --want, effect is the log ratio of the wanted words' total probability, "
    "and damage is the KL among all other tokens.",
    "steer shift wedding-shift",
    "steer shift wedding-shift --want wedding --want weddings --top 20",
    "steer shift love-hate --at 3 --jsonl | jq .kl",
)


At = Annotated[
    int | None,
    typer.Option(
        "--at", metavar="POSITION", help="Predict the token after this position; 0 is BOS, -1 last."
    ),
]
Top = Annotated[
    int,
    typer.Option(
        "--top",
        "-k",
        metavar="COUNT",
        min=1,
        max=options.MOST_TOKENS,
        help="Likeliest tokens of each side.",
    ),
]


def shift(
    recipe: options.Recipe,
    prompt: options.Prompt = None,
    model: options.Model = None,
    set: options.Set = None,
    at: At = None,
    want: options.Want = None,
    top: Top = 10,
    plot: options.Plot = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON record per prompt.")] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import api
    from steer_cli.api import Hardware
    from steer_cli.cli.inputs import Display, plot_file, recipe_from

    chosen = recipe_from(recipe, set, prompt, None, model)
    plot_file(plot)
    hardware = Hardware(dtype, device, device_map)
    with Display() as display:
        shifts = api.shift(chosen, hardware, at, want or (), top, display.progress, display.note)
        found = _show(chosen, shifts, jsonl, display)
    if plot is not None:
        from steer_cli.report import plots

        plots.shift(found, plot)


def _show(recipe, shifts, jsonl: bool, display) -> list:
    """Show the shift of each prompt as it comes; return all of them, for the plot."""
    from steer_cli.report import measure_records as records
    from steer_cli.report import measures, terminal
    from steer_cli.report.jsonl import line

    screen = terminal.console()
    found: list[Any] = []
    for found_shift in shifts:
        display.clear()
        if jsonl:
            print(line(records.shift_record(found_shift)), flush=True)
        else:
            if not found:
                screen.print(terminal.title(recipe, found_shift.model))
            for part in measures.shift_parts(found_shift):
                screen.print(part)
        found.append(found_shift)
    return found
