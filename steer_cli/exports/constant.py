"""What a constant vector can say: one sum per layer, added at every position, whatever the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steer_cli.errors import PlanError, VectorError
from steer_cli.planning.span import name_of
from steer_cli.recipe.schema import Addition, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.activations.arms import Steering
    from steer_cli.networks.network import Network

PROBE_TOKENS = 8

# What differs where a vector acts at every position, by where the recipe has it act.
_DIFFERS = {
    "both": "the recipe leaves BOS alone",
    "prompt": "the recipe steers neither BOS nor new tokens",
    "new": "the recipe steers new tokens alone",
}


def constants(recipe: Recipe, steering: Steering, approximate: bool = False) -> dict[int, Tensor]:
    """The sum of a recipe's additions at each layer, if it is the same at every position of every text.

    Args:
        approximate: take an addition that acts elsewhere as if its last row acted at every position.

    Returns:
        layer -> the sum, [width], coefficients included, float32 on the CPU, layers rising.

    Raises:
        PlanError: an addition is not constant.
        VectorError: the additions of a layer sum to zeros, or to values that float32 cannot hold.
    """
    check_constant(recipe, approximate)
    sums: dict[int, Tensor] = {}
    for alignment, vector in zip(steering.alignments, steering.vectors, strict=True):
        if alignment.addition.adds_nothing:
            continue
        coefficient = _number(alignment.addition.coefficient)
        assert coefficient is not None  # others are refused above
        row = vector[-1].detach().float().cpu()
        before = sums.get(alignment.block, row.new_zeros(row.shape))
        # In the recipe's order from zeros, as the arm of a run adds them: the same floats.
        sums[alignment.block] = before + coefficient * row
    for layer, total in sums.items():
        if not total.isfinite().all():
            raise VectorError(f"{recipe.label}: layer {layer}: too large for float32; lower a coefficient")
        if not total.any():
            raise VectorError(
                f"{recipe.label}: layer {layer}: its additions sum to zeros; change a coefficient, or "
                "remove them"
            )
    return dict(sorted(sums.items()))


def check_acts(recipe: Recipe, network: Network, sums: Mapping[int, Tensor]) -> None:
    """Raise VectorError if what is added at a layer changes no value of the stream of a short text."""
    import torch

    from steer_cli.activations.residual import visit

    def see(layer: int, stream: Tensor) -> None:
        if torch.equal(stream + sums[layer].to(stream), stream):
            raise VectorError(
                f"{recipe.label}: layer {layer}: does nothing: no value of the stream changes; use a larger "
                "coefficient"
            )

    visit(network, torch.arange(PROBE_TOKENS)[None] % network.embeddings, sums, see)


def check_constant(recipe: Recipe, approximate: bool = False) -> tuple[str, ...]:
    """What `constants` refuses of a recipe, before any model is loaded, and its notes.

    Raises:
        PlanError: an addition is not constant, or none adds anything.
    """
    acting = [item for item in enumerate(recipe.additions) if not item[1].adds_nothing]
    if not acting:
        raise PlanError(f"{recipe.label}: adds nothing: every coefficient or `dims` is 0; change one")
    notes = (_note(recipe, index, addition, approximate) for index, addition in acting)
    return tuple(note for note in notes if note is not None)


def _note(recipe: Recipe, index: int, addition: Addition, approximate: bool) -> str | None:
    """What is approximated of an addition; None if it is constant as it stands."""
    where, coefficient = f"{recipe.label}: additions.{index}", _number(addition.coefficient)
    if addition.operation == "ablate":
        raise PlanError(
            f"{where}: `operation: ablate` depends on the stream, and no constant vector does the same; "
            "remove this addition, or keep its direction with `steer export -o FILE.safetensors`"
        )
    if coefficient is None:
        raise PlanError(
            f"{where}: a relative coefficient depends on the prompt; write the number that `steer generate` "
            "shows with `explain`"
        )
    if addition.every == "all":
        return None
    position = name_of(addition.position)
    if not approximate:
        raise PlanError(
            f"{where}: `position: {position}` is not every position; write `position: {{every: all}}`, "
            "which is what llama.cpp does, or use `approximate`"
        )
    differs = _DIFFERS.get(addition.every or "", f"the recipe adds each of its rows once, at {position}")
    return f"additions.{index}: its last row acts at every position, BOS too; {differs}"


def _number(coefficient: Any) -> float | None:
    """A coefficient that is a plain number; None where it depends on the prompt."""
    return float(coefficient) if isinstance(coefficient, (int, float)) else None
