"""`steer table`."""

from __future__ import annotations

from typing import Annotated

import typer

from steer_cli.cli import options

HELP = options.help_text(
    "Show which token of each text falls at which position.\n\nNeeds only the model's tokenizer, no "
    "weights: for your own model, a folder with tokenizer.json is enough.",
    "steer table love-hate",
    "steer table gpt2-xl/praise --model ./gpt2-tokenizer",
    'steer table love-hate --prompt "I love" --json | jq .rows[1].tokens',
)


def table(
    recipe: options.Recipe,
    prompt: options.Prompt = None,
    model: options.Model = None,
    set: options.Set = None,
    json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON record per prompt.")] = False,
    debug: options.Debug.option = False,
) -> None:
    from steer_cli.cli.inputs import Display, found_model, recipe_from
    from steer_cli.planning.alignment_table import table_record
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.report import alignment, terminal
    from steer_cli.report.jsonl import line

    with Display() as display:
        chosen = recipe_from(recipe, set, prompt, None, model)
        located, facts = found_model(chosen, display, weights=False)
        plan = plan_recipe(chosen, facts)
    screen = terminal.console()
    if not json:
        screen.print(terminal.title(plan.recipe, located.name))
    for prompt_plan in plan.prompts:
        rows = plan.table(prompt_plan)
        if json:
            print(line(table_record(plan.recipe.name, located.name, prompt_plan.text, rows)))
            continue
        for part in alignment.alignment(rows, screen.width):
            screen.print(part)
