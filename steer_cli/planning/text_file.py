"""Read files of text: UTF-8 up to a size limit, and the rows of .csv and .jsonl files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steer_cli.errors import SteerError, TextFileError
from steer_cli.recipe.quoting import show

MOST_BYTES = 256_000_000
TABLES = (".csv", ".jsonl")


def read_bytes(file: Path, fault: type[SteerError] = TextFileError) -> bytes:
    """The content of a file.

    Args:
        fault: the class of the errors.

    Raises:
        OSError: the file cannot be read.
        SteerError: it is too large.
    """
    with open(file, "rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:  # a device, for example, has no end
        raise fault(f"{file}: more than {MOST_BYTES} bytes; give part of it")
    return content


def decode(content: bytes, file: Path, fault: type[SteerError] = TextFileError) -> str:
    """The content as text.

    Raises:
        SteerError: it is not UTF-8 text; the message names the line.
    """
    if b"\0" in content:
        raise fault(f"{file}: not a text file (it contains NUL bytes); give UTF-8 text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise fault(f"{file}:{line}: not UTF-8 text; save the file as UTF-8") from None


def is_table(file: Path) -> bool:
    """Whether the file has columns."""
    return file.suffix.lower() in TABLES


def table_rows(
    file: Path, text: str, fault: type[SteerError] = TextFileError
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .csv or .jsonl file, each with the number of its line.

    Raises:
        SteerError: a row cannot be read; the message names the line.
    """
    yield from (_csv if file.suffix.lower() == ".csv" else _jsonl)(file, text, fault)


def _csv(file: Path, text: str, fault: type[SteerError]) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise fault(f"{file}:{reader.line_num}: not readable as CSV: {error}") from None


def _jsonl(file: Path, text: str, fault: type[SteerError]) -> Iterator[tuple[int, dict]]:
    for line_number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise fault(f"{file}:{line_number}: not readable as JSON: {error}") from None
        if not isinstance(row, dict):
            raise fault(f"{file}:{line_number}: {show(row)} is not an object; write one per line")
        yield line_number, row


def column_fault(row: dict[str, Any], column: str) -> str | None:
    """Why a row has no value in a column; None where it has one."""
    if row.get(column) is not None:
        return None
    known = ", ".join(str(key) for key in row if key is not None)
    return "no value in this row" if column in row else f"no such column; it has {known}"


def has_half_a_character(text: str) -> bool:
    """Whether a text has a lone surrogate, which JSON may spell and UTF-8 cannot."""
    return any("\ud800" <= character <= "\udfff" for character in text)
