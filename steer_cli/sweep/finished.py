"""Is a stored record a finished point? Somebody may have edited the file by hand.

This module does not know files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from steer_cli.sweep.question import Question

AXES = ("layer", "coefficient", "position", "dims")
NUMBERS = {  # that each entry of a measure holds; a standard error may be null
    "perplexity": ("perplexity_unsteered", "perplexity_steered", "ratio", "sentences", "tokens"),
    "kl": ("kl", "entropy_unsteered", "entropy_steered"),
    "counts": ("unsteered", "steered", "difference"),
}
COST = ("unsteered", "steered", "cost")  # of a record with counts, under `logprob`


def key(record: dict[str, Any]) -> str:
    """The point that a record belongs to."""
    return json.dumps({axis: record.get(axis) for axis in AXES})


def check_of(question: Question) -> Callable[[dict[str, Any]], str | None]:
    """A function that takes the records of a store in turn, and says what is wrong with one or None."""
    seen: set[str] = set()

    def fault(record: dict[str, Any]) -> str | None:
        if key(record) in seen:
            return "the point of a line above again"
        seen.add(key(record))
        return next(_faults(record, question), None)

    return fault


def _faults(record: dict[str, Any], question: Question) -> Iterator[str]:
    yield from (f"{axis} is missing" for axis in AXES if axis not in record)
    names = {
        "perplexity": [(corpus.name, label) for corpus in question.corpora for label in corpus.labels],
        "kl": [text for text, _ in question.prompts],
        "counts": list(question.recipe.count),
    }
    for measure in question.measures:
        found = record.get(measure)
        if found is None:
            yield f"{measure} is missing"
        elif not isinstance(found, dict if measure == "counts" else list):
            yield f"{measure} is {_short(found)}"
        else:
            entries = list(found.values()) if measure == "counts" else found
            if not all(isinstance(entry, dict) for entry in entries):
                yield f"{measure} holds {_short(next(e for e in entries if not isinstance(e, dict)))}"
            elif _names(measure, found) != names[measure]:
                yield f"{measure} is not of {_short(names[measure])}"
            else:
                yield from _missing_numbers(measure, entries, question)
    if "counts" in question.measures:
        cost = record.get("logprob")
        if not isinstance(cost, dict):
            yield f"logprob is {_short(cost)}"
        else:
            yield from _not_numbers(cost, COST)


def _names(measure: str, found: Any) -> list[Any]:
    if measure == "counts":
        return list(found)
    if measure == "kl":
        return [entry.get("prompt") for entry in found]
    return [(entry.get("corpus"), entry.get("label")) for entry in found]


def _missing_numbers(measure: str, entries: list[dict[str, Any]], question: Question) -> Iterator[str]:
    wanted = (*NUMBERS[measure], *(("effect", "damage") if measure == "kl" and question.wanted else ()))
    for entry in entries:
        yield from _not_numbers(entry, wanted)


def _not_numbers(entry: dict[str, Any], wanted: Iterable[str]) -> Iterator[str]:
    yield from (f"{name} is {_short(entry.get(name))}" for name in wanted if not _number(entry.get(name)))
    for name, value in entry.items():
        if name.endswith("stderr") and value is not None and not _number(value):
            yield f"{name} is {_short(value)}"


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
