"""`steer bake`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Write a checkpoint that is steered by itself.\n\nThe vectors go into the biases of the blocks before "
    "their layers, so that transformers and everything else that reads checkpoints runs the steered model "
    "without steer. That needs a constant at every position, `{every: all}`, and a network that has such a "
    "place; anything else is refused. What was written is loaded and compared with the steered model "
    "before the folder appears. --jsonl prints one record.",
    "steer bake love-hate --position every=all -o ./love-hate",
    "steer bake --plus Love --minus Hate --layer 6 -c 2 --position every=all -o ./love",
    "steer bake love-hate --position every=all -o ./small --dtype bfloat16",
    "steer bake love-hate --position every=all -o ./again --jsonl | jq .difference",
)

Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FOLDER", help="The new folder; it must not exist."),
]
WrittenDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        "--dtype",
        help="Type of the written weights; auto keeps the checkpoint's. Computed in float32.",
    ),
]


def bake(
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    layer: direction.Layer = None,
    coefficient: direction.Coefficient = None,
    position: direction.Position = None,
    folder: Folder = None,
    model: options.Model = None,
    set: options.Set = None,
    save: direction.Save = None,
    jsonl: output.Jsonl = False,
    dtype: WrittenDtype = "auto",
    device: options.Device = "auto",
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import run_plan
    from steer_cli.cli import saving
    from steer_cli.cli.inputs import Display, found_model, recipe_from
    from steer_cli.cli.unknown_option import WrongUsage
    from steer_cli.exports.bake import check_position, plan_bake, write_bake
    from steer_cli.exports.new_folder import check_new
    from steer_cli.models.hardware import Hardware
    from steer_cli.report.baked import baked_lines

    if folder is None:
        raise WrongUsage("no --output: name a new folder, as in -o ./steered")
    asked = direction.Direction(plus, minus, layer, coefficient, position)
    check_new(folder)
    saving.check_apart({"--output": folder, "--save": save})
    chosen = recipe_from(recipe, set, None, None, model, needs_prompt=False, direction=asked, save=save)
    check_position(chosen)
    with Display() as display:
        located, facts = found_model(chosen, display)
        plan = plan_bake(chosen, facts, located, folder, dtype)
        loaded = run_plan.load(located, Hardware("float32", device, None, threads), display.progress)
        saving.save(chosen, save, display.note)
        baking = run_plan.prepared(loaded, plan, display.progress, display.note)
        del loaded  # its memory is needed to load what is written
        found = write_bake(baking, display.progress, display.note)
        if jsonl:
            output.Output(jsonl, display).records(found.records())
            return
        display.clear()
        for line in baked_lines(found):
            display.note(line)
