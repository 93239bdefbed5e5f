"""Read text files as sentences: plain text, .jsonl and .csv."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

from steer_cli.errors import CorpusError
from steer_cli.planning.text_file import (
    column_fault,
    decode,
    has_half_a_character,
    is_table,
    read_bytes,
    table_rows,
)
from steer_cli.recipe.quoting import show

# How sentences end, in English and other languages, before any closing quotes and brackets.
ENDS = tuple(".!?…。！？؟।")
CLOSING = "\"'”’»)]*_"


@dataclass(frozen=True)
class Sentence:
    """A text measured on its own; `place` is FILE:LINE, for errors."""

    text: str
    label: str | None
    place: str


@dataclass(frozen=True)
class Corpus:
    """Sentences under a name, and the SHA-256 of their content.

    `split` says how many lines or rows became how many sentences; it is empty if nothing was split.
    """

    name: str
    sentences: tuple[Sentence, ...]
    sha256: str
    split: str = ""

    @classmethod
    def of(cls, name: str, sentences: Iterable[Sentence], split: str = "") -> Corpus:
        """The corpus of these sentences."""
        kept = tuple(sentences)
        written = json.dumps([[sentence.text, sentence.label] for sentence in kept])
        return cls(name, kept, hashlib.sha256(written.encode()).hexdigest(), split)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The labels, in order of first occurrence."""
        return tuple(dict.fromkeys(sentence.label for sentence in self.sentences))


@dataclass(frozen=True)
class Columns:
    """Where a .csv or .jsonl file holds its texts; `groups` maps a value of the label column to a label."""

    text: str | None = None
    label: str | None = None
    groups: Mapping[str, str] | None = None


def parse_groups(options: Sequence[str]) -> dict[str, str] | None:
    """`negative=1,2` -> {"1": "negative", "2": "negative"}; None if there are no groups.

    Raises:
        CorpusError: there is no `=`, or a value is in two groups.
    """
    groups: dict[str, str] = {}
    for option in options:
        label, equals, values = option.partition("=")
        wanted = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not label or not wanted:
            raise CorpusError(f"group {option}: write LABEL=VALUE,VALUE such as negative=1,2", "group")
        for value in wanted:
            if groups.setdefault(value, label) != label:
                raise CorpusError(f"group {option}: {value} is already in the group {groups[value]}", "group")
    return groups or None


def read_corpus(
    option: str, lines: bool = False, columns: Columns | None = None, parameter: str = "corpus"
) -> Corpus:
    """Read a corpus given as `NAME=FILE`, or as FILE, whose stem is then the name.

    Texts are split into sentences. A line break also ends one, unless the text is wrapped; see `is_wrapped`.

    Args:
        lines: do not split; each line (in a table, each cell) is one sentence.
        parameter: what errors call the option.

    Raises:
        CorpusError: the file cannot be read, is not text, lacks a column or contains no sentence.
    """
    columns = columns or Columns()
    name, equals, path = option.partition("=")
    file = Path(path if equals else option)
    name = name if equals else file.stem
    if not name or not (path if equals else option):
        raise CorpusError(f"{parameter} {option}: write NAME=FILE", parameter)
    text = _decode(file, parameter)
    table = is_table(file)
    if not table and (columns.text or columns.label):
        raise CorpusError(f"{file}: `column` and `label` are for .csv and .jsonl files; remove them")
    entries = list(_table(file, text, columns) if table else _lines(file, text))
    texts = map(_cell_lines, entries) if table else [entries]
    parts = entries if lines else _joined([paragraph for text in texts for paragraph in _paragraphs(text)])
    sentences = tuple(sentence for part in parts for sentence in _split(part, lines))
    if not sentences:
        raise CorpusError(f"{file}: no sentence in it; write some text")
    filled = sum(bool(entry.text.strip()) for entry in entries)
    split = "" if lines else _became(file, filled, "row" if table else "line", len(sentences))
    return Corpus.of(name, sentences, split)


