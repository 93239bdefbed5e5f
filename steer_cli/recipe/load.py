"""Load a recipe file as a Recipe, and give the format's JSON Schema."""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import ValidationError

from steer_cli.errors import RecipeError
from steer_cli.recipe import overrides
from steer_cli.recipe import yaml_source as document
from steer_cli.recipe.bundled import decode, find, is_file, read
from steer_cli.recipe.messages import describe
from steer_cli.recipe.named_files import in_folder_of
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import Document, Override


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe; editors use it to complete and check files."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def load(name: str, changes: list[Override] | None = None) -> Recipe:
    """Read, change and validate a recipe: a path, `-` for standard input, or a shipped name.

    Raises:
        RecipeError: the file cannot be read or is not a recipe; one line per fault.
    """
    file, changes = find(name), changes or []
    source = "<stdin>" if name == "-" else str(file) if is_file(name) else name
    content = read(file, source)
    recipe = _changed(document.parse(decode(content, source), source), changes)
    digest = hashlib.sha256(content)
    for change in changes:
        # All other changes, such as the number of samples, appear in the records.
        if change.assignment:
            digest.update(f"\n{change.assignment}".encode(errors="surrogateescape"))
    recipe = (
        recipe if recipe.name else recipe.model_copy(update={"name": "stdin" if name == "-" else file.stem})
    )
    recipe._sha256 = digest.hexdigest()
    # A pipe has no folder to find files in.
    return in_folder_of(recipe, file if file.is_file() else None)


def from_values(values: dict[str, Any], changes: list[Override]) -> Recipe:
    """A recipe that is in no file: plain values, and the changes made to them.

    Raises:
        RecipeError: the two together are not a recipe; holds one line per fault.
    """
    return _changed(Document("recipe", values), changes)


def _changed(written: Document, changes: list[Override]) -> Recipe:
    recipe = validate(overrides.override(written, changes))
    recipe._changes = tuple((change.label, change.path) for change in changes)
    return recipe


def validate(written: Document) -> Recipe:
    """Turn plain values into a Recipe.

    Raises:
        RecipeError: one line per fault, in the order of the file, up to a limit.
    """
    try:
        # In a file, `from` has that name alone.
        return Recipe.model_validate(written.values, by_alias=True, by_name=False)
    except ValidationError as error:
        faults: list[Any] = error.errors(include_url=False)
        raise RecipeError(*describe(faults, written, Recipe.known_keys)) from None
    except RecursionError:
        raise RecipeError([f"{written.source}: nested too deeply"]) from None


def checked(recipe: Recipe) -> Recipe:
    """What a function of the library was given as its recipe.

    Raises:
        RecipeError: it is none, such as the name of one.
    """
    if isinstance(recipe, Recipe):
        return recipe
    given = show(recipe) if isinstance(recipe, str) else f"a {type(recipe).__name__}"
    raise RecipeError(
        [f"recipe: {given} is not a Recipe; pass load_recipe(NAME), or Recipe(prompt=..., additions=[...])"]
    )
