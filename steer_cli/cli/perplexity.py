"""`steer perplexity`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Measure how likely the sentences of a corpus become under steering.\n\nThe ratio of the perplexities is "
    "below 1 where steering makes a text likelier. Each sentence stands by itself; predictions made from the "
    "vector's own positions are left out on both sides; those before it (middle, a number) count too, and "
    "stay as they are. The standard error is over sentences.",
    "steer perplexity wedding-shift --corpus weddings.txt --corpus shipping.txt",
    "steer perplexity wedding-shift --corpus a=weddings.txt --baseline prompt",
    "steer perplexity worst --corpus reviews.csv --column text --label stars",
)


def perplexity(
    recipe: options.Recipe,
    corpus: options.Corpora = None,
    model: options.Model = None,
    set: options.Set = None,
    method: options.Method = "pad",
    baseline: Annotated[
        Literal["prompt"] | None,
        typer.Option(help="Also with the plus text as tokens in front, without a vector."),
    ] = None,
    sentences: Annotated[
        bool, typer.Option("--sentences", help="Show each token by its change in log probability.")
    ] = False,
    lines: options.Lines = False,
    column: options.Column = None,
    label: options.Label = None,
    group: options.Group = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="A JSON record for each corpus and label.")] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import measurements
    from steer_cli.cli.inputs import read_corpora, recipe_from
    from steer_cli.report import measure_records as records
    from steer_cli.report import measures, terminal
    from steer_cli.report.jsonl import line
    from steer_cli.report.progress import Display
    from steer_cli.run import Hardware

    chosen = recipe_from(recipe, set, None, None, model, needs_prompt=False)
    corpora = read_corpora(corpus, lines, column, label, group)
    with Display() as display:
        found = measurements.perplexity(
            chosen,
            corpora,
            Hardware(dtype, device, device_map),
            method,
            baseline is not None,
            sentences,
            display.progress,
            display.note,
        )
    if jsonl:
        for figure in found.figures:
            print(line(records.perplexity_record(chosen.name, found.model, figure)))
        if sentences:
            for sentence in found.sentences:
                print(line(records.sentence_record(chosen.name, found.model, sentence)))
        return
    screen = terminal.console()
    screen.print(terminal.title(chosen, found.model))
    if sentences:
        for part in measures.heat_parts(found.sentences):
            screen.print(part)
    screen.print(measures.perplexities(found.figures))
