"""The number that a relative coefficient comes to on a text, from the lengths of its unsteered stream."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from steer_cli.activations.capture import batches
from steer_cli.activations.residual import visit
from steer_cli.errors import VectorError
from steer_cli.events import Progress, silent
from steer_cli.networks.network import Network
from steer_cli.planning.placement import Placement
from steer_cli.recipe.bounds import LARGEST_COEFFICIENT

# layer -> |stream| at each position of one text, unsteered: [positions], float64 on the CPU.
StreamLengths = Mapping[int, Tensor]

NO_LENGTHS: StreamLengths = {}


def stream_lengths(
    network: Network,
    texts: Sequence[tuple[int, ...]],
    layers: Collection[int],
    progress: Progress = silent,
) -> list[StreamLengths]:
    """How long the unsteered stream of each text is at some layers, in few batched passes.

    Without layers, nothing is run.
    """
    rows = sorted(set(texts), key=len) if layers else []
    kept: dict[tuple[int, ...], dict[int, Tensor]] = {row: {} for row in rows}
    done = 0
    for batch, ids in batches(rows):
        visit(network, ids, layers, entering(kept, batch, [*map(len, batch)]))
        done += len(batch)
        if len(batch) < len(rows):  # a single pass is over before anybody would read of it
            progress("read prompts", done, len(rows))
    return [kept.get(text, NO_LENGTHS) for text in texts]


def entering(kept: Any, texts: Sequence[Any], positions: Sequence[int]) -> Callable[[int, Tensor], None]:
    """What keeps the lengths of the streams that a pass shows.

    Args:
        kept: text -> layer -> its lengths; written to.
        texts: what `kept` knows the rows of the pass by.
        positions: how many positions of each row count; others are padding.
    """

    def see(layer: int, stream: Tensor) -> None:
        for text, count, lengths in zip(texts, positions, lengths_of(stream), strict=True):
            kept[text][layer] = lengths[:count]

    return see


def lengths_of(rows: Tensor) -> Tensor:
    """The length of each row, [..., width] -> [...], in float64 on the CPU."""
    # A square of float16 may overflow.
    return rows.float().norm(dim=-1).cpu().double()


def comes_to(placement: Placement, rows: Tensor, lengths: StreamLengths) -> float:
    """The coefficient for which the mean length added is the wanted multiple of the stream's mean length.

    Both means are over the positions acted on at which the vector's row is not zero, as that of an equal BOS
    is. Where all rows are zero, or the pass ends before them, it is 0.

    Args:
        rows: the lengths of the vector's rows.
        lengths: of the text's unsteered stream; they may end before the text does.

    Raises:
        VectorError: the stream is not finite, or the vector is too short for any finite coefficient.
    """
    relative = placement.relative
    assert relative is not None
    start, end = placement.measured
    stream = lengths[placement.layer][start:end]
    rows = rows.expand(len(stream)) if placement.every else rows[placement.first_row :][: len(stream)]
    acting = rows > 0
    if not acting.any():
        return 0.0
    coefficient = relative * float(stream[acting].mean() / rows[acting].mean())
    if not abs(coefficient) <= LARGEST_COEFFICIENT:
        label, layer = placement.alignment.label, placement.layer
        raise VectorError(
            f"{label}: the relative coefficient {relative:g} comes to {coefficient:g} at layer {layer}: the "
            "vector is too short, or the stream is not finite; use other texts or another layer"
        )
    return coefficient
