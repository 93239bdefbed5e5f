"""A recipe as a control vector of llama.cpp: one direction per layer, in a .gguf file.

llama.cpp adds `direction.N` to the output of block N, which is the stream that enters block N + 1, at every
position, BOS included. It has no direction for block 0, so the first layer is 2. Its loader reads nothing but
the tensors; repeng's reads `controlvector.model_hint` as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import PlanError
from steer_cli.exchange.stored import StoredVectors
from steer_cli.exports.constant import check_acts, check_constant, constants
from steer_cli.exports.provenance import only_source, provenance, same_model
from steer_cli.planning.alignment import Alignment
from steer_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from steer_cli.activations.arms import Steering
    from steer_cli.exchange.tensor import Array
    from steer_cli.models.load import Model

FIRST_LAYER = 2
ARCHITECTURE = "controlvector"
HINT, COUNT = f"{ARCHITECTURE}.model_hint", f"{ARCHITECTURE}.layer_count"
OURS = "steer."  # what the names of our own keys begin with


def check_control_vector(
    recipe: Recipe, alignments: Sequence[Alignment], approximate: bool
) -> tuple[str, ...]:
    """What a control vector of the recipe leaves out or changes; nothing without `approximate`.

    Raises:
        PlanError: a control vector cannot say what the recipe does.
    """
    notes = check_constant(recipe, approximate)
    acting = [alignment for alignment in alignments if not alignment.addition.adds_nothing]
    outside = [alignment for alignment in acting if alignment.block < FIRST_LAYER]
    if not outside:
        return notes
    where = f"{recipe.label}: additions.{outside[0].index}: layer {outside[0].block}"
    if len(outside) == len(acting):
        raise PlanError(f"{where}: llama.cpp adds nothing before layer {FIRST_LAYER}; choose deeper layers")
    if not approximate:
        raise PlanError(
            f"{where}: llama.cpp adds nothing before layer {FIRST_LAYER}; choose deeper layers, or leave out "
            "this one with `approximate`"
        )
    layers = sorted({alignment.block for alignment in outside})
    which = f"layer {layers[0]} is" if len(layers) == 1 else "layers 0 and 1 are"
    return (*notes, f"{which} left out: llama.cpp adds nothing before layer {FIRST_LAYER}")


def control_vector(
    recipe: Recipe, model: Model, steering: Steering, notes: Sequence[str]
) -> tuple[bytes, tuple[int, ...], StoredVectors | None]:
    """The content of the file, its layers as steer counts them, and the file whose provenance it keeps.

    Args:
        notes: what `check_control_vector` said.

    Raises:
        VectorError: additions sum to zeros, change nothing, or are not finite.
        OSError: there is no room for a temporary file.
    """
    sums = constants(recipe, steering, approximate=bool(notes))
    check_acts(recipe, model.network, sums)
    directions = {layer - 1: row.numpy() for layer, row in sums.items()}
    said = provenance(recipe, model)
    about = {f"{OURS}{key.removeprefix('steer_')}": text for key, text in said.items()}
    about[HINT] = model.located.model_type
    if notes:
        about[f"{OURS}approximations"] = "\n".join(notes)
    source = None if notes else _unchanged(recipe, steering.alignments, directions, said)
    if source is not None:
        about = {key: text for key, text in source.metadata.items() if key.startswith((OURS, HINT))}
    return as_gguf(directions, about), tuple(layer + 1 for layer in directions), source


def _unchanged(
    recipe: Recipe, alignments: Sequence[Alignment], directions: Mapping[int, Array], said: Mapping[str, str]
) -> StoredVectors | None:
    """The control vector of ours that the recipe only repeats, if it does."""
    source = only_source(recipe, alignments)
    if source is None or f"{OURS}version" not in source.metadata:
        return None
    stated = {key.removeprefix(OURS): text for key, text in source.metadata.items()}
    held = {layer: rows.tobytes() for layer, rows in source.of(0).items()}
    same = held == {number + 1: row.tobytes() for number, row in directions.items()}
    return source if same and same_model(said, stated) else None


def as_gguf(directions: Mapping[int, Array], about: Mapping[str, str]) -> bytes:
    """The content of a .gguf file of directions, [width] each, by the block after which they are added.

    Equal arguments give equal bytes.
    """
    import numpy as np
    from gguf import GGUFWriter

    with tempfile.TemporaryDirectory(prefix="steer-") as folder:
        file = Path(folder) / "vector.gguf"
        writer = GGUFWriter(file, ARCHITECTURE)
        try:
            writer.add_string(HINT, about[HINT])
            writer.add_uint32(COUNT, len(directions))
            for key in sorted(about.keys() - {HINT}):
                writer.add_string(key, about[key])
            for number, row in sorted(directions.items()):
                writer.add_tensor(f"direction.{number}", np.ascontiguousarray(row, dtype="<f4"))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        return file.read_bytes()
