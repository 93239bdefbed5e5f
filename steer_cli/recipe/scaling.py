"""A recipe that acts more or less strongly."""

from __future__ import annotations

from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Addition, Recipe


def scaled(addition: Addition, multiplier: float) -> Addition:
    """The addition with its coefficient multiplied, relative to the stream or not."""
    coefficient, strength = addition.coefficient, addition.strength * multiplier
    if isinstance(coefficient, Relative):
        return addition.model_copy(
            update={"coefficient": coefficient.model_copy(update={"relative": strength})}
        )
    return addition.model_copy(update={"coefficient": strength})


def scaled_recipe(recipe: Recipe, multiplier: float) -> Recipe:
    """The recipe with all coefficients multiplied."""
    additions = tuple(scaled(addition, multiplier) for addition in recipe.additions)
    return recipe.model_copy(update={"additions": additions})
