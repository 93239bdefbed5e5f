"""`steer sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Measure a recipe over layers, coefficients, positions, dims.\n\nAxes are lists (6,16) or "
    "ranges: --layers 0:30 is 0 to 29, as blocks are counted; --coefficients=-1:4:0.5 includes 4. A point is"
    " the recipe with the point's values in all of its additions (or in those of --addition). With --store "
    "every finished point is on the disk at once, and the same command goes on where it was stopped. --best "
    "names corpora (their ratio), corpus/label, counted labels, kl, effect or damage.",
    "steer sweep wedding-shift --layers 0:30 --measure kl --plot kl.svg",
    "steer sweep wedding-shift --layers 0:30 --corpus a.txt --store a.jsonl",
    'steer sweep wedding-shift --layers 6,16 --corpus a.txt --best "min a"',
)


Layers = Annotated[str, typer.Option("--layers", metavar="RANGE", help="Such as 0:30 or 6,16.")]
Coefficients = Annotated[
    str | None, typer.Option("--coefficients", metavar="RANGE", help="Such as -1:4:0.5 or 1,2.")
]
Positions = Annotated[
    str | None, typer.Option("--positions", metavar="LIST", help="Of front, middle, back, every, numbers.")
]
Dims = Annotated[
    str | None, typer.Option("--dims", metavar="RANGE", help="Shares of the width, such as 0:1:0.1.")
]
Measure = Annotated[
    str | None,
    typer.Option("--measure", metavar="LIST", help="Of perplexity, kl, counts; else what the options allow."),
]
Additions = Annotated[
    list[int] | None,
    typer.Option("--addition", metavar="N", help="Move this addition only; may be repeated."),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", "-n", metavar="N", help="With counts: completions of each prompt."),
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="Keep finished points here, and go on from them."),
]
Best = Annotated[
    str | None,
    typer.Option(
        "--best", metavar="WISH", help='Such as "min weddings where shipping <= 1.02"; prints its recipe.'
    ),
]


def sweep(
    recipe: options.Recipe,
    layers: Layers,
    coefficients: Coefficients = None,
    positions: Positions = None,
    dims: Dims = None,
    measure: Measure = None,
    corpus: options.Corpora = None,
    addition: Additions = None,
    want: options.Want = None,
    prompt: options.Prompt = None,
    model: options.Model = None,
    samples: Samples = None,
    set: options.Set = None,
    method: options.Method = "pad",
    lines: options.Lines = False,
    column: options.Column = None,
    label: options.Label = None,
    group: options.Group = None,
    store: Store = None,
    best: Best = None,
    plot: options.Plot = None,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="A JSON record for each point.")] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import plot_file, read_corpora, recipe_from
    from steer_cli.errors import SweepError
    from steer_cli.report import plots
    from steer_cli.report.progress import Display
    from steer_cli.run import Hardware
    from steer_cli.sweep import best as wishes
    from steer_cli.sweep.question import Asked, ask
    from steer_cli.sweep.sweep import sweep as run

    plot_file(plot)
    wish = None if best is None else wishes.parse_wish(best)
    chosen = recipe_from(recipe, set, prompt, None, model, needs_prompt=False, samples=samples)
    corpora = read_corpora(corpus, lines, column, label, group)
    measures = tuple(part.strip() for part in measure.split(",")) if measure else ()
    asked = Asked(
        layers, coefficients, positions, dims, measures, tuple(addition or ()), tuple(want or ()), method
    )
    with Display() as display:
        question = ask(chosen, corpora, asked, display.progress, display.note)
        if samples is not None and "counts" not in question.measures:
            raise SweepError(f"--samples {samples}: only --measure counts draws samples; add it")
        if plot is not None:
            plots.check_axes(question.grid.varying, plot)
        if wish is not None:
            wishes.check_names(wish, question.names())
        records = run(question, Hardware(dtype, device, device_map), store, display.progress, display.note)
        found, winner = _show(question, records, wish, jsonl)
    if plot is not None:
        plots.sweep(found, [wishes.values(record) for record in found], plot)
    if wish is not None and winner is None:
        raise SweepError(f"--best {wish.text}: no point keeps the condition; loosen it")


def _show(question, records, wish, jsonl: bool) -> tuple[list, int | None]:
    """Records as they come, or a table when all are there; the winner and its recipe last."""
    from steer_cli.document import as_yaml
    from steer_cli.report import sweeps, terminal
    from steer_cli.report.jsonl import line
    from steer_cli.sweep.best import best, values
    from steer_cli.sweep.grid import as_values

    found = []
    for record in records:
        found.append(record)
        if jsonl:
            print(line(record), flush=True)
    winner = None if wish is None else best(wish, found)
    point = None if winner is None else list(question.grid)[winner]
    recipe = None if point is None else as_yaml(as_values(question.recipe_at(point)))
    named = [values(record) for record in found]
    if not jsonl:
        screen = terminal.console()
        screen.print(terminal.title(question.recipe, question.located.name))
        for part in sweeps.table(found, named, winner):
            screen.print(part)
        if recipe is not None:
            for part in sweeps.winner(wish.text, found[winner], named[winner], recipe):
                # Never folded: the recipe is to be pasted into a file.
                screen.print(part, soft_wrap=True)
    elif recipe is not None:
        typer.echo(f"best of {wish.text!r}: {line(found[winner] | {'recipe_text': recipe})}", err=True)
    return found, winner
