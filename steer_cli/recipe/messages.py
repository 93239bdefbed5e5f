"""Turn pydantic's errors into lines that name the place, the path, the value and a valid alternative."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from steer_cli.recipe import bounds
from steer_cli.recipe.quoting import Path, dotted, show
from steer_cli.recipe.yaml_source import Document

_ADDITION = "{plus: Love, minus: Hate, layer: 4, coefficient: 2}"
_TURN = "{role: user, content: Hello}"
_UP_TO = f"; blocks go up to {bounds.LARGEST_BLOCK}, shares from 0% to below 100%"
RIGHT = {
    "layer": 'a block such as 6, a list of blocks such as [6, 15], a share of the depth such as "25%", or all'
    + _UP_TO,
    "source_layer": 'a block such as 0, or a share of the depth such as "25%"' + _UP_TO,
    "operation": "add or ablate",
    "position": 'front, middle, back, every, {at: 3}, {token: " friend"} or {every: prompt|new|both|all}'
    f"; a position is at most {bounds.LARGEST_POSITION}",
    "every": "prompt, new, both or all",
    "at": "a position, 0 or more, such as 3",
    "coefficient": f"a finite number such as 5 or -0.5, up to {bounds.LARGEST_COEFFICIENT:g} in size, or a "
    "length relative to the stream such as {relative: 0.8}",
    "relative": f"a finite number such as 0.8 or -0.5, up to {bounds.LARGEST_MULTIPLE:g} in size",
    "frequency_penalty": f"a finite number such as 1.0, up to {bounds.LARGEST_PENALTY:g} in size",
    "temperature": f"a finite number, 0 or more, such as 1.0; at most {bounds.LARGEST_TEMPERATURE:g}",
    "top_p": "a number above 0 and up to 1, such as 0.3",
    "top_k": f"a whole number, 1 or more, or null; at most {bounds.LARGEST_VOCABULARY}",
    "dims": "a share of the width from 0 to 1, such as 0.7",
    "max_new_tokens": "a whole number from 1 to 1000000, such as 50",
    "samples": "a whole number from 1 to 1000000, such as 3",
    "seed": "a whole number, 0 or more, below 2^63",
    "combine": "mean, sum or pca",
    "read": "last or mean",
    "texts": "a mapping such as {plus: [I am glad, What joy], minus: sad.txt}",
    "vector": "a file such as love.safetensors or love.gguf, or {file: two.safetensors, addition: 1}",
    "from": "steer, repeng, llama.cpp or steering-lite",
    "addition": "a number of an addition in the file, such as 0",
    "overflow": "error or clip",
    "match_norm": "true or false",
    "additions": f"a list of at least one addition, such as [{_ADDITION}]",
    "pairs": "a list of pairs such as [{plus: Love, minus: Hate}]",
    "prompts": "a list of texts or chats",
    "chat": f"a list of at least one turn, such as [{_TURN}]",
    "content": "what is said, a text",
    "role": "who speaks, such as user",
    "random": "a mapping such as {seed: 0}",
    "sampling": "a mapping such as {samples: 3, seed: 0}",
    "count": "a mapping of labels to lists of words, such as {wedding: [wedding, bride]}",
}
_ALTERNATIVES = (("layer",), ("source_layer",), ("position",))
_TEXTS = (
    "plus",
    "minus",
    "prompt",
    "name",
    "description",
    "measured",
    "source",
    "model",
    "bos",
    "pad",
    "token",
    "role",
    "content",
    "continue",
    "file",
    "column",
)
_LIST_OR_FILE = "a list of texts, a file such as glad.txt, or {file: glad.csv, column: text}"
_OR_CHAT = ("plus", "minus", "prompt", "prompts")
SHOWN = 20  # faults shown, one line each; beyond this they are mostly one mistake repeated
LONGEST_QUOTED = 60  # characters; a longer value is not repeated in the remedy

Fault = dict[str, Any]  # in pydantic's form


@dataclass(frozen=True)
class Arguments:
    """Values that a program passed in order to make a part of a recipe."""

    part: str
    values: dict[str, Any]

    def place(self, path: Path) -> str:
        """The part that was to be made, and the path."""
        return f"{self.part}: {dotted(path)}" if path else self.part

    def written(self, path: Path) -> str | None:
        """Always None: a value of Python has no text of its own."""
        return None


Source = Document | Arguments


def describe(
    errors: list[Fault], written: Source, known_keys: Callable[..., list[str]]
) -> tuple[list[str], int]:
    """One line for each of the first SHOWN faulty values, in the order of the file's keys.

    `known_keys` returns the keys allowed in the mapping under some keys (none: the document or the part).

    Returns:
        The lines, and the number of further faulty values.
    """
    placed = [_placed(fault, written.values) for fault in errors]
    above = {path[:length] for path in {path for path, _, _ in placed} for length in range(len(path))}
    first: dict[tuple, tuple[Any, Fault]] = {}
    for path, value, fault in placed:
        # A list also fails when one of its entries does; the entry's error says more.
        if path in above and fault["type"] not in ("value_error", "missing"):
            continue
        first.setdefault(path, (value, fault))
    lines = [
        f"{written.place(path)}: {_message(path, *at_fault, written, known_keys)}"
        for path, at_fault in islice(first.items(), SHOWN)
    ]
    return lines, len(first) - len(lines)


def _message(
    path: tuple, value: Any, fault: Fault, written: Source, known_keys: Callable[..., list[str]]
) -> str:
    if fault["type"] == "extra_forbidden":
        return f"unknown key; {_nearest(path, known_keys)}"
    if fault["type"] == "missing" and path[-1] == fault["loc"][-1]:
        right = _LIST_OR_FILE if path[-2:-1] == ("texts",) else RIGHT.get(str(path[-1]), "it")
        return f"missing; write {right}"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"{show(value)} is not {_right(path, value, fault, written)}"


def _placed(fault: Fault, values: Any) -> tuple[tuple, Any, Fault]:
    """Path, value and fault; the path of what is missing is where it should stand."""
    path, value = _document_path(fault["loc"], values)
    if fault["type"] == "missing" and path[-1:] not in _ALTERNATIVES:
        path = (*path, fault["loc"][-1])
    return path, value, fault


def _document_path(loc: tuple, values: Any) -> tuple[tuple, Any]:
    """Drop the tags that unions add to pydantic's location, leaving a path in the document."""
    path: tuple = ()
    for step in loc:
        if (isinstance(values, dict) and step in values) or (
            isinstance(values, (list, tuple)) and isinstance(step, int) and step < len(values)
        ):
            path, values = (*path, step), values[step]
        # Pydantic reports an error for each form that one of these may take; one is enough.
        if path[-1:] in _ALTERNATIVES:
            break
    return path, values


