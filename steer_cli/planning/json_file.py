"""Read the JSON and text files of a model's folder, up to a size limit."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 16_000_000  # for a configuration file; the largest known have a few million


def read_object(file: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The object in a JSON file, or an empty one if there is no such file.

    Raises:
        ValueError: not a regular file, too large, or not a JSON object; the message says which.
    """
    if not os.path.lexists(file):
        return {}
    text = read_text(file, most_bytes)
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("not readable as JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError("not readable as JSON: not an object")
    return content


def read_text(file: Path, most_bytes: int) -> str:
    """The text of a file.

    Raises:
        ValueError: not a regular file, too large, or not UTF-8; the message says which.
    """
    try:
        # Checked before it is opened: reading a pipe or a device might never end.
        found = os.stat(file)
        return file.read_text(encoding="utf-8") if _may_be_read(found, most_bytes) else ""
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The text model's part of a configuration; multimodal models have several parts."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _may_be_read(found: os.stat_result, most_bytes: int) -> bool:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    if found.st_size > most_bytes:
        raise ValueError(f"{found.st_size} bytes; such a file has at most {most_bytes}")
    return True
