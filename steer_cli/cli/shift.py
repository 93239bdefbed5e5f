"""`steer shift`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Compare steered with unsteered next-token distributions.\n\nFor the likeliest tokens of either "
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
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import answers
    from steer_cli.cli.inputs import Display, found_model, plot_file, recipe_from
    from steer_cli.models.hardware import Hardware
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.planning.targets import place_in, wanted_ids

    chosen = recipe_from(recipe, set, prompt, None, model)
    plot_file(plot)
    with Display() as display:
        located, facts = found_model(chosen, display)
        plan = plan_recipe(chosen, facts, 0)
        wanted = wanted_ids(want or (), facts.tokenizer)
        positions = [place_in(planned, at) for planned in plan.prompts]
        loaded = answers.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        shifts = answers.shifts(loaded, plan, positions, wanted, top)
        found = _show(chosen, shifts, jsonl, display)
    if plot is not None:
        from steer_cli.report import plots

        plots.shift(found, plot)


def _show(recipe, shifts, jsonl: bool, display) -> list:
    """Show each prompt's shift as it is ready; return all of them, for the plot."""
    from steer_cli.report import measures, terminal
    from steer_cli.report.jsonl import line

    screen = terminal.console()
    found: list = []
    for shift_found in shifts:
        display.clear()
        if jsonl:
            for record in shift_found.records():
                print(line(record), flush=True)
        else:
            if not found:
                screen.print(terminal.title(recipe, shift_found.model))
            for part in measures.shift_parts(shift_found):
                screen.print(part)
        found.append(shift_found)
    return found
