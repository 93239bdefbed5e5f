"""`steer sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Measure a recipe over layers, coefficients, positions, dims.\n\nAxes are lists (6,16) or "
    "ranges: --layers 0:30 is 0 to 29, as blocks are counted; --coefficients=-1:4:0.5 includes 4. A point is"
    " the recipe with the point's values in all its additions (or those chosen by --addition). With --store, "
    "every point is saved as it finishes, and the same command continues where it was stopped. --best "
    "names corpora (their ratio), corpus/label, counted labels, cost (with counts: how much less likely the "
    "steered texts are to the unsteered model than its own, in nats per token), kl, effect or damage. "
    "--jsonl prints a record per point; with --best the winning one comes once more as the last line, with "
    "the objective as `best` and its recipe as `best_recipe`.\n\n" + options.THEIR_FILES,
    'steer sweep --plus " wedding" -p "I went up to my friend and said" --layers 0:30 --measure kl',
    "steer sweep wedding-shift --layers 0:30 --measure kl --plot kl.svg",
    "steer sweep wedding-shift --layers 0:30 --corpus benchmarks/corpora/weddings.txt --store points.jsonl",
    'steer sweep wedding-shift --layers 6,16 --corpus benchmarks/corpora/weddings.txt --best "min weddings"',
    "steer sweep love-hate --layers 0:9 --relative 0.2:1:0.2",
    'steer sweep love-hate --layers 0:9 --best "max kl" --save best.yaml',
    'steer sweep love-hate --layers 0:9 --best "max kl" --jsonl | tail -1',
    "steer sweep wedding-shift --layers 0:30 --measure kl --ray local",
)


Layers = Annotated[str, typer.Option("--layers", metavar="RANGE", help="Such as 0:30 or 6,16.")]
Coefficients = Annotated[
    str | None, typer.Option("--coefficients", metavar="RANGE", help="Such as -1:4:0.5 or 1,2.")
]
Relative = Annotated[
    str | None,
    typer.Option(
        "--relative",
        metavar="RANGE",
        help="Instead of coefficients: mean lengths of what is added, in lengths of the stream, such as "
        "0.2:1:0.2.",
    ),
]
Positions = Annotated[
    str | None,
    typer.Option(
        "--positions", metavar="LIST", help="Of front, middle, back, every, numbers; also every=new and such."
    ),
]
Dims = Annotated[
    str | None, typer.Option("--dims", metavar="RANGE", help="Shares of the width, such as 0:1:0.1.")
]
Measure = Annotated[
    str | None,
    typer.Option(
        "--measure",
        metavar="LIST",
        help="Of perplexity, kl, counts; by default perplexity with --corpus, else kl.",
    ),
]
Additions = Annotated[
    list[int] | None,
    typer.Option("--addition", metavar="N", help="Change only this addition; repeatable."),
]
Samples = Annotated[
    int | None,
    typer.Option("--samples", "-n", metavar="N", help="With counts: completions per prompt."),
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="Keep finished points here, and continue from them."),
]
Best = Annotated[
    str | None,
    typer.Option(
        "--best",
        metavar="OBJECTIVE",
        help='Such as "min weddings where shipping <= 1.02"; prints its recipe.',
    ),
]


Save = Annotated[
    Path | None,
    typer.Option("--save", metavar="FILE", help="With --best: write the winner's recipe to this new file."),
]


def sweep(
    layers: Layers,
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    coefficients: Coefficients = None,
    relative: Relative = None,
    positions: Positions = None,
    dims: Dims = None,
    measure: Measure = None,
    corpus: options.Corpora = None,
    addition: Additions = None,
    want: options.Want = None,
    prompt: options.Prompt = None,
    chat: direction.Chat = None,
    system: direction.System = None,
    model: options.Model = None,
    samples: Samples = None,
    set: options.Set = None,
    method: options.Method = None,
    lines: options.Lines = False,
    column: options.Column = None,
    label: options.Label = None,
    group: options.Group = None,
    store: Store = None,
    best: Best = None,
    save: Save = None,
    plot: options.Plot = None,
    ray: options.Ray = None,
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display, read_corpora, recipe_from
    from steer_cli.models.hardware import Hardware
    from steer_cli.sweeps.objective import parse_objective
    from steer_cli.sweeps.plan import SweepOptions

    _check_files(plot, save, store, best)
    objective = None if best is None else parse_objective(best)
    needs_prompt = recipe is None and (not corpus if measure is None else measure != "perplexity")
    pair, drawn = direction.Direction(plus, minus), {"samples": samples}
    chats = direction.Chats(tuple(chat or ()), system)
    chosen = recipe_from(
        recipe, set, prompt, None, model, needs_prompt, direction=pair, sampling=drawn, chats=chats
    )
    corpora = read_corpora(corpus, lines, column, label, group)
    measures = tuple(part.strip() for part in measure.split(",")) if measure is not None else ()
    lists = tuple(addition or ()), tuple(want or ()), (*(prompt or ()), *(chat or ()))
    asked = SweepOptions(layers, coefficients, positions, dims, measures, *lists, method, samples, relative)
    with Display() as display:
        hardware = Hardware(dtype, device, device_map, threads)
        _run(chosen, corpora, asked, hardware, store, objective, plot, save, jsonl, ray, display)


def _check_files(plot: Path | None, save: Path | None, store: Path | None, best: str | None) -> None:
    from steer_cli.cli.inputs import plot_file
    from steer_cli.cli.saving import check_apart, check_free
    from steer_cli.errors import SweepError

    plot_file(plot)
    if save is not None and best is None:
        raise SweepError(f'--save {save}: which point? add --best, such as --best "max kl"')
    check_free(save)
    check_apart({"--save": save, "--store": store, "--plot": plot})


def _run(recipe, corpora, asked, hardware, store, objective, plot, save, jsonl: bool, ray, display) -> None:
    """Check all that can be wrong; then show points as they come, the winner, the plot."""
    from contextlib import closing

    from steer_cli.cli import saving
    from steer_cli.errors import SweepError
    from steer_cli.report import plots
    from steer_cli.sweeps.objective import check_measured
    from steer_cli.sweeps.plan import plan_sweep
    from steer_cli.sweeps.sweep import sweep as run

    plan = plan_sweep(recipe, corpora, asked, progress=display.progress, note=display.note)
    if plot is not None:
        plots.check_axes(plan.grid.varying, plot)
    if objective is not None:
        check_measured(objective, plan.figure_names())
    for split in filter(None, (corpus.split for corpus in corpora)):
        display.note(split)
    try:
        # Closed before the process ends, which does not wait for generators: workers must end too.
        with closing(run(plan, hardware, store, display.progress, display.note, ray)) as measured:
            points, winner = _show(plan, measured, objective, jsonl, display)
    except KeyboardInterrupt:
        display.clear()
        display.note(_left(plan, store))
        raise
    if winner is not None:
        saving.save(plan.recipe_of(winner), save, display.note)
    if plot is not None:
        plots.sweep(points, plot)
    if objective is not None and winner is None:
        raise SweepError(
            f"--best {objective.text}: no point meets the condition; {_nearest(objective, points)}"
        )


def _nearest(objective, points) -> str:
    """The point that comes closest to the conditions, and what it lacks."""
    from steer_cli.report.numbers import exact, plain
    from steer_cli.report.sweeps import place
    from steer_cli.sweeps.objective import nearest

    found = nearest(objective, points)
    if found is None:
        return "there are no points"
    point, misses = found
    lacks = " and ".join(
        f"{miss.bound.name} is {exact(miss.figure)}, which misses {miss.bound.sign} "
        f"{plain(miss.bound.limit)} by {exact(miss.by)}"
        for miss in misses
    )
    also = (
        ""
        if objective.name in {miss.bound.name for miss in misses}
        else (f" ({objective.name} {exact(point.values()[objective.name])})")
    )
    where = place(point).replace("  ", ", ")
    return f"the nearest is {where}: {lacks}{also}; loosen the condition, or sweep further"


def _left(plan, store: Path | None) -> str:
    """How many points an interrupted sweep has stored, and how to continue."""
    from steer_cli.sweeps.sweep import stored_points

    if store is None:
        return "interrupted: no points were kept; use --store FILE to keep points and continue"
    return (
        f"interrupted: {stored_points(plan, store)} of {len(plan.grid)} points are kept in {store}; run the "
        "same command to continue"
    )


def _show(plan, measured, objective, jsonl: bool, display) -> tuple[list, Any]:
    """Records as they come, or a table when all points are there; the winner and its recipe last."""
    from steer_cli.recipe.file_text import as_file, as_values
    from steer_cli.report import sweeps
    from steer_cli.report.title import title
    from steer_cli.sweeps.objective import best, cost_warning

    shown = output.Output(jsonl, display, title(plan.recipe, plan.located.name))
    points = []
    for point in measured:
        points.append(point)
        shown.records(point.records())
    winner = None if objective is None else best(objective, points)
    shown.screen(sweeps.table(points, winner, shown.width))
    if winner is not None:
        recipe = plan.recipe_of(winner)
        record = winner.record() | {"best": objective.text, "best_recipe": as_values(recipe)}
        shown.show([record], sweeps.winner(objective.text, winner, as_file(recipe)), wrap=False)
        if warning := cost_warning(objective, winner):
            display.note(warning)
    return points, winner
