"""Read evidence from files: sentences as `steer perplexity` reads them, and choices from .jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steer_cli.errors import CorpusError, RecipeError
from steer_cli.events import Note, silent
from steer_cli.measure.corpus import Columns, Corpus, read_corpus
from steer_cli.measure.evidence import Choice, Choices
from steer_cli.planning.text_file import column_fault, decode, has_half_a_character, read_bytes, table_rows
from steer_cli.recipe.chat import Chat, checked_prompt
from steer_cli.recipe.quoting import show

KEYS = ("prompt", "matching", "not_matching")


def read_set(
    name: str, file: str | None, lines: bool = False, column: str | None = None, note: Note = silent
) -> Corpus | None:
    """The sentences of a file under the name of their set; None of None.

    Args:
        lines: do not split; each line is one sentence.
        column: where a .csv or .jsonl file holds its texts.
        note: told how lines were split.

    Raises:
        CorpusError: see `read_corpus`.
    """
    if file is None:
        return None
    corpus = read_corpus(f"{name}={file}", lines, Columns(column), name)
    if ";" in corpus.split:  # lines and sentences differ in number
        note(corpus.split)
    return corpus


def read_choices(file: str | Path) -> Choices:
    """The items of a .jsonl file with `prompt` (a text, or a chat), `matching` and `not_matching`.

    Raises:
        CorpusError: it cannot be read, or a row is not an item.
    """
    path = Path(file)
    if path.suffix.lower() != ".jsonl":
        raise CorpusError(f"choices {file}: not a .jsonl file; write one object per line", "choices")
    try:
        text = decode(read_bytes(path, CorpusError), path, CorpusError)
    except OSError as error:
        raise CorpusError(f"choices {file}: {error.strerror or error}", "choices") from None
    items = [_item(row, f"{file}:{number}") for number, row in table_rows(path, text, CorpusError)]
    if not items:
        raise CorpusError(f"choices {file}: no item in it; write one object per line", "choices")
    return Choices.of(items)


def _item(row: dict[str, Any], place: str) -> Choice:
    for key in KEYS:
        fault = column_fault(row, key)
        if fault is not None:
            raise CorpusError(f"{place}: {key}: {fault}; an item has {', '.join(KEYS)}")
    prompt, matching, not_matching = (row[key] for key in KEYS)
    for key, answer in zip(KEYS[1:], (matching, not_matching), strict=True):
        if not isinstance(answer, str) or not answer:
            raise CorpusError(f"{place}: {key}: {show(answer)} is not an answer; write a text in quotes")
        if has_half_a_character(answer):
            raise CorpusError(f"{place}: {key}: half a character (a lone surrogate); save it as UTF-8")
    if matching == not_matching:
        raise CorpusError(f"{place}: both answers are {show(matching)}; they have to differ")
    return Choice(_prompt(prompt, place), matching, not_matching, place)


def _prompt(prompt: Any, place: str) -> str | Chat:
    if isinstance(prompt, list):  # the turns of a chat
        prompt = {"chat": prompt}
    try:
        return checked_prompt(prompt)
    except RecipeError as error:
        raise CorpusError(f"{place}: {error}") from None
