"""`steer generate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from steer_cli.cli import direction, options, output, scanning

HELP = options.help_text(
    "Complete prompts with and without steering, side by side.\n\nBelow the completions come counted words, "
    "the cost, and one table that shows which token of each text is at which position and how strongly it "
    "acted there. Sample i uses the same random numbers in all columns, so any difference comes from the "
    "steering; a beginning that both columns share is dim. --jsonl prints a record per prompt and sample.\n\n"
    "--scan shows a row for each coefficient instead, and --scan-layers one for each layer; both make a grid."
    " They move the first addition, and others stay as they are. Where its coefficient is relative, as with "
    "--relative, so are those of --scan. Ranges are those of `steer sweep`: "
    "-2:4:1 includes 4, and layers 0:30:3 end before 30. Each text has its counted words and its cost beside "
    "it, so that you can see where steering starts to work and where it breaks.",
    'steer generate --plus Love --minus Hate -p "I hate you because"',
    "steer generate love-hate",
    'steer generate love-hate -p "I hate it when" -c 3 --save mine.yaml',
    "steer generate love-hate --position every --layer 10 --coefficient 0.5",
    "steer generate love-hate --layer 40% --relative 0.8",
    "steer generate love-hate --scan -2:4:1",
    "steer generate king-james --scan 0.5,1 --scan-layers 6:30:6 -n 1",
    "steer generate love-hate --control random",
    'steer generate love-hate --chat "How was your day?" --system "You are a poet." --position every',
    'steer generate love-hate --control prompt="Write with love:"',
    "printf 'I think\\nWe are\\n' | steer generate love-hate --prompts - --jsonl | jq .steered",
)


Prompts = Annotated[
    str | None, typer.Option(metavar="FILE", help="Prompts, one per line; - reads standard input.")
]
Samples = Annotated[
    int | None, typer.Option("--samples", "-n", metavar="COUNT", help="Completions per prompt and column.")
]
Seed = Annotated[int | None, typer.Option(metavar="SEED", help="Seed for sampling.")]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", metavar="COUNT", help="Longest completion, in tokens.")
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="NUMBER", help="Divide the logits by this; 0 is greedy."),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", metavar="SHARE", help="Draw from the likeliest tokens that have this share."),
]
BatchRows = Annotated[
    int | None,
    typer.Option(
        metavar="COUNT",
        min=1,
        max=options.MOST_ROWS,
        help="Rows to decode together; by default as many as fit in memory.",
    ),
]


def _controls(incomplete: str) -> Iterator[str]:
    for control in ("random", "shuffled", "embedding", "prompt", "prompt="):
        if control.startswith(incomplete):
            yield control


Control = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        autocompletion=_controls,
        help="Add a third column: random (noise), shuffled (the vector's own values), embedding (the pair "
        "read at layer 0), prompt (no vector, but the texts steered towards in front of the prompt, "
        "as many as fit), or prompt=TEXT (that text in front).",
    ),
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Show every receipt in full: lengths, ratio and cosine at each position."),
]


def generate(
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    layer: direction.Layer = None,
    coefficient: direction.Coefficient = None,
    relative: direction.Relative = None,
    position: direction.Position = None,
    prompt: options.Prompt = None,
    chat: direction.Chat = None,
    system: direction.System = None,
    prompts: Prompts = None,
    model: options.Model = None,
    samples: Samples = None,
    seed: Seed = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    set: options.Set = None,
    save: direction.Save = None,
    jsonl: output.Jsonl = False,
    batch_rows: BatchRows = None,
    control: Control = None,
    scan: scanning.Scan = None,
    scan_layers: scanning.ScanLayers = None,
    explain: Explain = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display, found_model, recipe_from
    from steer_cli.models.hardware import Hardware

    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    chats = direction.Chats(tuple(chat or ()), system)
    counts = {"samples": samples, "seed": seed, "max_new_tokens": max_new_tokens}
    sampling = {**counts, "temperature": temperature, "top_p": top_p}
    chosen = recipe_from(
        recipe, set, prompt, prompts, model, direction=asked, save=save, sampling=sampling, chats=chats
    )
    hardware, ranges = Hardware(dtype, device, device_map, threads), (scan, scan_layers)
    scanning.check(ranges, {"control": control, "explain": explain}, (coefficient, layer))
    with Display() as display:
        found = found_model(chosen, display)
        if ranges != (None, None):
            scanning.show(chosen, found, ranges, save, hardware, batch_rows, jsonl, display)
        else:
            _show(chosen, found, control, save, hardware, batch_rows, explain, jsonl, display)


def _show(recipe, found, control, save, hardware, batch_rows, explain: bool, jsonl: bool, display) -> None:
    """Show each prompt's completions, growing on a terminal; what is wrong is said before the model loads."""
    from steer_cli import run_plan
    from steer_cli.activations import baselines
    from steer_cli.cli import saving
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.report.comparison import comparison_parts
    from steer_cli.report.live import Live
    from steer_cli.report.title import title

    located, facts = found
    plan = plan_recipe(recipe, facts, recipe.sampling.max_new_tokens)
    baselines.planned(plan, control)
    with Live(display, wanted=not jsonl) as live:
        loaded = run_plan.load(located, hardware, display.progress)
        saving.save(recipe, save, display.note)
        comparisons = run_plan.complete(
            loaded, plan, control, batch_rows, progress=live.progress, watch=live.watch, note=display.note
        )
        shown = output.Output(jsonl, live, title(recipe, located.name))
        live.opening = lambda: shown.screen(())  # the title comes first
        for comparison in comparisons:
            shown.show(comparison.records(), comparison_parts(comparison, shown.width, explain))
