"""A recipe's name -> its file: those that ship with the tool, and the user's own.

This module does not know what is in a recipe.
"""

from __future__ import annotations

import difflib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from steer_cli.errors import RecipeError

# The model of a recipe that names none, and of a bare recipe name.
DEFAULT_MODEL = "smollm2-135m"
MOST_BYTES = 64_000_000  # of a file


def shipped() -> dict[str, Path]:
    """The recipes that ship with the tool: `model/name` -> file, the default model's first."""
    package = Path(__file__).parent.parent
    folder = package / "recipes"
    folder = folder if folder.is_dir() else package.parent / "recipes"
    files = sorted(folder.glob("*/*.yaml"), key=lambda file: (file.parent.name != DEFAULT_MODEL, file))
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def is_file(name: str) -> bool:
    """Whether there is such a file, or a pipe as the shell makes for `<(...)`."""
    try:
        return Path(name).exists() and not Path(name).is_dir()
    except (OSError, ValueError):  # longer than a file's name may be, or with a NUL in it
        return False


def read(file: Path, source: str) -> bytes:
    """The content of a file, or of standard input for `-`.

    Raises:
        RecipeError: it cannot be read; names `source`.
    """
    try:
        if str(file) == "-" and sys.stdin is None:
            raise RecipeError([f"{source}: standard input is closed; give a file"])
        with nullcontext(sys.stdin.buffer) if str(file) == "-" else open(file, "rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise RecipeError([f"{source}: {error.strerror or error}"]) from None
    except ValueError as error:  # a NUL in the name
        raise RecipeError([f"{source}: {error}; no file has such a name"]) from None
    if len(content) > MOST_BYTES:  # a device, say, which has no end
        raise RecipeError(
            [f"{source}: more than {MOST_BYTES} bytes, which is no recipe and no list of prompts"]
        )
    return content


def decode(content: bytes, source: str) -> str:
    """UTF-8 -> text, with or without a byte order mark.

    Raises:
        RecipeError: it is something else; names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError([f"{source}:{line}: not UTF-8 text; save the file as UTF-8"]) from None


def find(name: str) -> Path:
    """The file of a path or of a shipped recipe's name; a bare name means the default model's first.

    Raises:
        RecipeError: there is neither; names the nearest shipped recipes.
    """
    if name == "-" or is_file(name):
        return Path(name)
    known = shipped()
    for full, file in known.items():
        if name in (full, full.split("/")[1]):
            return file
    near = difflib.get_close_matches(name, [*known, *(full.split("/")[1] for full in known)], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`steer recipes` lists those that ship"
    kind = "is a folder, not a recipe file" if os.path.isdir(name) else "no such file or shipped recipe"
    raise RecipeError([f"{name[:200]}: {kind}; {hint}"])
