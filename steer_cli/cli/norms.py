"""`steer norms`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Measure |vector| / |stream| by layer and position.\n\nFor each addition of the recipe, at coefficient 1:"
    " the vector at every layer, compared with the prompt's stream there, all in one pass. For a relative "
    "coefficient, the number that it comes to at each layer is shown too. --jsonl"
    " prints a record per prompt, addition and layer.",
    "steer norms love-hate",
    "steer norms love-hate --relative 0.8",
    'steer norms --plus Love --minus Hate -p "I hate you because"',
    "steer norms gpt2-xl/anger --model ./gpt2 --centre",
    "steer norms love-hate --jsonl | jq -c '[.layer, .ratio]'",
)


def norms(
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
    model: options.Model = None,
    set: options.Set = None,
    save: direction.Save = None,
    centre: Annotated[
        bool,
        typer.Option("--centre", help="Subtract the mean over the width first (LayerNorm models)."),
    ] = False,
    plot: options.Plot = None,
    jsonl: output.Jsonl = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    threads: options.Threads = None,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import run_plan
    from steer_cli.cli import saving
    from steer_cli.cli.inputs import Display, found_model, plot_file, recipe_from
    from steer_cli.models.hardware import Hardware
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.report import measures
    from steer_cli.report.title import title

    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    chats = direction.Chats(tuple(chat or ()), system)
    chosen = recipe_from(recipe, set, prompt, None, model, direction=asked, save=save, chats=chats)
    plot_file(plot)
    saving.check_apart({"--save": save, "--plot": plot})
    with Display() as display:
        if asked.given.keys() & {"layer", "coefficient"}:
            display.note("norms are measured at every layer and at coefficient 1, whatever the recipe says")
        located, facts = found_model(chosen, display)
        plan = plan_recipe(chosen, facts, 0)
        loaded = run_plan.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        saving.save(chosen, save, display.note)
        found = list(run_plan.norms_of(loaded, plan, centre, display.note))
        shown = output.Output(jsonl, display, title(chosen, located.name))
        records = (record for norms_found in found for record in norms_found.records())
        shown.show(records, measures.norms_parts(found, shown.width))
    if plot is not None:
        from steer_cli.report import plots

        plots.norms(found, plot)
