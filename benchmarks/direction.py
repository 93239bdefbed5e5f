"""Print the recipe's vector at its last position, coefficient included: what peers without positions add."""

import json
import sys
from pathlib import Path

from steer_cli import api
from steer_cli.activations.vectors import compute
from steer_cli.models.load import load
from steer_cli.recipe.load import load as load_recipe
from steer_cli.recipe.schema import Override

recipe = load_recipe(str(Path(__file__).parent / "recipe.yaml"), [Override("model", ("model",), sys.argv[1])])
planned = api.plan(recipe, weights=True)
[placement] = planned.prompts[0].placements
network = load(planned.located.folder, planned.located.name, "float32", "cpu")
[vector] = compute(network, [placement.alignment])
print(json.dumps((placement.alignment.addition.coefficient * vector[-1]).tolist()))
