"""`steer table`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Show which token of which text stands at which position.\n\nNeeds the model's tokenizer only, no "
    "weights: for a model of your own, a folder with tokenizer.json will do.",
    "steer table love-hate",
    "steer table gpt2-xl/praise --model ./gpt2-tokenizer",
    'steer table love-hate --prompt "I love" --json | jq .rows[1].tokens',
)


def table(
    recipe: options.Recipe,
    prompt: options.Prompt = None,
    model: options.Model = None,
    set: options.Set = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="A JSON record for each prompt.")] = False,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli import api
    from steer_cli.cli.inputs import recipe_from
    from steer_cli.planning.alignment_table import table_record
    from steer_cli.report import alignment, terminal
    from steer_cli.report.jsonl import line
    from steer_cli.report.progress import Display

    with Display() as display:
        chosen = recipe_from(recipe, set, prompt, None, model)
        planned = api.plan(chosen, weights=False, progress=display.progress, note=display.note)
    screen = terminal.console()
    if not json:
        screen.print(terminal.title(planned.recipe, planned.located.name))
    for each in planned.prompts:
        rows = planned.table(each)
        if json:
            print(line(table_record(planned.recipe.name, planned.located.name, each.text, rows)))
            continue
        for part in alignment.alignment(rows, screen.width):
            screen.print(part)
