"""The files that a recipe names: texts and stored vectors, relative to the recipe's own folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.recipe.sources import TextFile, VectorFile

# Paths in an addition of the values that may name a file.
_PLACES = (("vector",), ("texts", "plus"), ("texts", "minus"))


def located(recipe: Recipe, name: str) -> Path:
    """The path of a file that a recipe names."""
    return Path(recipe._folder, name)


def in_folder_of(recipe: Recipe, file: Path | None) -> Recipe:
    """A recipe as it was read: names are relative to its file, those of changes to the working directory.

    Args:
        file: the recipe's file; None where it is in none, as from standard input.
    """
    folder = "" if file is None else str(file.parent)

    def rename(name: str, path: tuple[str | int, ...]) -> str:
        return name if recipe.change_of(*path, "file") is None else _seen_from(folder, Path(name))

    return _renamed(recipe, folder, rename)


def moved_to(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe as a file in another folder holds it, where it still means the same files."""
    return _renamed(recipe, str(folder), lambda name, _: _seen_from(str(folder), Path(located(recipe, name))))


def _seen_from(folder: str, target: Path) -> str:
    """A relative path from the folder to the target; the absolute path stays where one was given."""
    here, there = Path(folder or "."), target.absolute()
    try:
        # Links are followed first, as `..` leads out of the folder that a link points to.
        return os.path.relpath(there.parent.resolve() / there.name, here.resolve())
    except (ValueError, OSError, RuntimeError):  # another drive, or a loop of links
        return str(there)


def _renamed(recipe: Recipe, folder: str, rename: Callable[[str, tuple[str | int, ...]], str]) -> Recipe:
    additions = []
    for index, addition in enumerate(recipe.additions):
        for place in _PLACES:
            name, path = _name(addition, place), ("additions", index, *place)
            if name is not None and not os.path.isabs(name):
                addition = _with_name(addition, place, rename(name, path))
        additions.append(addition)
    changed = recipe.model_copy(update={"additions": tuple(additions)})
    changed._folder = folder
    return changed


def _value(addition: Addition, place: tuple[str, ...]) -> Any:
    value: Any = addition
    for key in place:
        value = None if value is None else getattr(value, key)
    return value


def _name(addition: Addition, place: tuple[str, ...]) -> str | None:
    value = _value(addition, place)
    value = value.file if isinstance(value, (TextFile, VectorFile)) else value
    return value if isinstance(value, str) else None


def _with_name(addition: Addition, place: tuple[str, ...], name: str) -> Addition:
    value = _value(addition, place)
    value = value.model_copy(update={"file": name}) if isinstance(value, (TextFile, VectorFile)) else name
    if place == ("vector",):
        return addition.model_copy(update={"vector": value})
    assert addition.texts is not None
    texts = addition.texts.model_copy(update={place[-1]: value})
    return addition.model_copy(update={"texts": texts})
