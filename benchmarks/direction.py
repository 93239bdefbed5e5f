"""Print the recipe's vector at its last position, times the coefficient, for peers without positions."""

import json
import sys
from pathlib import Path

from steer_cli.api.questions import load_model, load_recipe, vectors

recipe = load_recipe(str(Path(__file__).parent / "recipe.yaml"), {"model": sys.argv[1]})
[vector] = vectors(load_model(recipe.model, "float32", "cpu"), recipe)
print(json.dumps((recipe.additions[0].coefficient * vector[-1]).tolist()))
