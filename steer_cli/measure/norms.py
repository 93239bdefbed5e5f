"""How large is the vector relative to the stream, by layer and position?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from steer_cli.activations.agreement import agreement, warn
from steer_cli.activations.arms import rows_of
from steer_cli.activations.capture import Wanted, capture, held_positions
from steer_cli.activations.relative import comes_to, lengths_of
from steer_cli.activations.vectors import read_by, vector_of
from steer_cli.errors import PlanError, VectorError
from steer_cli.events import Note, silent
from steer_cli.networks.network import Network
from steer_cli.planning.placement import Alignment, Placement
from steer_cli.results import Agreement

# Stream values held at once: 128 MB of float32, and as much again while copying from a pass.
HELD_STREAM = 32_000_000

Measured = tuple[Placement, Tensor, Tensor]  # |vector| and |stream|, [positions] each


def norms(
    network: Network,
    prompt: tuple[int, ...],
    placements: Sequence[Placement],
    centre: bool = False,
    note: Note = silent,
) -> Iterator[Measured]:
    """Norms of the stream and of each addition's unscaled vector, as if read and added at every layer.

    All layers come from one pass over the pair's texts and the prompt, or from a few if their streams
    are large (Turner et al. 2023, "Measuring the norm of steering vectors"). An addition's own
    `source_layer` is kept.

    Args:
        centre: subtract the mean over the width first, as a LayerNorm does anyway.
        note: told where the texts of an addition do not agree at a layer of the recipe.

    Raises:
        PlanError: an addition acts on new tokens alone.
        VectorError: the network has no LayerNorm, so that centring would change what it computes.
    """
    if centre and not network.norms_remove_mean:
        raise VectorError(
            "centre: this model's norms keep the mean over the width; remove `centre`", parameter="centre"
        )
    late = next((placement for placement in placements if placement.every == "new"), None)
    if late is not None:
        raise PlanError(
            f"{late.alignment.label}: {{every: new}} acts at no position of the prompt; "
            "use every or another position"
        )
    spread = list(_spread(placements, network.depth))
    alignments = [placement.alignment for placement in spread]
    chosen = {(one.alignment.index, one.alignment.block) for one in placements}
    found: dict[int, Measured] = {}
    agreements: list[Agreement | None] = []
    for layers in _in_parts(network, prompt, alignments):
        inside = {n: alignment for n, alignment in enumerate(alignments) if alignment.layer in layers}
        texts = read_by(tuple(inside.values()))
        streams = capture(network, texts | {Wanted(prompt, layer) for layer in layers})
        whole = streams
        if centre:
            streams = {key: stream - stream.mean(-1, keepdim=True) for key, stream in streams.items()}
        for n, alignment in inside.items():
            if (alignment.index, alignment.block) in chosen:
                agreements.append(agreement(alignment, whole, network))
            # At layer 0 the vector of equal tokens is zero, which is a valid result here.
            vector = vector_of(alignment, streams, network, may_be_zero=True)
            if spread[n].relative is not None:
                # What is added is not centred.
                added = vector_of(alignment, whole, network, may_be_zero=True) if centre else vector
                spread[n] = _measured(spread[n], added, whole[Wanted(prompt, alignment.block)])
            if centre and alignment.stored is not None:
                vector = vector - vector.mean(-1, keepdim=True)
            rows = rows_of(spread[n], vector)
            stream = streams[Wanted(prompt, alignment.block)][spread[n].start : spread[n].end]
            found[n] = (spread[n], rows.norm(dim=-1), stream.norm(dim=-1))
    warn(agreements, note)
    yield from (found[n] for n in range(len(spread)))


def _measured(placement: Placement, vector: Tensor, stream: Tensor) -> Placement:
    lengths = {placement.layer: lengths_of(stream)}
    return replace(placement, comes_to=comes_to(placement, lengths_of(vector), lengths))


def _in_parts(network: Network, prompt: tuple[int, ...], alignments: Sequence[Alignment]) -> Iterator[range]:
    """The layers in groups as large as HELD_STREAM allows; one group unless texts are many or long."""
    # What a layer holds; every layer holds the same.
    texts = {wanted._replace(layer=0) for wanted in read_by(alignments)} | {Wanted(prompt, 0)}
    count = max(1, HELD_STREAM // (network.width * held_positions(texts)))
    for first in range(0, network.depth, count):
        yield range(first, min(first + count, network.depth))


def _spread(placements: Sequence[Placement], depth: int) -> Iterator[Placement]:
    """Each addition at all layers, addition by addition; a stored vector at those that it is placed at."""
    seen: set[int] = set()
    for placement in placements:
        if placement.alignment.stored is not None:
            yield placement
        elif placement.alignment.index not in seen:
            # An addition with several layers is placed once for each; one placement is enough.
            seen.add(placement.alignment.index)
            yield from _at_all_layers(placement, depth)


def _at_all_layers(placement: Placement, depth: int) -> Iterator[Placement]:
    alignment = placement.alignment
    moves = alignment.addition.source_layer is None
    for layer in range(depth):
        source = layer if moves else alignment.source_layer
        yield replace(placement, alignment=replace(alignment, layer=layer, source_layer=source))