def _right(path: tuple, value: Any, fault: Fault, written: Source) -> str:
    keys = [step for step in path if isinstance(step, str)]
    key = keys[-1] if keys else ""
    inside_list = bool(path) and isinstance(path[-1], int)
    if key == "chat" and inside_list:
        return f"a turn, such as {_TURN}"
    if not path or (key in ("additions", "pairs") and inside_list):
        example = _ADDITION if key == "additions" else "{plus: Love, minus: Hate}"
        return f"a mapping of keys, such as {example if path else 'prompt: ... and additions: [...]'}"
    if keys[-2:-1] == ["texts"] and not inside_list:
        return _LIST_OR_FILE
    if "count" in keys[:-1] and not inside_list:
        return "a list of words such as [wedding, bride]"
    if key in _TEXTS or (key == "prompts" and inside_list) or "count" in keys[:-1]:
        return _right_text(path, value, fault, written)
    return RIGHT.get(key, "a valid value")


def _right_text(path: tuple, value: Any, fault: Fault, written: Source) -> str:
    if isinstance(value, str):
        longest = fault.get("ctx", {}).get("max_length")
        ways = {
            "string_too_short": "a text of at least one character",
            "string_too_long": f"a text of up to {longest} characters",
            "string_pattern_mismatch": "a name or a path: it contains the character #x0000",
        }
        return ways.get(fault["type"], "UTF-8 text")
    if isinstance(value, (bool, int, float)):
        text = written.written(path) or ""
        return f'text; quote it: "{text}"' if 0 < len(text) <= LONGEST_QUOTED else "text; quote it"
    keys = [step for step in path if isinstance(step, str)]
    return f"text, or a chat such as {{chat: [{_TURN}]}}" if keys[-1] in _OR_CHAT else "text"


def _nearest(path: tuple, known_keys: Callable[..., list[str]]) -> str:
    known = known_keys(*(step for step in path[:-1] if isinstance(step, str)))
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
