"""Outcomes -> records, one JSON object a line, each complete by itself.

This module does not know files or terminals.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from steer_cli.planning.alignment_table import TableRow
from steer_cli.recipe.schema import Recipe
from steer_cli.report.plain import STEERING
from steer_cli.results import Completion, Outcome, Receipt, Sum


def line(record: dict[str, Any]) -> str:
    """A record as one line of UTF-8 JSON, in which every character that is not one to see is escaped."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    # JSON asks only for the first 32 to be escaped; terminals and readers of lines also obey others.
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) not in STEERING:
        return character
    return json.dumps(character)[1:-1]


def generation_records(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """A record for each sample of a prompt."""
    recipe = outcome.recipe
    for sample, arms in enumerate(zip(outcome.unsteered, outcome.steered, strict=True)):
        yield {
            "recipe": recipe.name,
            "recipe_sha256": recipe.sha256,
            "model": outcome.model,
            "prompt": outcome.prompt,
            "sample": sample,
            "seed": recipe.sampling.seed,
            "unsteered": _completion(arms[0]),
            "steered": _completion(arms[1]),
            **({"control": _control(outcome, sample)} if outcome.control_kind else {}),
            "additions": [_addition(receipt) for receipt in outcome.receipts],
            "sums": [_sum(each) for each in outcome.sums],
        }


def _control(outcome: Outcome, sample: int) -> dict[str, Any]:
    return {"kind": outcome.control_kind} | _completion(outcome.control[sample])


def _completion(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": list(completion.tokens),
        "finish": completion.finish,
        "mean_logprob": completion.mean_logprob,
        "counts": completion.counts,
    }


def _addition(receipt: Receipt) -> dict[str, Any]:
    placement = receipt.placement
    position = placement.alignment.addition.position
    return {
        "layer": placement.alignment.layer,
        "coefficient": placement.alignment.addition.coefficient,
        "position": position.model_dump() if isinstance(position, BaseModel) else position,
        "span": [placement.start, placement.end],
        **_figures(receipt),
    }


def _sum(met: Sum) -> dict[str, Any]:
    return {"layer": met.layer, "span": [met.start, met.end], **_figures(met)}


def _figures(met: Receipt | Sum) -> dict[str, list[float | None]]:
    return {
        "ratio": finite(round(value, 6) for value in met.ratio),
        "cosine": finite(round(value, 6) for value in met.cosine),
    }


def finite(values: Iterable[float]) -> list[float | None]:
    """JSON has no infinity: a ratio to a stream of zeros is null."""
    return [value if math.isfinite(value) else None for value in values]


def table_record(recipe: Recipe, model: str, prompt: str, rows: Iterable[TableRow]) -> dict[str, Any]:
    """The alignment table of one prompt."""
    return {
        "recipe": recipe.name,
        "model": model,
        "prompt": prompt,
        "rows": [
            {
                "layer": row.layer,
                "coefficient": row.coefficient,
                "role": row.role,
                "start": row.start,
                "tokens": list(row.tokens),
                "ids": list(row.ids),
                "padding": row.padding,
                "read": row.read,
            }
            for row in rows
        ],
    }
