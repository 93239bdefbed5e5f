"""A recipe in a new file: with `--save` as it ran, with `--output` as it was found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from steer_cli.errors import RecipeError
from steer_cli.events import Note
from steer_cli.recipe.file_text import as_file
from steer_cli.recipe.named_files import moved_to
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe

_TAKEN = "{} {}: the file already exists; choose another name, or remove it first"


def check_free(file: Path | None, option: str = "--save") -> None:
    """Raise RecipeError at the start if the file exists, or could not be written."""
    if file is None:
        return
    if str(file) in ("-", "."):  # an empty name is the folder itself
        raise RecipeError([f"{option} {file}: not the name of a file; write one such as mine.yaml"])
    try:
        os.lstat(file)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise RecipeError([f"{option} {show(str(file))}: {reason}; choose another name"]) from None
    if file.is_dir():
        raise RecipeError([f"{option} {file}: is a folder; write the name of a file in it"])
    if os.path.lexists(file):
        raise RecipeError([_TAKEN.format(option, file)])
    folder = file.absolute().parent
    if not folder.is_dir():
        raise RecipeError([f"{option} {file}: there is no folder {file.parent}; create it first"])
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RecipeError([f"{option} {file}: cannot be written; choose another place"])


def check_apart(files: Mapping[str, Path | None]) -> None:
    """Raise RecipeError if two options name the same file to write.

    Args:
        files: by option.
    """
    options: dict[str, str] = {}
    for option, file in files.items():
        if file is not None:
            other = options.setdefault(os.path.abspath(file), option)
            if other != option:
                raise RecipeError([f"{option} {file}: is the {other} too; write another name"])


def save(recipe: Recipe, file: Path | None, note: Note, option: str = "--save") -> None:
    """Write the recipe to the file, if there is one, and say so.

    Raises:
        RecipeError: the file cannot be written, or has come into being since.
    """
    if file is None:
        return
    ours = False
    try:
        with open(file, "xb") as opened:
            ours = True
            opened.write(as_file(moved_to(recipe, file.parent)).encode())
    except FileExistsError:
        raise RecipeError([_TAKEN.format(option, file)]) from None
    except (OSError, ValueError) as error:  # a NUL in the name
        if ours:
            file.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise RecipeError([f"{option} {file}: {reason}; choose another place"]) from None
    note(f"saved: {file}")
