"""Turn a store's record into a point, or say what is wrong: the file may have been edited."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from steer_cli.recipe.bounds import LARGEST_MULTIPLE
from steer_cli.recipe.relative import Relative
from steer_cli.results import (
    AXES,
    ArmMeans,
    CameTo,
    Coordinates,
    Cost,
    Perplexity,
    PromptShift,
    SweepPoint,
)
from steer_cli.results.json_values import Record
from steer_cli.sweeps.plan import SweepPlan

# The numbers in each entry of a measure; a standard error may be null.
NUMBERS = {
    "perplexity": ("perplexity_unsteered", "perplexity_steered", "ratio", "sentences", "tokens"),
    "kl": ("kl", "entropy_unsteered", "entropy_steered"),
    "counts": ("unsteered", "steered", "difference"),
}
CAME_TO = ("addition", "layer", "relative", "coefficient")
COST = ("unsteered", "steered", "cost")


def coordinates_of(record: Record) -> Coordinates:
    """The grid point of a record.

    Raises:
        ValueError: an axis is missing or has an invalid value; the message says which.
    """
    for axis in AXES:
        if axis not in record:
            raise ValueError(f"{axis} is missing")
    layer, coefficient, position, dims = (record[axis] for axis in AXES)
    relative = isinstance(coefficient, dict) and list(coefficient) == ["relative"]
    strength = coefficient["relative"] if relative else coefficient
    pair = list(position.items()) if isinstance(position, dict) and len(position) == 1 else []
    fine = {
        "layer": isinstance(layer, int) and _is_number(layer),
        "coefficient": _is_number(strength) and (not relative or abs(strength) <= LARGEST_MULTIPLE),
        "position": isinstance(position, str) or (pair and isinstance(pair[0][1], int | str)),
        "dims": dims is None or _is_number(dims),
    }
    for axis in AXES:
        if not fine[axis]:
            raise ValueError(f"{axis} is {_short(record[axis])}")
    at_strength = Relative(relative=strength) if relative else strength
    return Coordinates(layer, at_strength, pair[0] if pair else position, dims)


def point_of(record: Record, plan: SweepPlan) -> SweepPoint:
    """The point of a record that has everything the plan measures.

    Raises:
        ValueError: the record is not a finished point of this sweep; the message says why.
    """
    head = (plan.recipe.name, plan.located.name, coordinates_of(record), plan.measures)
    found: dict[str, Any] = {}
    for measure in plan.measures:
        entries = _entries(record.get(measure), measure, plan)
        if measure == "perplexity":
            found[measure] = tuple(_value(Perplexity, entry) for entry in entries)
        elif measure == "kl":
            numbers = (*NUMBERS["kl"], *(("effect", "damage") if plan.wanted else ()))
            found[measure] = tuple(
                PromptShift(
                    entry["prompt"],
                    **{name: entry[name] for name in numbers},
                    coefficients=_came_to(entry.get("coefficients", [])),
                )
                for entry in entries
            )
        else:
            values = (_value(ArmMeans, entry) for entry in entries)
            found |= {measure: dict(zip(plan.recipe.count, values, strict=True)), "cost": _cost(record)}
    return SweepPoint(*head, **found)


def _entries(found: Any, measure: str, plan: SweepPlan) -> list[Record]:
    """The entries of one measure, checked to be in the plan's order and complete."""
    if found is None:
        raise ValueError(f"{measure} is missing")
    if not isinstance(found, dict if measure == "counts" else list):
        raise ValueError(f"{measure} is {_short(found)}")
    entries = list(found.values()) if isinstance(found, dict) else list(found)
    for entry in entries:
        if not isinstance(entry, dict):
            raise ValueError(f"{measure} holds {_short(entry)}")
    names: list[Any]
    expected: list[Any]
    if measure == "counts":
        names, expected = list(found), list(plan.recipe.count)
    elif measure == "kl":
        names, expected = [entry.get("prompt") for entry in entries], [prompt.text for prompt in plan.prompts]
    else:
        names = [(entry.get("corpus"), entry.get("label"), entry.get("method")) for entry in entries]
        expected = [(corpus.name, label, plan.method) for corpus in plan.corpora for label in corpus.labels]
    if names != expected:
        raise ValueError(f"{measure} is not of {_short(expected)}")
    wanted = ("effect", "damage") if measure == "kl" and plan.wanted else ()
    for entry in entries:
        _check_numbers(entry, (*NUMBERS[measure], *wanted))
    return entries


def _came_to(entries: Any) -> tuple[CameTo, ...]:
    """What relative coefficients came to on a prompt."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"coefficients is {_short(entries)}")
    for entry in entries:
        _check_numbers(entry, CAME_TO)
    return tuple(CameTo(**{name: entry[name] for name in CAME_TO}) for entry in entries)


def _cost(record: Record) -> Cost:
    found = record.get("logprob")
    if not isinstance(found, dict):
        raise ValueError(f"logprob is {_short(found)}")
    _check_numbers(found, COST)
    return _value(Cost, found)


def _check_numbers(entry: Record, wanted: Iterable[str]) -> None:
    for name in wanted:
        if not _is_number(entry.get(name)):
            raise ValueError(f"{name} is {_short(entry.get(name))}")
    for name, value in entry.items():
        if name.endswith("stderr") and value is not None and not _is_number(value):
            raise ValueError(f"{name} is {_short(value)}")


def _value(kind: type, entry: Record) -> Any:
    """A frozen value from the keys of the same names; a missing standard error is None."""
    known = [field.name for field in fields(kind)]
    errors = {name: None for name in known if name.endswith("stderr")}
    return kind(**errors | {name: entry[name] for name in known if name in entry})


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
