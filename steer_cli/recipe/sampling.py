"""The `sampling` of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steer_cli.recipe import bounds
from steer_cli.recipe.part import Part


class Sampling(Part):
    """How tokens are drawn from the logits. The defaults are those of Turner et al. 2023."""

    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    samples: Annotated[int, Field(ge=1, le=1_000_000, description="completions per prompt and arm")] = 3
    temperature: Annotated[bounds.Temperature, Field(description="0 is greedy")] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, description="1 keeps all")] = 0.3
    top_k: Annotated[bounds.Choices | None, Field(description="null keeps all")] = None
    frequency_penalty: Annotated[
        bounds.Penalty, Field(description="subtracted from a token's logit for each earlier use of the token")
    ] = 1.0
    seed: bounds.Seed = 0
