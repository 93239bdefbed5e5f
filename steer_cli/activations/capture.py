"""Read the unsteered streams of many texts, in few batched passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steer_cli.activations.residual import visit
from steer_cli.events import Progress, silent
from steer_cli.networks.network import Network

# Positions per capture pass: enough to keep the cores busy, few enough to need little memory.
CAPTURE_POSITIONS = 4096


class Wanted(NamedTuple):
    """A text's stream at a layer: all of it, or the mean over the tokens [start, end) of `read`."""

    ids: tuple[int, ...]
    layer: int
    read: tuple[int, int] | None = None

    @property
    def positions(self) -> int:
        """How many rows are kept of it."""
        return len(self.ids) if self.read is None else 1


Streams = dict[Wanted, Tensor]  # [positions, width], or [1, width] with `read`; float32


def capture(network: Network, wanted: set[Wanted], progress: Progress = silent) -> Streams:
    """The unsteered streams of many texts; a pass stops at the deepest layer and keeps what is wanted alone.

    Returns:
        What is wanted -> the stream, float32 on the network's device.
    """
    layers = sorted({each.layer for each in wanted})
    whole = _whole({each.ids for each in wanted})
    kept: dict[tuple[int, ...], dict[int, list[Wanted]]] = {}
    for each in wanted:
        kept.setdefault(whole[each.ids], {}).setdefault(each.layer, []).append(each)
    rows = sorted(kept, key=len)
    streams, done = Streams(), 0
    for batch, ids in batches(rows):

        def see(layer: int, stream: Tensor, batch: Sequence[tuple[int, ...]] = batch) -> None:
            for index, row in enumerate(batch):
                for each in kept[row].get(layer, ()):
                    streams[each] = _part(stream[index], each).to(network.device)

        visit(network, ids, layers, see)
        done += len(batch)
        if len(batch) < len(rows):  # a single pass is over before anybody would read of it
            progress("read texts", done, len(rows))
    return streams


def batches(rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[Sequence[tuple[int, ...]], Tensor]]:
    """Texts, sorted by length, in batches for a pass each, longest first, and their ids [rows, positions]."""
    while rows:
        count = max(1, min(len(rows), CAPTURE_POSITIONS // len(rows[-1])))
        batch, rows = rows[-count:], rows[:-count]
        # Padding to the right of a text cannot affect it, so rows of any length share a pass.
        longest = len(batch[-1])
        yield batch, torch.tensor([row + (row[-1],) * (longest - len(row)) for row in batch])


def _part(stream: Tensor, wanted: Wanted) -> Tensor:
    """What is wanted of a text's stream, [positions, width], as a float32 tensor of its own."""
    if wanted.read is None:
        return stream[: len(wanted.ids)].to(torch.float32, copy=True)
    start, end = wanted.read
    return stream[start:end].float().mean(0, keepdim=True)


def held_positions(wanted: Iterable[Wanted]) -> int:
    """How many rows of the width a capture keeps."""
    return sum(each.positions for each in wanted)


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
