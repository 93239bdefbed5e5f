"""`steer score`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Show on one card what a recipe does and what it costs.\n\nThe effect is measured on what you have: "
    "sentences that should become likelier (--toward) and less so (--away), choices between two answers "
    "(--choices), or the words that the recipe counts in completions (--count). Damage is what neutral text "
    "loses. Random vectors of the same length and plain prompting are measured the same way. Figures have "
    "95 % intervals, and the verdict says whether the recipe steers. --jsonl prints one record.\n\n"
    + options.THEIR_FILES,
    "steer score wedding-shift --toward benchmarks/corpora/weddings.txt "
    "--away benchmarks/corpora/shipping.txt",
    "steer score love-hate --count praise --samples 32",
    "steer score chat-sad --choices mine.jsonl --neutral mine.txt",
    'steer score --plus " weddings" --layer 6 -c 4 --toward benchmarks/corpora/weddings.txt',
    "steer score wedding-shift --toward benchmarks/corpora/weddings.txt --plot curve.svg --jsonl | jq .says",
)

Toward = Annotated[
    str | None,
    typer.Option(
        "--toward", metavar="FILE", help="Sentences that should become likelier: text, .csv or .jsonl."
    ),
]
Away = Annotated[
    str | None,
    typer.Option("--away", metavar="FILE", help="With --toward: sentences that should not become likelier."),
]
Neutral = Annotated[
    str | None,
    typer.Option(
        "--neutral",
        metavar="FILE",
        help="Sentences that should not change; by default 233 that come with steer: prose, dialogue, "
        "instructions and code.",
    ),
]
Choices = Annotated[
    str | None,
    typer.Option(
        "--choices",
        metavar="FILE",
        help='A .jsonl file of prompts with two answers each, one per line: {"prompt": "Is it warm?", '
        '"matching": " yes", "not_matching": " no"}.',
    ),
]
Count = Annotated[
    str | None,
    typer.Option(
        "--count", metavar="NAME", help="Count words in completions: those of this list of the recipe."
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        "-n",
        metavar="COUNT",
        min=1,
        max=options.MOST_ROWS,
        help="Completions per prompt and arm; by default the recipe's number with 16 prompts or "
        "more, else at least 24.",
    ),
]


def score(
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    layer: direction.Layer = None,
    coefficient: direction.Coefficient = None,
    relative: direction.Relative = None,
    position: direction.Position = None,
    toward: Toward = None,
    away: Away = None,
    neutral: Neutral = None,
    choices: Choices = None,
    count: Count = None,
    prompt: options.Prompt = None,
    chat: direction.Chat = None,
    system: direction.System = None,
    model: options.Model = None,
    samples: Samples = None,
    set: options.Set = None,
    save: direction.Save = None,
    lines: options.Lines = False,
    column: options.Column = None,
    plot: options.Plot = None,
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display, Files, evidence_from, found_model, plot_file, recipe_from
    from steer_cli.cli.saving import check_apart
    from steer_cli.models.hardware import Hardware

    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    chats = direction.Chats(tuple(chat or ()), system)
    chosen = recipe_from(
        recipe, set, prompt, None, model, needs_prompt=False, direction=asked, save=save, chats=chats
    )
    plot_file(plot)
    check_apart({"--save": save, "--plot": plot})
    hardware = Hardware(dtype, device, device_map, threads)
    with Display() as display:
        files = Files(toward, away, neutral, choices, count)
        evidence = evidence_from(files, chosen, lines, column, display.note)
        found = found_model(chosen, display)
        _show(chosen, found, evidence, samples, save, hardware, plot, jsonl, display)


def _show(recipe, found, evidence, samples, save, hardware, plot, jsonl: bool, display) -> None:
    """Lay everything out, measure it, and show the card; what is wrong is said before the model loads."""
    from steer_cli import run_plan
    from steer_cli.cli import saving
    from steer_cli.measure.score_plan import plan_score
    from steer_cli.report.card import card_parts
    from steer_cli.report.title import title

    located, facts = found
    plan = plan_score(recipe, facts, evidence, samples)
    loaded = run_plan.load(located, hardware, display.progress)
    saving.save(recipe, save, display.note)
    card = run_plan.score_of(loaded, plan, plot is not None, display.progress, display.note)
    shown = output.Output(jsonl, display, title(recipe, located.name))
    shown.show(card.records(), card_parts(card, shown.width))
    if plot is not None:
        from steer_cli.report import plots

        plots.card(card, plot)
