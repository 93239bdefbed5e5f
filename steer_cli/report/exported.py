"""What `steer export` wrote, and how to use it, in a few lines."""

from __future__ import annotations

import json
import shlex

from steer_cli.recipe.quoting import counted
from steer_cli.report.printable import one_line
from steer_cli.report.title import layer_range
from steer_cli.results import Exported

NAMED = 6  # layers in a line


def exported_lines(found: Exported) -> list[str]:
    """Lines for a person."""
    layers = f"layer {found.layers[0]}" if len(found.layers) == 1 else f"layers {_range(found.layers)}"
    lines = [f"wrote {found.file}: {layers} of {found.model}, {counted(found.width, 'value')} per row"]
    lines += _for_llama_cpp(found) if found.format == "gguf" else [f"in a recipe: {_key(found)}"]
    return [one_line(line) for line in lines]


def _for_llama_cpp(found: Exported) -> list[str]:
    model = found.model if found.model.endswith(".gguf") else "MODEL.gguf"
    command = f"llama-cli -m {shlex.quote(model)} --control-vector {shlex.quote(found.file)}"
    lines = [f"with llama.cpp: {command}"]
    if "," in found.file:
        lines.append("llama.cpp takes a comma for the end of a file's name; rename the file")
    if ":" in found.file:
        lines.append("llama.cpp's --control-vector-scaled FILE:SCALE takes no name with a colon")
    return lines


def _key(found: Exported) -> str:
    """The key `vector` of a recipe; of several additions it has to name one."""
    name = json.dumps(found.file, ensure_ascii=False)
    if found.additions != (0,):
        name = f"{{file: {name}, addition: {found.additions[0]}}}"
    return f"vector: {name}"


def _range(layers: tuple[int, ...]) -> str:
    shown = layer_range(layers)
    return shown if len(shown) < 40 else f"{layer_range(layers[:NAMED])}, ... {layers[-1]}"
