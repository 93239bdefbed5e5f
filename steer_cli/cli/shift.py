"""`steer shift`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Compare steered with unsteered next-token distributions.\n\nFor the likeliest tokens of either "
    "after the prompt: both probabilities, their ratio, and the token's signed part p ln(p/q) of KL(steered "
    "|| unsteered), in nats. With --want, effect is the log ratio of the wanted words' total probability, "
    "and damage is the KL among all other tokens. --jsonl prints a record per prompt.",
    "steer shift wedding-shift",
    'steer shift --plus " wedding" --layer 4 -c 4 -p "I went up to my friend and said"',
    "steer shift wedding-shift --want wedding --want weddings --top 20",
    'steer shift love-hate --chat "How was your day?" --want love',
    "steer shift love-hate --at 3 --jsonl | jq .kl",
)


At = Annotated[
    int | None,
    typer.Option(
        "--at", metavar="POSITION", help="Predict the token after this position; 0 is BOS, -1 last."
    ),
]
Top = Annotated[
    int,
    typer.Option(
        "--top",
        "-k",
        metavar="COUNT",
        min=1,
        max=options.MOST_TOKENS,
        help="Likeliest tokens of each side.",
    ),
]


def shift(
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
    at: At = None,
    want: options.Want = None,
    top: Top = 10,
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
    from steer_cli.planning.prediction import place_in, wanted_ids
    from steer_cli.report import measures
    from steer_cli.report.title import title

    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    chats = direction.Chats(tuple(chat or ()), system)
    chosen = recipe_from(recipe, set, prompt, None, model, direction=asked, save=save, chats=chats)
    plot_file(plot)
    saving.check_apart({"--save": save, "--plot": plot})
    with Display() as display:
        located, facts = found_model(chosen, display)
        plan = plan_recipe(chosen, facts, 0)
        wanted = wanted_ids(want or (), facts.tokenizer)
        positions = [place_in(planned, at) for planned in plan.prompts]
        loaded = run_plan.load(located, Hardware(dtype, device, device_map, threads), display.progress)
        saving.save(chosen, save, display.note)
        shifts = run_plan.shifts(loaded, plan, positions, wanted, top, display.note)
        shown = output.Output(jsonl, display, title(chosen, located.name))
        found = []
        for shift_found in shifts:
            shown.show(shift_found.records(), measures.shift_parts(shift_found))
            found.append(shift_found)
    if plot is not None:
        from steer_cli.report import plots

        plots.shift(found, plot)
