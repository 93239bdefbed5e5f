"""A direction from the command line -> changes of a recipe, or a recipe that needs no file."""

from __future__ import annotations

import json
from typing import Any

from steer_cli.cli.direction import DEFAULT_LAYER, Direction
from steer_cli.cli.unknown_option import WrongUsage
from steer_cli.errors import RecipeError
from steer_cli.recipe.load import from_values
from steer_cli.recipe.overrides import parse_override
from steer_cli.recipe.position_words import way_in
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import Override
from steer_cli.report.title import quoted


def check_given(name: str | None, direction: Direction, needs_prompt: bool) -> None:
    """Raise WrongUsage, which says both ways, where there is neither a recipe nor a plus text."""
    if name is not None or direction.plus is not None:
        return
    key, text = next(iter(direction.given.items()), (None, ""))
    fault = "no recipe and no --plus" if key is None else f"--{key} {show(text)}: neither --plus nor a recipe"
    prompt = ' -p "I hate you because"' if needs_prompt else ""
    raise WrongUsage(
        f"{fault}; name a recipe, as in `steer generate love-hate`, or steer without a file: "
        f"--plus Love --minus Hate{prompt}"
    )


def changes_of(direction: Direction) -> list[Override]:
    """The options as changes of a recipe's first addition.

    Raises:
        RecipeError: a value that cannot be read, or an empty plus.
    """
    if direction.plus == "":
        raise RecipeError(["--plus '': an empty text; write the text to steer towards"])
    if direction.coefficient is not None and direction.relative is not None:
        other = f"--coefficient {direction.coefficient}"
        raise RecipeError([f"--relative {direction.relative}: {other} stands in its place; leave one out"])
    # The texts come last: a fault of the addition as a whole is theirs.
    changes = [_change(key, text) for key, text in reversed(direction.given.items())]
    if direction.plus is not None:
        # One pair stands in the place of all that a recipe may have instead.
        others: dict[str, Any] = {"pairs": [], "texts": None, "vector": None, "from": None}
        changes += [Override(changes[-1].label, ("additions", 0, key), none) for key, none in others.items()]
    return changes


def recipe_of(direction: Direction, changes: list[Override]) -> Recipe:
    """The recipe of the one addition that the options make.

    Args:
        changes: all changes, those of the options included.

    Raises:
        RecipeError: they make no recipe.
    """
    assert direction.plus is not None
    recipe = from_values({"additions": [{"layer": DEFAULT_LAYER}]}, changes)
    name = _name(direction.plus, direction.minus)
    return recipe if recipe.name else recipe.model_copy(update={"name": name})


def _change(key: str, text: str) -> Override:
    label = f"--{key} {text if 0 < len(text) <= 80 else show(text)}"
    value = _value(key, text, label)
    if key == "relative":
        path = ("additions", 0, "coefficient")
        return Override(label, path, {key: value}, text, f"additions.0.coefficient.relative={text}")
    if isinstance(value, list) and None not in value and len(value) > len(set(map(str, value))):
        raise RecipeError([f"{label}: lists a block twice; list each once"])
    return Override(label, ("additions", 0, key), value, text, _assignment(key, value, text))


def _value(key: str, text: str, label: str) -> Any:
    """What the text of an option means: texts are taken literally, other values as `--set` reads them."""
    if key in ("plus", "minus"):
        return text
    if key == "position" and text.startswith("token="):
        return {"token": text.removeprefix("token=")}
    if key == "position" and (way := way_in(text)) is not None:
        return {"every": way}
    if key == "layer" and "," in text and not text.lstrip().startswith("["):
        return [_value(key, part.strip(), label) for part in text.split(",")]
    value = parse_override(f"additions.0.{key}={text}", label).value
    if key == "position" and isinstance(value, int) and not isinstance(value, bool):
        return {"at": value}
    return value


def _assignment(key: str, value: Any, text: str) -> str:
    """The change as KEY=VALUE: what `--set` would take, so that both give a recipe the same digest."""
    name = f"additions.0.{key}"
    try:
        if parse_override(f"{name}={text}").value == value:
            return f"{name}={text}"
    except RecipeError:
        pass
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def _name(plus: str, minus: str | None) -> str:
    """A readable name such as "Love - Hate", as titles write the texts."""
    return quoted(plus) if minus is None else f"{quoted(plus)} - {quoted(minus)}"
