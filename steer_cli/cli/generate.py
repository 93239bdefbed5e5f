"""`steer generate`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Literal

import typer

from steer_cli.cli import options, output

HELP = options.help_text(
    "Complete prompts with and without steering, side by side.\n\nThe screen shows which token"
    " is where (the alignment table), where and how strongly the vectors acted (the receipt), and the"
    " completions. Sample i uses the same random numbers in all columns, so any difference comes from the"
    " steering. --jsonl prints a record per prompt and sample.\n\n--scan shows a row for each coefficient"
    " instead, and --scan-layers one for each layer; both together make a grid. They move the recipe's first"
    " addition, and others stay as they are. Ranges are those of `steer sweep`: -2:4:1 includes 4, and layers"
    " 0:30:3 end before 30. Beside each text stand its counted words and its cost, so that one sees where"
    " steering starts to work and where it breaks; --jsonl prints a record per row and sample.",
    "steer generate love-hate",
    'steer generate love-hate -p "I hate it when" --set additions.0.coefficient=3',
    "steer generate love-hate --control random",
    "steer generate love-hate --scan -2:4:1",
    "steer generate king-james --scan 0.5,1 --scan-layers 6:30:6 -n 1",
    "cat prompts.txt | steer generate love-hate --prompts - --jsonl | jq .steered",
)


Control = Annotated[
    Literal["random", "embedding", "prompt", "shuffled"] | None,
    typer.Option(
        help="Add a third column: noise, the vector shuffled, the pair's embeddings or its plus text."
    ),
]

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

# What a command calls the ranges of a scan.
RANGES = {"coefficients": "scan", "layers": "scan_layers"}


def generate(
    recipe: options.Recipe,
    prompt: options.Prompt = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts, one per line; - reads standard input.")
    ] = None,
    model: options.Model = None,
    samples: Annotated[
        int | None,
        typer.Option("--samples", "-n", metavar="COUNT", help="Completions per prompt and column."),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="SEED", help="Seed for sampling.")] = None,
    set: options.Set = None,
    scan: Scan = None,
    scan_layers: ScanLayers = None,
    jsonl: output.Jsonl = False,
    batch_rows: Annotated[
        int | None,
        typer.Option(
            metavar="COUNT",
            min=1,
            max=options.MOST_ROWS,
            help="Rows to decode together; by default as many as fit in memory.",
        ),
    ] = None,
    control: Control = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import answers
    from steer_cli.activations import baselines
    from steer_cli.cli.inputs import Display, found_model, recipe_from
    from steer_cli.models.hardware import Hardware
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.report import terminal

    chosen = recipe_from(recipe, set, prompt, prompts, model, samples=samples, seed=seed)
    with Display() as display:
        located, facts = found_model(chosen, display)
        if scan is not None or scan_layers is not None:
            hardware, ranges = Hardware(dtype, device, device_map, threads), (scan, scan_layers)
            _scan(chosen, located, facts, ranges, control, hardware, batch_rows, jsonl, display)
            return
        plan = plan_recipe(chosen, facts, chosen.sampling.max_new_tokens)
        baselines.fronted(plan, control)  # what is wrong with it is said before the model is loaded
        loaded = answers.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        comparisons = answers.complete(loaded, plan, control, batch_rows, progress=display.progress)
        shown = output.Output(jsonl, display, terminal.title(chosen, located.name))
        for comparison in comparisons:
            shown.show(comparison.records(), terminal.comparison_parts(comparison, shown.width))


def _scan(recipe, located, facts, ranges, control, hardware, batch_rows, jsonl: bool, display) -> None:
    """A row for each setting of the ranges, as it comes."""
    from steer_cli import answers
    from steer_cli.errors import SweepError
    from steer_cli.report import strip, terminal
    from steer_cli.sweeps.scan import plan_ranges, points_of

    if control is not None:
        raise SweepError(f"control {control}: a scan has rows and no columns; leave it out", "control")
    with _range_options():
        plan = plan_ranges(recipe, facts, *ranges)
    loaded = answers.load(located, hardware, display.progress)
    shown = output.Output(jsonl, display, terminal.title(recipe, located.name))
    for index, point in enumerate(points_of(loaded, plan, batch_rows, display.progress)):
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
    from steer_cli.errors import SteerError

    try:
        yield
    except SteerError as error:
        name = error.parameter or ""
        if name not in RANGES:
            raise
        message = RANGES[name] + str(error).removeprefix(name).replace(f"`{name}=", f"`{RANGES[name]}=")
        raise type(error)(message, RANGES[name]) from error
