"""Compute unscaled vectors from pairs or lists of texts, or take stored ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from steer_cli.activations.capture import Streams, Wanted, capture, held_positions
from steer_cli.errors import VectorError
from steer_cli.events import Progress, silent
from steer_cli.networks.network import Network
from steer_cli.planning.alignment import Alignment
from steer_cli.planning.pairs import AlignedPair, TokenRow
from steer_cli.planning.stored_vector import StoredVector

# Values of captured streams that are held at once: 256 MB of float32.
HELD_VALUES = 64_000_000


def compute(
    network: Network,
    alignments: Sequence[Alignment],
    zero_dims: bool = False,
    progress: Progress = silent,
) -> list[Tensor]:
    """The vector of every alignment, [positions, width] (one row for `every`), float32.

    Args:
        zero_dims: allow `dims: 0`, which makes a vector zero, as a sweep's point may.

    Raises:
        VectorError: a vector is not finite, or is all zeros although its coefficient is not 0.
    """
    return [
        vector_of(alignment, streams, network, may_be_zero=zero_dims and alignment.addition.dims == 0)
        for alignment, streams in with_streams(network, alignments, progress)
    ]


def with_streams(
    network: Network, alignments: Sequence[Alignment], progress: Progress = silent
) -> Iterator[tuple[Alignment, Streams]]:
    """Each alignment with the streams that its vector is made of.

    As many as HELD_VALUES allows are captured together.
    """
    waiting: list[Alignment] = []
    wanted: set[Wanted] = set()
    for alignment in alignments:
        more = read_by([alignment])
        if waiting and held_positions(wanted | more) * network.width > HELD_VALUES:
            yield from _captured(network, waiting, wanted, progress)
            waiting, wanted = [], set()
        waiting.append(alignment)
        wanted |= more
    yield from _captured(network, waiting, wanted, progress)


def _captured(
    network: Network, alignments: Sequence[Alignment], wanted: set[Wanted], progress: Progress
) -> Iterator[tuple[Alignment, Streams]]:
    streams = capture(network, wanted, progress) if wanted else {}
    for alignment in alignments:
        yield alignment, streams


def read_by(alignments: Sequence[Alignment]) -> set[Wanted]:
    """All streams needed for the vectors."""
    return {
        Wanted(row.ids, layer, row.read)
        for alignment in alignments
        for layer in _layers_read(alignment)
        for row in alignment.rows
        if row.ids
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
    if alignment.stored is not None:
        vector = _stored(alignment, alignment.stored, network)
    else:
        vector = made_of(alignment, alignment.source_block, streams, network)
    if addition.match_norm:
        wanted = made_of(alignment, alignment.block, streams, network).norm(dim=-1, keepdim=True)
        vector = rescaled(vector, wanted)
    if addition.random is not None:
        noise = torch.randn(vector.shape, generator=_generator(alignment))
        vector = rescaled(noise.to(vector), vector.norm(dim=-1, keepdim=True))
    if addition.dims is not None:
        vector = vector.clone()
        vector[:, round(addition.dims * network.width) :] = 0
    if not vector.isfinite().all():
        raise VectorError(f"{alignment.label}: the stream at layer {alignment.source_block} is not finite")
    if addition.strength != 0 and not may_be_zero and not vector.any():
        raise VectorError(f"{alignment.label}: does nothing: the vector is all zeros{_remedy(alignment)}")
    return vector


def _remedy(alignment: Alignment) -> str:
    """Why a vector is all zeros, as far as that is known, and what to do."""
    addition, why = alignment.addition, ""
    ways = "change texts, layer or dims"
    if read_alike(alignment) and alignment.source_block == 0:
        why = ", as all texts are read at the same token, which has one stream at layer 0"
        ways = "choose a deeper layer" if addition.source_layer is None else "choose a deeper `source_layer`"
    if addition.layer == "all" and addition.source_layer is None:
        why = why or f" at layer {alignment.block}"
        ways = "list other layers, or set `source_layer`"
    return f"{why}; {ways}"


def read_alike(alignment: Alignment) -> bool:
    """Whether all texts are read at the same token, as chats are at the header of the answer."""
    read = {() if row.read is None else row.ids[slice(*row.read)] for row in alignment.rows}
    return len(read) == 1 and () not in read


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


def _stored(alignment: Alignment, stored: StoredVector, network: Network) -> Tensor:
    # A copy, since the file's values are read once for all that use them.
    vector = torch.tensor(stored.at(alignment.block), device=network.device)
    if vector.shape[1] != network.width:
        raise VectorError(
            f"{stored.name}: its vectors have {vector.shape[1]} values, and the model's stream has "
            f"{network.width}; use the vectors of this model"
        )
    return vector


def made_of(
    alignment: Alignment, layer: int, streams: Streams, network: Network, half: int | None = None
) -> Tensor:
    """The vector that the texts make at a layer, before it is rescaled or cut; zeros where there are none.

    Args:
        half: take only every second pair or text, from the first (0) or the second (1) on.
    """
    which = slice(half, None, None if half is None else 2)
    if alignment.lists is not None:
        plus, minus = (
            _mean(rows[which], layer, streams) for rows in (alignment.lists.plus, alignment.lists.minus)
        )
        return plus - minus
    how, pairs = alignment.addition.combine, alignment.pairs[which]
    if how == "pca":
        return principal(torch.cat([difference(pair, layer, streams, network) for pair in pairs]))
    total = torch.zeros(
        1 if alignment.addition.every else alignment.length, network.width, device=network.device
    )
    for pair in pairs:
        rows = difference(pair, layer, streams, network)
        total[: len(rows)] += rows
    return total / len(pairs) if how == "mean" else total


def _mean(rows: Sequence[TokenRow], layer: int, streams: Streams) -> Tensor:
    return torch.stack([streams[Wanted(row.ids, layer, row.read)] for row in rows]).mean(0)


def principal(differences: Tensor) -> Tensor:
    """The mean of some differences, [pairs, width], on their first principal component: [1, width].

    The component is that of the differences as they are, not centred. The result does not depend on which of
    its two signs is found.
    """
    exact = differences.cpu().double()
    gram = exact @ exact.T if len(exact) <= exact.shape[1] else exact.T @ exact
    leading = torch.linalg.eigh(gram)[1][:, -1]
    component = exact.T @ leading if len(exact) <= exact.shape[1] else leading
    length = component.norm()
    component = component / length if length > 0 else component
    return ((exact.mean(0) @ component) * component)[None].to(differences)


def difference(pair: AlignedPair, layer: int, streams: Streams, network: Network) -> Tensor:
    """plus - minus of one pair, [positions, width], or [1, width] where each text makes one row.

    Without padding each side acts on its own length; a side without tokens is 0.
    """
    sides = [
        (sign, streams[Wanted(row.ids, layer, row.read)])
        for sign, row in ((1, pair.plus), (-1, pair.minus))
        if row is not None and row.ids
    ]
    one_row = pair.plus.read is not None
    total = torch.zeros(1 if one_row else pair.length, network.width, device=network.device)
    for sign, stream in sides:
        total[: len(stream)] += sign * stream
    if pair.minus is not None and not one_row:
        # Equal beginnings have equal streams, but rows of one batch may still differ in the last bit.
        shared = 0
        for plus, minus in zip(pair.plus.ids, pair.minus.ids, strict=False):
            if plus != minus:
                break
            shared += 1
        total[:shared] = 0
    return total
