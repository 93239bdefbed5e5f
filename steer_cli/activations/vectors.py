"""Compute unscaled vectors from pairs of texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from steer_cli.activations.residual import record
from steer_cli.errors import VectorError
from steer_cli.networks.network import Network
from steer_cli.planning.pairs import AlignedPair
from steer_cli.planning.placement import Alignment

# Positions per capture pass: enough to keep the cores busy, few enough to need little memory.
CAPTURE_POSITIONS = 4096

Streams = dict[tuple[tuple[int, ...], int], Tensor]  # (ids, layer) -> [positions, width], float32


def capture(network: Network, wanted: set[tuple[tuple[int, ...], int]]) -> Streams:
    """The unsteered stream of many texts, in few batched passes that stop at the deepest layer.

    Args:
        wanted: (ids, layer) of every stream needed.

    Returns:
        (ids, layer) -> [positions, width], float32 on the network's device.
    """
    layers = sorted({layer for _, layer in wanted})
    whole = _whole({ids for ids, _ in wanted})
    kept = {(whole[ids], layer) for ids, layer in wanted}
    rows = sorted(set(whole.values()), key=len)
    read: Streams = {}
    while rows:
        count = max(1, min(len(rows), CAPTURE_POSITIONS // len(rows[-1])))
        batch, rows = rows[-count:], rows[:-count]
        # Padding to the right of a text cannot affect it, so rows of any length share a pass.
        longest = len(batch[-1])
        ids = torch.tensor([row + (row[-1],) * (longest - len(row)) for row in batch])
        recorded = record(network, ids, layers)
        for index, row in enumerate(batch):
            for layer in layers:
                if (row, layer) in kept:
                    stream = recorded[layer][index, : len(row)]
                    read[row, layer] = stream.to(network.device, torch.float32, copy=True)
    return {(ids, layer): read[whole[ids], layer][: len(ids)] for ids, layer in wanted}


def _whole(texts: set[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """text -> a text that begins with it and begins no other: both streams are read from this one.

    Many recipes contain both a word and the same word with padding.
    """
    whole: dict[tuple[int, ...], tuple[int, ...]] = {}
    previous: tuple[int, ...] = ()
    # In this order, a text comes right after one that begins with it, if any.
    for text in sorted(texts, reverse=True):
        whole[text] = whole[previous] if previous[: len(text)] == text else text
        previous = text
    return whole


def compute(network: Network, alignments: Sequence[Alignment], zero_dims: bool = False) -> list[Tensor]:
    """The vector of every alignment, [positions, width] (one row for `every`), float32.

    Args:
        zero_dims: allow `dims: 0`, which makes a vector zero, as a sweep's point may.

    Raises:
        VectorError: a vector is not finite, or is all zeros although its coefficient is not 0.
    """
    streams = capture(network, read_by(alignments))
    return [
        vector_of(alignment, streams, network, may_be_zero=zero_dims and alignment.addition.dims == 0)
        for alignment in alignments
    ]


def read_by(alignments: Sequence[Alignment]) -> set[tuple[tuple[int, ...], int]]:
    """(ids, layer) of every stream needed for the vectors."""
    return {
        (row.ids, layer)
        for alignment in alignments
        for layer in _layers_read(alignment)
        for pair in alignment.pairs
        for row in (pair.plus, pair.minus)
        if row is not None and row.ids
    }


def _layers_read(alignment: Alignment) -> set[int]:
    return (
        {alignment.source_block, alignment.block}
        if alignment.addition.match_norm
        else {alignment.source_block}
    )


def vector_of(alignment: Alignment, streams: Streams, network: Network, may_be_zero: bool = False) -> Tensor:
    """The vector of one alignment from recorded streams; see `compute`."""
    addition = alignment.addition
    vector = _combined(alignment, alignment.source_block, streams, network)
    if addition.match_norm:
        wanted = _combined(alignment, alignment.block, streams, network).norm(dim=-1, keepdim=True)
        vector = rescaled(vector, wanted)
    if addition.random is not None:
        noise = torch.randn(vector.shape, generator=_generator(alignment))
        vector = rescaled(noise.to(vector), vector.norm(dim=-1, keepdim=True))
    if addition.dims is not None:
        vector = vector.clone()
        vector[:, round(addition.dims * network.width) :] = 0
    if not vector.isfinite().all():
        raise VectorError(f"{alignment.label}: the stream at layer {alignment.source_block} is not finite")
    if addition.coefficient != 0 and not may_be_zero and not vector.any():
        ways = "change texts, layer or dims"
        if addition.layer == "all" and addition.source_layer is None:
            # At layer 0 equal tokens mostly have equal streams.
            ways = f"not every layer gives one (layer {alignment.block}); set `source_layer`"
        raise VectorError(f"{alignment.label}: does nothing: the vector is all zeros; {ways}")
    return vector


def _generator(alignment: Alignment) -> torch.Generator:
    """The noise generator of one addition at one of its layers.

    Additions with the same seed, and the layers of one addition, must not draw the same noise: as the stream
    keeps what earlier blocks added, equal noise would add up to a direction, independent noise does not. The
    first layer of a list draws what it would draw alone, whichever layer it is.
    """
    assert alignment.addition.random is not None
    seed, index, turn = alignment.addition.random.seed, alignment.index, alignment.turn
    if index or turn:
        name = f"{seed}:{index}:{turn}" if turn else f"{seed}:{index}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(seed)


def rescaled(vector: Tensor, norm: Tensor) -> Tensor:
    """Scale each row to its norm in `norm`, [positions, 1]; a zero row has no direction and stays zero."""
    own = vector.norm(dim=-1, keepdim=True)
    return torch.where(own > 0, vector * (norm / own), torch.zeros_like(vector))


def _combined(alignment: Alignment, layer: int, streams: Streams, network: Network) -> Tensor:
    """Sum or mean of the pairs' differences, aligned at the first token (for `every`, at the last)."""
    every = alignment.addition.every is not None
    total = torch.zeros(1 if every else alignment.length, network.width, device=network.device)
    for pair in alignment.pairs:
        if every:
            total += _last_difference(pair, layer, streams)
        else:
            difference = _difference(pair, layer, streams)
            total[: len(difference)] += difference
    return total / len(alignment.pairs) if alignment.addition.combine == "mean" else total


def _last_difference(pair: AlignedPair, layer: int, streams: Streams) -> Tensor | int:
    """plus - minus, each at its own last token, [1, width]; a side without tokens is 0."""
    sides = [
        streams[row.ids, layer][-1:] if row.ids else 0 for row in (pair.plus, pair.minus) if row is not None
    ]
    return sides[0] if len(sides) == 1 else sides[0] - sides[1]


def _difference(pair: AlignedPair, layer: int, streams: Streams) -> Tensor:
    """plus - minus, [positions, width]; without padding each side acts on its own length."""
    sides = [
        (sign, row.ids) for sign, row in ((1, pair.plus), (-1, pair.minus)) if row is not None and row.ids
    ]
    width = next(iter(streams.values())).shape[1]
    device = next(iter(streams.values())).device
    total = torch.zeros(pair.length, width, device=device)
    for sign, ids in sides:
        total[: len(ids)] += sign * streams[ids, layer]
    if pair.minus is not None:
        # Equal beginnings have equal streams, but rows of one batch may still differ in the last bit.
        shared = 0
        for plus, minus in zip(pair.plus.ids, pair.minus.ids, strict=False):
            if plus != minus:
                break
            shared += 1
        total[:shared] = 0
    return total
