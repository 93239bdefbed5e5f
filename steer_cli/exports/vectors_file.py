"""A recipe as steer's own file: every row of every vector, unscaled, in a .safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steer_cli.errors import VectorError
from steer_cli.exchange.producers import STEER, Key
from steer_cli.exchange.steer_file import as_bytes
from steer_cli.exchange.stored import StoredVectors
from steer_cli.exports.provenance import only_source, provenance, same_model, stated_additions
from steer_cli.planning.alignment import Alignment
from steer_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from steer_cli.activations.arms import Steering
    from steer_cli.exchange.tensor import Array
    from steer_cli.models.load import Model


def vectors_file(
    recipe: Recipe, model: Model, steering: Steering
) -> tuple[bytes, tuple[int, ...], StoredVectors | None]:
    """The content of the file, its layers, and the file whose provenance it keeps.

    Raises:
        VectorError: all vectors are zeros, which nothing could be steered with.
    """
    vectors: dict[Key, Array] = {
        (alignment.block, alignment.index): vector.detach().float().cpu().numpy()
        for alignment, vector in zip(steering.alignments, steering.vectors, strict=True)
    }
    if not any(rows.any() for rows in vectors.values()):
        raise VectorError(f"{recipe.label}: all vectors are zeros; change texts, layer or dims")
    about = {**provenance(recipe, model), "additions": stated_additions(recipe)}
    source = _unchanged(recipe, steering.alignments, vectors, about)
    if source is not None:
        about = dict(source.metadata)
    layers = {alignment.block for alignment in steering.alignments}
    return as_bytes(vectors, about), tuple(sorted(layers)), source


def _unchanged(
    recipe: Recipe, alignments: Sequence[Alignment], vectors: Mapping[Key, Array], about: Mapping[str, str]
) -> StoredVectors | None:
    """The file of ours that the recipe only repeats, if it does."""
    source = only_source(recipe, alignments)
    if source is None or source.origin != STEER or source.metadata.get("additions") != about["additions"]:
        return None
    same = _bytes(source.vectors) == _bytes(vectors)
    return source if same and same_model(about, source.metadata) else None


def _bytes(vectors: Mapping[Key, Array]) -> dict[Key, tuple[int, bytes]]:
    return {key: (len(rows), rows.tobytes()) for key, rows in vectors.items()}
