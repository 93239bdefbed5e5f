"""Findings -> records, one JSON object a line, each complete by itself.

This module does not know files or terminals.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from steer_cli.report.jsonl import finite
from steer_cli.results import Norms, Perplexity, SentenceChange, Shift, perplexity_fields


def shift_record(shift: Shift) -> dict[str, Any]:
    """The next-token distributions of one prompt; effect and damage where words were wanted."""
    record = asdict(shift)
    del record["pieces"]
    if shift.effect is None:
        del record["effect"], record["damage"]
    return record


def perplexity_record(recipe: str, model: str, figure: Perplexity) -> dict[str, Any]:
    """One corpus and label."""
    return {"recipe": recipe, "model": model} | perplexity_fields(figure)


def sentence_record(recipe: str, model: str, sentence: SentenceChange) -> dict[str, Any]:
    """One sentence of the heat map; a change is null where a prediction was left out."""
    return {"recipe": recipe, "model": model} | asdict(sentence)


def norms_record(norms: Norms) -> dict[str, Any]:
    """One addition at one layer of one prompt."""
    return asdict(norms) | {key: finite(getattr(norms, key)) for key in ("vector", "stream", "ratio")}
