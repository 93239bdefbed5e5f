"""Find a recipe's file by its name: a shipped recipe or the user's own."""

from __future__ import annotations

import difflib
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from steer_cli.errors import RecipeError

# Used by recipes that name no model; a bare recipe name means this model's recipe.
DEFAULT_MODEL = "smollm2-135m"
MOST_BYTES = 64_000_000  # per file


def shipped() -> dict[str, Path]:
    """The recipes that ship with the tool, as `model/name` -> file; the default model's come first."""
    package = Path(__file__).parent.parent
    folder = package / "recipes"
    folder = folder if folder.is_dir() else package.parent / "recipes"
    files = sorted(folder.glob("*/*.yaml"), key=lambda file: (file.parent.name != DEFAULT_MODEL, file))
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def is_file(name: str) -> bool:
    """Whether the name is a file, or a pipe such as the shell makes for `<(...)`."""
    try:
        return Path(name).exists() and not Path(name).is_dir()
    except (OSError, ValueError):  # too long for a file name, or contains a NUL
        return False


def read(file: Path, source: str) -> bytes:
    """The content of a file; `-` reads standard input.

    Raises:
        RecipeError: it cannot be read; the message names `source`.
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
    if len(content) > MOST_BYTES:  # a device, for example, has no end
        raise RecipeError(
            [f"{source}: more than {MOST_BYTES} bytes, too long for a recipe or a list of prompts"]
        )
    return content


def decode(content: bytes, source: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        RecipeError: the content is not UTF-8; the message names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError([f"{source}:{line}: not UTF-8 text; save the file as UTF-8"]) from None


def _near(name: str, known: dict[str, Path]) -> list[str]:
    """Names like this one: of each recipe the shortest that means it."""
    shortest: dict[Path, str] = {}
    meant = {full.split("/")[1]: known[full] for full in reversed(known)} | known
    for each, file in meant.items():
        shortest[file] = min(shortest.get(file, each), each, key=len)
    near = difflib.get_close_matches(name, meant, n=8)
    return list(dict.fromkeys(shortest[meant[each]] for each in near))[:3]


def find(name: str) -> Path:
    """The file for a path or a shipped recipe's name; a bare name prefers the default model's recipe.

    Raises:
        RecipeError: there is no such file or recipe; the message suggests similar names.
    """
    if name == "-" or is_file(name):
        return Path(name)
    known = shipped()
    for full, file in known.items():
        if name in (full, full.split("/")[1]):
            return file
    near = _near(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "`steer recipes` lists the shipped ones"
    kind = "is a folder, not a recipe file" if os.path.isdir(name) else "no such file or shipped recipe"
    raise RecipeError([f"{name[:200]}: {kind}; {hint}"])
