"""A question -> a record for every point of its grid: what the store has, and what is missing.

This module does not know the terminal: progress and notes are handed in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from steer_cli.api import Hardware, load_model
from steer_cli.errors import VectorError
from steer_cli.events import Note, Progress, silent
from steer_cli.sweep.finished import check_of
from steer_cli.sweep.finished import key as key_of
from steer_cli.sweep.grid import COUNTED_TOGETHER, TOGETHER, Point
from steer_cli.sweep.question import Question
from steer_cli.sweep.store import Store

Record = dict[str, Any]


def sweep(
    question: Question,
    hardware: Hardware,
    store: Path | None = None,
    progress: Progress = silent,
    note: Note = silent,
) -> Iterator[Record]:
    """The points in the order of the grid; those that the store has are not computed again.

    Raises:
        SweepError: the store belongs to another sweep.
        SteerError: a point cannot be run.
    """
    keys = _keys(question)
    opened = Store(store, _subject(question, hardware), check_of(question)) if store else nullcontext()
    with opened as held:
        stored = {key_of(record): record for record in (held.records if held else ())}
        there = sum(key in stored for key in keys)
        if there:
            note(f"{store}: {there} of {len(keys)} points are there already")
        fresh = _missing(question, hardware, set(stored), progress, note)
        for done, key in enumerate(keys):
            progress("sweep", done, len(keys))
            while key not in stored:
                group = next(fresh)
                if held:
                    held.append(group)
                stored |= {key_of(record): record for record in group}
            yield stored[key]
        progress("sweep", len(keys), len(keys))


def _subject(question: Question, hardware: Hardware) -> dict[str, Any]:
    from steer_cli.models.load import resolved

    return question.subject(*resolved(question.located.folder, **vars(hardware)))


def kept(question: Question, store: Path) -> int:
    """How many points of the grid are in the file of a sweep that has ended early."""
    with suppress(OSError):
        lines = store.read_bytes().split(b"\n")[1:-1]
        return len({key_of(json.loads(line)) for line in lines} & {*_keys(question)})
    return 0


def _keys(question: Question) -> list[str]:
    return [json.dumps(question.coordinates(point)) for point in question.grid]


def _missing(
    question: Question, hardware: Hardware, finished: set[str], progress: Progress, note: Note
) -> Iterator[list[Record]]:
    """Records of the points that are not finished, a group at a time; the model is loaded for the first."""
    from steer_cli.sweep.runner import Runner

    runner = Runner(load_model(question.located, hardware, progress), question, note)
    head = {"recipe": question.recipe.name, "model": question.located.name}
    together = COUNTED_TOGETHER if "counts" in question.measures else TOGETHER
    for group in question.grid.groups(together):
        places = [question.coordinates(point) for point in group]
        wanted = [json.dumps(place) not in finished for place in places]
        if any(wanted):
            # A group is computed whole: a figure's last bits depend on its batch, and so are the same however
            # often a sweep was interrupted.
            try:
                figures = zip(places, runner.figures(group), strict=True)
            except VectorError as error:
                raise VectorError(f"{_named(group)}: {error}") from None
            records = [head | place | figure for place, figure in figures]
            yield [record for record, new in zip(records, wanted, strict=True) if new]


def _named(group: Sequence[Point]) -> str:
    """Where in the grid a group is, in the words of the options."""
    coefficients = sorted({point.coefficient for point in group if point.coefficient is not None})
    among = f", coefficients {', '.join(f'{value:g}' for value in coefficients)}" if coefficients else ""
    return f"layer {group[0].layer}{among}"
