"""How large is the vector against the stream, by layer and position?

This module does not know prompts' texts or how the figures are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn

from steer_cli.errors import VectorError
from steer_cli.models.load import Model
from steer_cli.planning.placement import Alignment, Placement
from steer_cli.recipe.schema import Addition
from steer_cli.steering.arms import rows_of
from steer_cli.steering.vectors import capture, read_by, vector_of

# Values of streams held at once: 128 MB of float32, and as much again while a pass is copied from.
HELD_STREAM = 32_000_000

Measured = tuple[Placement, Tensor, Tensor]  # |vector| and |stream|, [positions] each


def norms(
    model: Model, prompt: tuple[int, ...], placements: Sequence[Placement], centre: bool = False
) -> Iterator[Measured]:
    """Norms of each addition's unscaled vector, were it read and added at each layer, and of the stream.

    All layers come from one pass over the pair's texts and the prompt, or from a few where their streams
    are large (Turner et al. 2023, "Measuring the norm of steering vectors"). An addition's own
    `source_layer` stays where it is.

    Args:
        centre: take the mean over the width away first, which a LayerNorm does in any case.

    Raises:
        VectorError: the model has no LayerNorm, so that centring would change what it computes.
    """
    if centre:
        _check_layer_norm(model)
    # An addition of several layers is placed once for each of them; once is enough here.
    firsts = {placement.alignment.index: placement for placement in reversed(placements)}
    spread = [at for _, placement in sorted(firsts.items()) for at in _at_all_layers(placement, model.depth)]
    # At layer 0 the vector of equal tokens is zeros; that is a figure here and no fault.
    alignments = [replace(at.alignment, addition=_harmless(at.alignment)) for at in spread]
    found: dict[int, Measured] = {}
    for layers in _in_parts(model, prompt, alignments):
        own = {n: alignment for n, alignment in enumerate(alignments) if alignment.layer in layers}
        streams = capture(model, read_by(tuple(own.values())) | {(prompt, layer) for layer in layers})
        if centre:
            streams = {key: stream - stream.mean(-1, keepdim=True) for key, stream in streams.items()}
        for n, alignment in own.items():
            rows = rows_of(spread[n], vector_of(alignment, streams, model))
            met = streams[prompt, alignment.layer][spread[n].start : spread[n].end]
            found[n] = (spread[n], rows.norm(dim=-1), met.norm(dim=-1))
    yield from (found[n] for n in range(len(spread)))


def _in_parts(model: Model, prompt: tuple[int, ...], alignments: Sequence[Alignment]) -> Iterator[range]:
    """The layers, as many at once as HELD_STREAM allows: one pass for all, unless texts are many or long."""
    texts = {ids for ids, _ in read_by(alignments)} | {prompt}
    count = max(1, HELD_STREAM // (model.width * sum(map(len, texts))))
    for first in range(0, model.depth, count):
        yield range(first, min(first + count, model.depth))


def _harmless(alignment: Alignment) -> Addition:
    return alignment.addition.model_copy(update={"coefficient": 0.0})


def _at_all_layers(placement: Placement, depth: int) -> Iterator[Placement]:
    alignment = placement.alignment
    moved = alignment.addition.source_layer is None
    for layer in range(depth):
        source = layer if moved else alignment.source_layer
        yield replace(placement, alignment=replace(alignment, layer=layer, source_layer=source))


def _check_layer_norm(model: Model) -> None:
    kinds = {type(module) for module in model.blocks[0].modules() if "norm" in type(module).__name__.lower()}
    if not kinds or not all(issubclass(kind, nn.LayerNorm) for kind in kinds):
        named = ", ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
        raise VectorError(
            f"--centre: {model.name} normalises with {named}, which keeps the mean; leave --centre out"
        )
