"""Positions of an addition that have a value: {at: 3}, {token: " friend"} and {every: new}."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steer_cli.recipe import bounds
from steer_cli.recipe.part import Part
from steer_cli.recipe.position_words import Way


class At(Part):
    """Start at this position of the prompt; 0 is BOS."""

    at: Annotated[bounds.Position, Field(description="first position; 0 is BOS")]


class AtToken(Part):
    """Start where these tokens first occur in the prompt."""

    token: Annotated[bounds.Text, Field(min_length=1, description='a text of the prompt, such as " friend"')]


class Every(Part):
    """Act at every position of the prompt but BOS, at every new token, at both, or at all and BOS too."""

    every: Annotated[Way, Field(description="both is what the word every means")]
