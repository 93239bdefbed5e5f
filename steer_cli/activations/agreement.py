"""Measure how far the pairs or texts of an addition agree on a direction.

Braun et al. 2025 (arXiv 2505.22637): where the pairs' differences point apart, steering is unreliable.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn.functional import pad

from steer_cli.activations.capture import Streams
from steer_cli.activations.vectors import difference, made_of
from steer_cli.events import Note
from steer_cli.networks.network import Network
from steer_cli.planning.alignment import Alignment
from steer_cli.results import Agreement


def agreement(alignment: Alignment, streams: Streams, network: Network) -> Agreement | None:
    """The agreement of an addition's texts at the layer where they are read.

    None for one pair, for lists of which one has a single text, for a stored vector, and for noise.
    A vector of several positions is compared as a whole.
    """
    addition, layer, lists = alignment.addition, alignment.source_block, alignment.lists
    if alignment.stored is not None or addition.random is not None:
        return None
    if min(len(lists.plus), len(lists.minus)) < 2 if lists else len(alignment.pairs) < 2:
        return None
    halves = [made_of(alignment, layer, streams, network, half) for half in (0, 1)]
    cosines = None
    if lists is None:
        vector = made_of(alignment, layer, streams, network)
        # One by one, so that the differences of many pairs are never held together.
        differences = (difference(pair, layer, streams, network) for pair in alignment.pairs)
        cosines = [
            cosine(pad(rows, (0, 0, 0, len(vector) - len(rows))), vector) or 0.0 for rows in differences
        ]
    return Agreement(
        label=alignment.label,
        layer=alignment.block,
        mean_cosine=None if cosines is None else sum(cosines) / len(cosines),
        halves_cosine=cosine(*halves),
        pairs=len(alignment.pairs),
        plus=len(alignment.plus_rows),
        minus=len(alignment.minus_rows),
    )


def warn(found: Iterable[Agreement | None], note: Note) -> None:
    """Say where texts do not agree, of each addition once: at the first of its layers."""
    low = [one for one in found if one is not None and one.is_low]
    for one in {one.label: one for one in reversed(low)}.values():
        note(one.warning)


def cosine(one: Tensor, other: Tensor) -> float | None:
    """The cosine of the angle between two tensors, each taken as one vector; None if one is zero."""
    first, second = one.flatten().cpu().double(), other.flatten().cpu().double()
    lengths = float(first.norm() * second.norm())
    return float(first @ second) / lengths if lengths > 0 else None
