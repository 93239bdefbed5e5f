"""`steer perplexity`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Measure how likely sentences become under steering.\n\nA ratio of perplexities below "
    "1 means that steering makes the text likelier. Each sentence is measured by itself. Predictions made at "
    "the vector's own positions are left out of both perplexities; predictions before it (with middle or a "
    "number) are counted, though steering does not change them. The standard error is over sentences. "
    "--jsonl prints a record per corpus and label.\n\n" + options.THEIR_FILES,
    "steer perplexity wedding-shift --corpus benchmarks/corpora/weddings.txt "
    "--corpus benchmarks/corpora/shipping.txt",
    'steer perplexity --plus " weddings" --layer 6 --corpus benchmarks/corpora/weddings.txt',
    "steer perplexity wedding-shift --corpus a=benchmarks/corpora/weddings.txt --baseline prompt",
    "steer perplexity worst --corpus benchmarks/corpora/reviews.csv --column text --label stars",
)


Baseline = Annotated[
    Literal["prompt"] | None,
    typer.Option(
        "--baseline",
        help="Also measure with the text steered towards in front as tokens, without a vector; "
        "several different ones stand one after the other, as many as fit.",
    ),
]
Sentences = Annotated[
    bool, typer.Option("--sentences", help="Show how the log probability of each token changes.")
]


def perplexity(
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    layer: direction.Layer = None,
    coefficient: direction.Coefficient = None,
    relative: direction.Relative = None,
    position: direction.Position = None,
    corpus: options.Corpora = None,
    model: options.Model = None,
    set: options.Set = None,
    save: direction.Save = None,
    method: options.Method = None,
    baseline: Baseline = None,
    sentences: Sentences = False,
    lines: options.Lines = False,
    column: options.Column = None,
    label: options.Label = None,
    group: options.Group = None,
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import run_plan
    from steer_cli.cli import saving
    from steer_cli.cli.inputs import Display, found_model, read_corpora, recipe_from
    from steer_cli.measure.lines import plan_corpora
    from steer_cli.models.hardware import Hardware
    from steer_cli.report import measures
    from steer_cli.report.title import title

    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    chosen = recipe_from(recipe, set, None, None, model, needs_prompt=False, direction=asked, save=save)
    corpora = read_corpora(corpus, lines, column, label, group)
    with Display() as display:
        located, facts = found_model(chosen, display)
        plan = plan_corpora(chosen, facts, tuple(corpora), method or "pad", baseline is not None)
        loaded = run_plan.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        saving.save(chosen, save, display.note)
        found = run_plan.perplexity_of(loaded, plan, sentences, display.note)
        shown = output.Output(jsonl, display, title(chosen, located.name))
        shown.show(found.records(), measures.perplexity_parts(found, shown.width))
