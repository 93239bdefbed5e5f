"""`steer tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_cli.cli import direction, options, output
from steer_cli.cli.score import Away, Choices, Count, Neutral, Toward

HELP = options.help_text(
    "Find layer, position and coefficient within a damage budget.\n\n"
    "It maximises the effect on your evidence, measured as in `steer score`: sentences "
    "(--toward, --away), choices (--choices) or counted words (--count). The damage is what neutral "
    "text loses, in nats per token; 0.02 is 2 % of perplexity. Evidence is cut in two by its content: "
    "the search reads one half; the tuned recipe's card is measured on the other, so the search cannot "
    "inflate it. Where nothing steers within the budget, that is the answer, with the "
    "nearest miss. --jsonl prints a record per trial, then one of what was chosen.\n\n" + options.THEIR_FILES,
    "steer tune wedding-shift --toward benchmarks/corpora/weddings.txt "
    "--away benchmarks/corpora/shipping.txt",
    'steer tune --plus " weddings" --minus " ships" --toward benchmarks/corpora/weddings.txt -o tuned.yaml',
    "steer tune love-hate --count praise --layers 0:16 --positions front",
    "steer tune wedding-shift --toward benchmarks/corpora/weddings.txt --budget 0.05 --store trials.jsonl",
    "steer tune mine.yaml --choices mine.jsonl --jsonl | tail -1 | jq .says",
    "steer tune wedding-shift --toward benchmarks/corpora/weddings.txt --ray local",
)

Budget = Annotated[
    float,
    typer.Option("--budget", metavar="NATS", help="The most damage to neutral text, in nats per token."),
]
Oddness = Annotated[
    float,
    typer.Option(
        "--oddness",
        metavar="NATS",
        help="Maximum cost of completions: nats per token lost under the unsteered model.",
    ),
]
Layers = Annotated[
    str | None, typer.Option("--layers", metavar="RANGE", help="Such as 0:30 or 6,16; by default all.")
]
Positions = Annotated[
    str | None,
    typer.Option(
        "--positions",
        metavar="LIST",
        help="Of front, middle, back, every, numbers, every=new and such; by default front and every where "
        "the recipe can act there, or its own position if it is neither.",
    ),
]
Relative = Annotated[
    bool,
    typer.Option("--relative", help="Search coefficients that are relative to the length of the stream."),
]
Additions = Annotated[
    list[int] | None,
    typer.Option("--addition", metavar="N", help="Move only this addition; repeatable. By default all."),
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="Keep finished trials here, and continue from them."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the tuned recipe to this new file, not to the screen."
    ),
]


def tune(
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    toward: Toward = None,
    away: Away = None,
    choices: Choices = None,
    count: Count = None,
    neutral: Neutral = None,
    budget: Budget = 0.02,
    oddness: Oddness = 0.8,
    layers: Layers = None,
    positions: Positions = None,
    relative: Relative = False,
    addition: Additions = None,
    prompt: options.Prompt = None,
    chat: direction.Chat = None,
    system: direction.System = None,
    model: options.Model = None,
    set: options.Set = None,
    lines: options.Lines = False,
    column: options.Column = None,
    store: Store = None,
    out: Out = None,
    plot: options.Plot = None,
    ray: options.Ray = None,
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display, Files, evidence_from, plot_file, recipe_from
    from steer_cli.cli.saving import check_apart, check_free
    from steer_cli.models.hardware import Hardware
    from steer_cli.tuning.plan import TuneOptions, plan_tuning

    plot_file(plot)
    check_free(out, "--output")
    check_apart({"--output": out, "--store": store, "--plot": plot})
    chats = direction.Chats(tuple(chat or ()), system)
    pair = direction.Direction(plus, minus)
    chosen = recipe_from(recipe, set, prompt, None, model, needs_prompt=False, direction=pair, chats=chats)
    asked = TuneOptions(budget, oddness, layers, positions, tuple(addition or ()), relative)
    with Display() as display:
        files = Files(toward, away, neutral, choices, count)
        evidence = evidence_from(files, chosen, lines, column, display.note)
        plan = plan_tuning(chosen, evidence, asked, progress=display.progress, note=display.note)
        _run(plan, Hardware(dtype, device, device_map, threads), store, out, plot, ray, jsonl, display)


def _run(plan, hardware, store: Path | None, out: Path | None, plot, ray, jsonl: bool, display) -> None:
    """Search, show what was found, and write the recipe; or say why there is none to write."""
    from steer_cli.cli import saving
    from steer_cli.errors import SweepError
    from steer_cli.recipe.file_text import as_file
    from steer_cli.report.title import title
    from steer_cli.report.tuning import tuning_parts
    from steer_cli.tuning.tune import tune as run

    try:
        found = run(plan, hardware, store, display.progress, display.note, ray)
    except KeyboardInterrupt:
        display.clear()
        display.note(_left(store))
        raise
    tuned = found.tuned if found.steers else None
    printed = as_file(tuned) if tuned is not None else ""
    try:
        # First of all: a reader that is gone, or a plot that fails, must not lose what was found.
        if tuned is not None and out is not None:
            saving.save(tuned, out, display.note, "--output")
            printed = ""
    finally:
        shown = output.Output(jsonl, display, title(plan.recipe, plan.located.name))
        shown.show(found.records(), tuning_parts(found, printed, shown.width), wrap=not printed)
    if plot is not None:
        from steer_cli.report import tuning_plot

        tuning_plot.plot(found, plot)
    if found.fault:
        raise SweepError(found.says)
    if out is not None and not found.steers:
        raise SweepError(f"--output {out}: not written, as there is no recipe that steers; {_remedy(found)}")


def _remedy(found) -> str:
    """Which limit to loosen where no recipe steers."""
    if not found.odd:
        return "raise --budget"
    return "raise --oddness" if found.card is None else "raise --oddness or --budget"


def _left(store: Path | None) -> str:
    """How to continue an interrupted search."""
    if store is None:
        return "interrupted: no trials were kept; use --store FILE to keep trials and continue"
    return f"interrupted: finished trials are kept in {store}; run the same command to continue"