def _decode(file: Path, parameter: str) -> str:
    try:
        return decode(read_bytes(file, CorpusError), file, CorpusError)
    except OSError as error:
        raise CorpusError(f"{parameter} {file}: {error.strerror or error}", parameter) from None


def _became(file: Path, entries: int, name: str, sentences: int) -> str:
    """How many lines or rows became how many sentences, and how to change that."""
    counted = [f"{n} {of}{'' if n == 1 else 's'}" for n, of in ((entries, name), (sentences, "sentence"))]
    otherwise = "" if entries == sentences else f"; with `lines`, each {name} is one sentence"
    return f"{file}: {' became '.join(counted)}{otherwise}"


def _lines(file: Path, text: str) -> Iterator[Sentence]:
    """All lines, including empty ones."""
    for line_number, line in enumerate(text.split("\n"), 1):
        yield Sentence(line.strip(), None, f"{file}:{line_number}")


def _cell_lines(cell: Sentence) -> list[Sentence]:
    return [replace(cell, text=line.strip()) for line in cell.text.split("\n")]


def _paragraphs(lines: Iterable[Sentence]) -> list[list[Sentence]]:
    """Runs of lines between empty ones."""
    return [list(run) for filled, run in groupby(lines, lambda line: bool(line.text)) if filled]


def is_wrapped(paragraphs: Iterable[Sequence[str]]) -> bool:
    """Whether line breaks are layout: at least half of them fall inside a sentence.

    A break is inside a sentence if the line before it lacks a full stop and the line after it does not begin
    with a capital, in a paragraph that begins with a capital and ends with a full stop (unlike a list in
    lower case or without full stops). In wrapped prose, nine of ten breaks are; the others fall between
    sentences or before a name.
    """
    breaks = within = 0
    for lines in paragraphs:
        breaks += len(lines) - 1
        if not lines[0][0].islower() and _ends_sentence(lines[-1]):
            within += sum(
                not _ends_sentence(line) and following[0].isalpha() and not following[0].isupper()
                for line, following in pairwise(lines)
            )
    return 2 * within >= breaks > 0


def _ends_sentence(line: str) -> bool:
    return line.rstrip(CLOSING).endswith(ENDS)


def _joined(paragraphs: list[list[Sentence]]) -> Iterator[Sentence]:
    """Paragraphs as one text each if the text is wrapped, otherwise its lines."""
    wrapped = is_wrapped([line.text for line in paragraph] for paragraph in paragraphs)
    for paragraph in paragraphs:
        if wrapped:
            yield replace(paragraph[0], text=" ".join(line.text for line in paragraph))
        else:
            yield from paragraph


def _table(file: Path, text: str, columns: Columns) -> Iterator[Sentence]:
    if columns.text is None:
        raise CorpusError(f"{file}: which column contains the text? add `column=NAME`")
    for line_number, row in table_rows(file, text, CorpusError):
        place = f"{file}:{line_number}"
        for option, column in (("column", columns.text), ("label", columns.label)):
            fault = None if column is None else column_fault(row, column)
            if fault is not None:
                raise CorpusError(f"{place}: `{option}={column}`: {fault}")
        if not isinstance(row[columns.text], str):
            raise CorpusError(f"{place}: {columns.text}: {show(row[columns.text])} is not text; quote it")
        label = None if columns.label is None else str(row[columns.label]).strip()
        if label is not None and columns.groups is not None:
            if label not in columns.groups:
                raise CorpusError(f"{place}: {columns.label} {show(label)} is in no `group`; add it to one")
            label = columns.groups[label]
        yield Sentence(row[columns.text], label, place)


def _split(entry: Sentence, whole: bool) -> Iterator[Sentence]:
    if has_half_a_character(entry.text):
        raise CorpusError(f"{entry.place}: half a character (a lone surrogate); save the file as UTF-8")
    if whole:
        texts = [entry.text.strip()]
    else:
        # Imported here because whole lines do not need it.
        from sentencex import segment

        # A line break inside a sentence is layout, but would become a token.
        texts = [" ".join(text.split()) for text in segment("en", entry.text)]
    return (Sentence(text, entry.label, entry.place) for text in texts if text)
