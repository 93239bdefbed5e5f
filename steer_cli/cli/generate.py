"""`steer generate`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from steer_cli.cli import options, output

HELP = options.help_text(
    "Complete prompts with and without steering, side by side.\n\nThe screen shows which token"
    " is where (the alignment table), where and how strongly the vectors acted (the receipt), and the"
    " completions. Sample i uses the same random numbers in all columns, so any difference comes from the"
    " steering. --jsonl prints a record per prompt and sample.",
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
    from steer_cli.report.live import Live

    chosen = recipe_from(recipe, set, prompt, prompts, model, samples=samples, seed=seed)
    with Display() as display, Live(display, wanted=not jsonl) as live:
        located, facts = found_model(chosen, display)
        plan = plan_recipe(chosen, facts, chosen.sampling.max_new_tokens)
        baselines.fronted(plan, control)  # what is wrong with it is said before the model is loaded
        loaded = answers.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        comparisons = answers.complete(
            loaded, plan, control, batch_rows, progress=live.progress, watch=live.watch
        )
        shown = output.Output(jsonl, live, terminal.title(chosen, located.name))
        live.opening = lambda: shown.screen(())  # the title comes first
        for comparison in comparisons:
            shown.show(comparison.records(), terminal.comparison_parts(comparison, shown.width))
