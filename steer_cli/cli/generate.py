"""`steer generate`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Complete prompts with and without steering, side by side.\n\nThe screen shows which token"
    " is where (the alignment table), where and how strongly the vectors acted (the receipt), and the"
    " completions. Sample i uses the same random numbers in all columns, so any difference comes from the"
    " steering.",
    "steer generate love-hate",
    'steer generate love-hate -p "I hate it when" --set additions.0.coefficient=3',
    "steer generate love-hate --control random",
    "cat prompts.txt | steer generate love-hate --prompts - --jsonl | jq .steered",
)


Control = Annotated[
    Literal["random", "embedding", "prompt", "shuffled"] | None,
    typer.Option(
        help="Add a third column: noise, the vector shuffled, the pair's embeddings or its plus text."
    ),
]


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
    jsonl: Annotated[
        bool, typer.Option("--jsonl", metavar="", help="Print a JSON record per prompt and sample.")
    ] = False,
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
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import api
    from steer_cli.cli.inputs import Display, recipe_from
    from steer_cli.report import jsonl as records
    from steer_cli.report import terminal

    chosen = recipe_from(recipe, set, prompt, prompts, model, samples=samples, seed=seed)
    hardware = api.Hardware(dtype, device, device_map)
    screen = terminal.console()
    with Display() as display:
        outcomes = api.generate(
            chosen,
            hardware,
            batch_rows=batch_rows,
            progress=display.progress,
            note=display.note,
            control=control,
        )
        for index, outcome in enumerate(outcomes):
            display.clear()
            if jsonl:
                for record in records.generation_records(outcome):
                    print(records.line(record), flush=True)
                continue
            if index == 0:
                screen.print(terminal.title(outcome.recipe, outcome.model))
            for part in terminal.outcome_parts(outcome, screen.width):
                screen.print(part)
