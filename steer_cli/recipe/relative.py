"""A coefficient that is relative to the length of the stream: {relative: 0.8}."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steer_cli.recipe import bounds
from steer_cli.recipe.part import Part


class Relative(Part):
    """The coefficient at which what is added has, on average, this multiple of the stream's length."""

    relative: Annotated[
        bounds.Multiple, Field(description="mean length of what is added, in mean lengths of the stream")
    ]


def strength_of(coefficient: float | Relative) -> float:
    """The number of a coefficient as it is written, whether or not it is relative to the stream."""
    return coefficient.relative if isinstance(coefficient, Relative) else coefficient


def written(coefficient: float | Relative | None) -> float | dict[str, float] | None:
    """A coefficient as a recipe has it, for records."""
    return coefficient.model_dump() if isinstance(coefficient, Relative) else coefficient
