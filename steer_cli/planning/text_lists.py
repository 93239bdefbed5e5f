"""Two lists of texts that are not paired, from a recipe or from files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from steer_cli.errors import PlanError, TextFileError
from steer_cli.planning.pairs import TokenRow, one_row
from steer_cli.planning.text_file import (
    column_fault,
    decode,
    has_half_a_character,
    is_table,
    read_bytes,
    table_rows,
)
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.bounds import LONGEST_TEXT
from steer_cli.recipe.named_files import located
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.sources import TextFile, Texts


@dataclass(frozen=True)
class NamedFile:
    """A file as a recipe names it, and the digest of its content."""

    name: str
    sha256: str


@dataclass(frozen=True)
class TextLists:
    """The texts of two lists as rows of tokens; the files are None for lists that the recipe holds."""

    plus: tuple[TokenRow, ...]
    minus: tuple[TokenRow, ...]
    plus_file: NamedFile | None = None
    minus_file: NamedFile | None = None

    @property
    def rows(self) -> tuple[TokenRow, ...]:
        return self.plus + self.minus


def read_lists(
    recipe: Recipe, texts: Texts, where: str
) -> dict[str, tuple[tuple[str, ...], NamedFile | None]]:
    """plus and minus -> the texts of the list, and the file that it came from.

    Args:
        where: the place of the addition, for errors.

    Raises:
        PlanError: a file cannot be read or holds no text.
    """
    return {
        side: _texts_of(recipe, getattr(texts, side), f"{where}.texts.{side}") for side in ("plus", "minus")
    }


def token_lists(
    recipe: Recipe, texts: Texts, tokenizer: Tokenizer, read: str | None, where: str
) -> TextLists:
    """The two lists as rows of tokens.

    Args:
        read: last or mean; None is last.

    Raises:
        PlanError: see `read_lists`.
    """
    found = read_lists(recipe, texts, where)
    plus, minus = (_rows(tokenizer, found[side][0], read or "last") for side in ("plus", "minus"))
    return TextLists(plus, minus, found["plus"][1], found["minus"][1])


# A sweep plans the same recipe at every point.
@lru_cache(maxsize=4)
def _rows(tokenizer: Tokenizer, texts: tuple[str, ...], read: str) -> tuple[TokenRow, ...]:
    return tuple(one_row(tokenizer, text, read, text) for text in texts)


def _texts_of(
    recipe: Recipe, side: tuple[str, ...] | str | TextFile, where: str
) -> tuple[tuple[str, ...], NamedFile | None]:
    if isinstance(side, tuple):
        return side, None
    source = TextFile(file=side) if isinstance(side, str) else side
    file = located(recipe, source.file)
    try:
        content = read_bytes(file)
        texts = tuple(_texts_in(file, decode(content, file), source.column))
    except TextFileError as error:
        raise PlanError(f"{where}: {error}") from None
    except (OSError, ValueError) as error:  # a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise PlanError(f"{where}: {file}: {reason}; give a file of texts, or a list of them") from None
    if not texts:
        raise PlanError(f"{where}: {file}: no text in it; write one per line")
    return texts, NamedFile(source.file, hashlib.sha256(content).hexdigest())


def _texts_in(file: Path, text: str, column: str | None) -> Iterator[str]:
    """The texts of a file, without blank ones."""
    if not is_table(file):
        if column is not None:
            raise TextFileError(f"{file}: `column` is for .csv and .jsonl files; remove it")
        # Only a line feed ends a line, as texts may contain Unicode's other separators.
        yield from filter(str.strip, (line.removesuffix("\r") for line in text.split("\n")))
        return
    for line, row in table_rows(file, text):
        if column is None:
            known = ", ".join(str(key) for key in row if key is not None)
            raise TextFileError(
                f"{file}: which column holds the texts? write {{file: {file.name}, column: NAME}}; "
                f"it has {known}"
            )
        if fault := column_fault(row, column):
            raise TextFileError(f"{file}:{line}: column {column}: {fault}")
        value = row[column]
        if not isinstance(value, str):
            raise TextFileError(f"{file}:{line}: {column}: {show(value)} is not text; quote it")
        if has_half_a_character(value):
            raise TextFileError(f"{file}:{line}: half a character (a lone surrogate); save the file as UTF-8")
        if len(value) > LONGEST_TEXT:
            raise TextFileError(f"{file}:{line}: more than {LONGEST_TEXT} characters; shorten it")
        if value.strip():
            yield value
