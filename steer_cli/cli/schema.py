"""`steer schema`."""

from __future__ import annotations

from steer_cli.cli import options

HELP = options.help_text(
    "Print the JSON Schema of recipes, for completion in editors.",
    "steer schema > recipe.schema.json",
    "steer schema | jq .properties.additions",
)


def schema(debug: options.Debug.option = False) -> None:
    import json

    from steer_cli.recipe.load import schema as recipe_schema

    print(json.dumps(recipe_schema(), indent=2))
