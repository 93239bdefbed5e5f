"""A record as one line of JSON."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from steer_cli.report.printable import CONTROLS


def line(record: dict[str, Any]) -> str:
    """A record as one line of UTF-8 JSON, with every invisible character escaped."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    # JSON requires this only of the first 32, but terminals and line readers act on others too.
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in CONTROLS:
        return character
    return json.dumps(character)[1:-1]
