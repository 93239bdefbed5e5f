"""`steer table`."""

from __future__ import annotations

from steer_cli.cli import direction, options, output

HELP = options.help_text(
    "Show which token of each text is at which position.\n\nNeeds only the model's tokenizer, no weights: "
    "for your own model, a folder with tokenizer.json is enough. --jsonl prints a record per prompt.",
    "steer table love-hate",
    'steer table --plus Love --minus Hate -p "I hate you because" --position back',
    'steer table love-hate --chat "How was your day?"',
    "steer table gpt2-xl/praise --model ./gpt2-tokenizer",
    'steer table love-hate --prompt "I love" --jsonl | jq ".rows[1].tokens"',
)


def table(
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
    jsonl: output.Jsonl = False,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli import saving
    from steer_cli.cli.inputs import Display, found_model, recipe_from
    from steer_cli.planning.alignment_table import table_record
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.report import alignment
    from steer_cli.report.title import title

    asked = direction.Direction(plus, minus, layer, coefficient, position, relative)
    chats = direction.Chats(tuple(chat or ()), system)
    with Display() as display:
        chosen = recipe_from(recipe, set, prompt, None, model, direction=asked, save=save, chats=chats)
        located, facts = found_model(chosen, display, weights=False)
        plan = plan_recipe(chosen, facts)
        saving.save(chosen, save, display.note)
        shown = output.Output(jsonl, display, title(chosen, located.name))
        for planned in plan.prompts:
            rows = plan.table(planned)
            record = table_record(chosen.name, located.name, planned.source, rows)
            shown.show([record], ["", *alignment.alignment(rows, shown.width)])
