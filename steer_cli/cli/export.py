"""`steer export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Write the vectors to a file for llama.cpp, repeng or steer.\n\nA .gguf file is a control vector: one "
    "direction per layer, from layer 2 on, added at every position, with the coefficient in it. A recipe "
    "that does anything else is refused; --approximate writes the nearest that can be said. A .safetensors "
    "file holds all positions, unscaled, for `vector: FILE` in a recipe. Both say which recipe, model and "
    "version of steer they come from. --jsonl prints one record.",
    "steer export love-hate --position every=all -o love.gguf",
    "steer export --plus Love --minus Hate --layer 6 -c 2 --position every=all -o love.gguf",
    "steer export love-hate -o love.safetensors",
    "steer export chat-gloom --approximate -o gloom.gguf",
    "steer export love-hate -o love.safetensors --jsonl | jq -r .sha256",
)

File = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The new file: a name that ends in .gguf (for llama.cpp) or .safetensors (for steer).",
    ),
]
Approximate = Annotated[
    bool,
    typer.Option(
        "--approximate",
        help="For a .gguf file: add the last row of each vector at every position, BOS too, and leave out "
        "layers 0 and 1. A note and the file say what differs.",
    ),
]


def export(
    recipe: direction.OptionalRecipe = None,
    plus: direction.Plus = None,
    minus: direction.Minus = None,
    layer: direction.Layer = None,
    coefficient: direction.Coefficient = None,
    relative: direction.Relative = None,
    position: direction.Position = None,
    file: File = None,
    approximate: Approximate = False,
    model: options.Model = None,
    set: options.Set = None,
    save: direction.Save = None,
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import run_plan
    from steer_cli.cli import saving
    from steer_cli.cli.inputs import Display, found_model, recipe_from
    from steer_cli.cli.unknown_option import WrongUsage
    from steer_cli.exports.export import SUFFIXES, check_file, plan_export
    from steer_cli.models.hardware import Hardware
    from steer_cli.report.exported import exported_lines

    if file is None:
        raise WrongUsage(f"no --output: name a file that ends in {SUFFIXES}")
    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    check_file(file)
    saving.check_apart({"--output": file, "--save": save})
    chosen = recipe_from(recipe, set, None, None, model, needs_prompt=False, direction=asked, save=save)
    with Display() as display:
        located, facts = found_model(chosen, display)
        plan = plan_export(chosen, facts, file, approximate)
        loaded = run_plan.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        saving.save(chosen, save, display.note)
        found = run_plan.exported(loaded, plan, display.progress, display.note)
        if jsonl:
            output.Output(jsonl, display).records(found.records())
            return
        # The file is the result; what is said of it is for a person.
        display.clear()
        for line in exported_lines(found):
            display.note(line)
