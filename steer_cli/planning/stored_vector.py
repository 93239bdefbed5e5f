"""A stored vector of a recipe: the file that it names, its layers and its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steer_cli.errors import PlanError, VectorFileError
from steer_cli.recipe.named_files import located
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.recipe.sources import VectorFile

if TYPE_CHECKING:
    from steer_cli.exchange.tensor import Array

NAMED_LAYERS = 40  # layers that an error lists


@dataclass(frozen=True)
class StoredVector:
    """One direction of a file by steer's layers; the only layer is None where the file says none."""

    name: str  # as the recipe has it
    sha256: str
    origin: str | None  # what made the file
    by_layer: Mapping[int | None, Array] = field(compare=False, repr=False)  # [positions, width]

    @property
    def positions(self) -> int:
        return len(next(iter(self.by_layer.values())))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that the file says; none where it holds one direction for any layer."""
        return tuple(layer for layer in self.by_layer if layer is not None)

    def at(self, layer: int) -> Array:
        """The vector of a layer, [positions, width]."""
        return self.by_layer[layer if self.layers else None]


def open_vector(recipe: Recipe, addition: Addition, where: str) -> StoredVector:
    """Read the file of an addition's vector.

    Args:
        where: the place of the addition, for errors.

    Raises:
        PlanError: the file cannot be read, or has no such vector.
    """
    # Imported here, since numpy takes a tenth of a second.
    from steer_cli.exchange.stored import read_vectors

    assert addition.vector is not None
    source = VectorFile(file=addition.vector) if isinstance(addition.vector, str) else addition.vector
    file = located(recipe, source.file)
    try:
        found = read_vectors(file, addition.origin)
    except VectorFileError as error:
        raise PlanError(f"{where}.vector: {error}") from None
    index = source.addition
    held = ", ".join(map(str, found.additions))
    if index is None and len(found.additions) > 1:
        raise PlanError(
            f"{where}.vector: {file}: it holds the vectors of additions {held}; choose one, as in "
            f"{{file: {file.name}, addition: {found.additions[0]}}}"
        )
    index = found.additions[0] if index is None else index
    if index not in found.additions:
        raise PlanError(f"{where}.vector: {file}: no addition {index} in it; it has {held}")
    return StoredVector(source.file, found.sha256, found.origin, found.of(index))


def check_position(stored: StoredVector, addition: Addition, where: str) -> None:
    """Raise PlanError if the vector has several rows for one that is alike everywhere, or the reverse."""
    if addition.every and stored.positions > 1:
        raise PlanError(
            f"{where}: {stored.name} has {stored.positions} positions, and `position: every` takes one row; "
            "write front, or another position in the prompt"
        )
    if not addition.every and stored.positions == 1:
        raise PlanError(
            f"{where}: {stored.name} has one row, which is for every position; write `position: every`"
        )


def layers_of(
    stored: StoredVector, addition: Addition, blocks: int | None, where: str, model: str
) -> tuple[int | str, ...]:
    """The layers at which the vector acts: those of the recipe, or else those of the file.

    Raises:
        PlanError: the recipe must name them, or the file has layers that the model lacks.
    """
    if addition.layers:
        return addition.layers
    if not stored.layers:
        raise PlanError(f"{where}: {stored.name} does not say its layer; write `layer: ...`")
    beyond = [layer for layer in stored.layers if blocks is not None and layer >= blocks]
    if beyond:
        within = [layer for layer in stored.layers if layer not in beyond]
        end = " (after the last block)" if beyond == [blocks] else ""
        raise PlanError(
            f"{where}: {stored.name} has vectors for layers up to {beyond[-1]}{end}, and {model} has "
            f"blocks 0 to {(blocks or 0) - 1}; {_choose(within)}"
        )
    return stored.layers


def check_layer(stored: StoredVector, layer: int, adds_nothing: bool, where: str) -> None:
    """Raise PlanError if the file has no vector for a layer, or one of zeros that should act."""
    if stored.layers and layer not in stored.by_layer:
        raise PlanError(f"{where}: {stored.name} has no vector for layer {layer}; {_choose(stored.layers)}")
    if not adds_nothing and not stored.at(layer).any():
        filled = [number for number, vector in stored.by_layer.items() if number is not None and vector.any()]
        raise PlanError(
            f"{where}: {stored.name}: the vector of layer {layer} is all zeros; {_choose(filled)}"
        )


def _choose(layers: Sequence[int]) -> str:
    if not layers:
        return "use the vectors of a model of this depth"
    shown = ", ".join(map(str, layers[:NAMED_LAYERS])) + (", ..." if len(layers) > NAMED_LAYERS else "")
    return f"choose with `layer: [{shown}]`"
