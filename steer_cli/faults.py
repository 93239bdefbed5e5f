"""What pydantic found wrong with a recipe -> lines that name place, path, value and what would be right.

This module reads no file and knows the format only by the examples it gives.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from steer_cli.document import Document, dotted, show

_ADDITION = "{plus: Love, minus: Hate, layer: 4, coefficient: 2}"
RIGHT = {
    "layer": 'a block such as 6, a list of blocks such as [6, 15], or a share of the depth such as "25%"',
    "source_layer": 'a block such as 0, or a share of the depth such as "25%"',
    "position": 'front, middle, back, every, {at: 3} or {token: " friend"}',
    "at": "a position, 0 or more, such as 3",
    "coefficient": "a finite number such as 5 or -0.5",
    "frequency_penalty": "a finite number such as 1.0",
    "temperature": "a finite number, 0 or more, such as 1.0",
    "top_p": "a number above 0 and up to 1, such as 0.3",
    "top_k": "a whole number, 1 or more, or null",
    "dims": "a share of the width from 0 to 1, such as 0.7",
    "max_new_tokens": "a whole number from 1 to 1000000, such as 50",
    "samples": "a whole number from 1 to 1000000, such as 3",
    "seed": "a whole number, 0 or more, below 2^63",
    "combine": "mean or sum",
    "overflow": "error or clip",
    "match_norm": "true or false",
    "additions": f"a list with one addition or more, such as [{_ADDITION}]",
    "pairs": "a list of pairs such as [{plus: Love, minus: Hate}]",
    "prompts": "a list of texts",
    "random": "a mapping such as {seed: 0}",
    "sampling": "a mapping such as {samples: 3, seed: 0}",
    "count": "a mapping of labels to lists of words, such as {wedding: [wedding, bride]}",
}
_ALTERNATIVES = (("layer",), ("source_layer",), ("position",))
_TEXTS = ("plus", "minus", "prompt", "name", "description", "source", "model", "bos", "pad", "token")


def describe(
    errors: list[dict[str, Any]], written: Document, known_keys: Callable[[str], list[str]]
) -> list[str]:
    """Pydantic's errors -> one line for each faulty value, in the order of the file's keys.

    `known_keys` gives the keys allowed in the mapping that stands under a key ("" is the document).
    """
    lines: dict[tuple, str] = {}
    faults = [(*_document_path(fault["loc"], written.values), fault) for fault in errors]
    for path, value, fault in faults:
        # A list also fails when one of its entries does; the entry says more.
        if (
            any(other[: len(path)] == path != other for other, _, _ in faults)
            and fault["type"] != "value_error"
        ):
            continue
        where = dotted(path) or "the document"
        if fault["type"] == "extra_forbidden":
            said = f"unknown key; {_nearest(path, known_keys)}"
        elif fault["type"] == "missing" and path[-1:] not in _ALTERNATIVES:
            path = (*path, fault["loc"][-1])
            where = dotted(path)
            said = f"missing; write {RIGHT.get(str(path[-1]), 'it')}"
        elif fault["type"] == "value_error":
            said = str(fault["ctx"]["error"])
        else:
            said = f"{show(value)} is not {_right(path, value, written)}"
        lines.setdefault(path, f"{written.place(path)}: {where}: {said}")
    return list(lines.values())


def _document_path(loc: tuple, values: Any) -> tuple[tuple, Any]:
    """The part of pydantic's location that is a path in the document (unions add tags of their own)."""
    path: tuple = ()
    for step in loc:
        if (isinstance(values, dict) and step in values) or (
            isinstance(values, list) and isinstance(step, int) and step < len(values)
        ):
            path, values = (*path, step), values[step]
        # The ways to write one of these are tried in turn and all fail: one error is enough.
        if path[-1:] in _ALTERNATIVES:
            break
    return path, values


def _right(path: tuple, value: Any, written: Document) -> str:
    keys = [step for step in path if isinstance(step, str)]
    key = keys[-1] if keys else ""
    inside_list = bool(path) and isinstance(path[-1], int)
    if not path or (key in ("additions", "pairs") and inside_list):
        example = _ADDITION if key == "additions" else "{plus: Love, minus: Hate}"
        return f"a mapping of keys, such as {example if path else 'prompt: ... and additions: [...]'}"
    if "count" in keys[:-1] and not inside_list:
        return "a list of words such as [wedding, bride]"
    if key in _TEXTS or (key == "prompts" and inside_list) or "count" in keys[:-1]:
        if isinstance(value, str):
            return "a text of one character or more" if value.isprintable() else "UTF-8 text"
        if isinstance(value, (bool, int, float)):
            return f'text; quote it: "{written.written(path)}"'
        return "text"
    return RIGHT.get(key, "a value of the format")


def _nearest(path: tuple, known_keys: Callable[[str], list[str]]) -> str:
    parent = next((step for step in reversed(path[:-1]) if isinstance(step, str)), "")
    known = known_keys(parent)
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
