"""repeng reads a control vector: a JSON job with its file on standard input, its directions on output."""

import importlib.metadata
import json
import sys

from repeng import ControlVector

vector = ControlVector.import_gguf(json.load(sys.stdin)["vector"])
directions = {str(block): [float(value) for value in row] for block, row in vector.directions.items()}
version = importlib.metadata.version("repeng")
print(json.dumps({"version": version, "model_type": vector.model_type, "directions": directions}))
