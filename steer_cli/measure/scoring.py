"""Log probabilities of texts under many arms, in length-sorted batches that begin at a recorded stream.

A text's unsteered stream is recorded once, and every arm runs from the first block that it changes. Additions
are made for one pass at a time and logits for some positions at a time, so that memory grows by only one
number per token.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from steer_cli.activations.arms import UNSTEERED, Arm, change_of
from steer_cli.activations.effect import ChangedRows, lost
from steer_cli.activations.relative import StreamLengths, entering
from steer_cli.activations.residual import record, visit_from
from steer_cli.errors import NotFiniteError, VectorError
from steer_cli.networks.attention import Causal
from steer_cli.networks.network import Changes, Network

# Logits held at once: 128 MB of float32. The rest of a pass needs little in comparison.
LOGITS = 32_000_000
# Logits whose exponentials are summed at once: few enough for a core's cache, which halves the time.
SUMMED_LOGITS = 1_000_000
# Positions per pass: more would not keep the cores busier, and would not fit any cache.
PASS_POSITIONS = 640
# Values of recorded streams kept for later layers: 128 MB of float32, twice that while moving up a layer.
# Beyond this, each layer starts from block 0.
KEPT_STREAM = 32_000_000


# (arm, layer) -> the error to raise unless some text changes there. A single text need not change: additions
# may act only on its last token, which is not run.
Idle = dict[tuple[int, int], VectorError | None]


@dataclass(frozen=True)
class Run:
    """One text under one arm: the text, the positions to predict from, and the arm with its number."""

    text: int
    kept: Sequence[int]
    arm: Arm = UNSTEERED
    arm_number: int = 0


# Told of the runs of a pass and, of some of the rows that they keep, counted run after run: which these are,
# the stream that leaves the last block, [rows, width], and the logits, [rows, vocabulary].
See = Callable[[Sequence[Run], range, Tensor, Tensor], None]


@dataclass(frozen=True)
class Texts:
    """Token ids of texts, longest first, and their streams entering block `layer`, if kept."""

    ids: tuple[tuple[int, ...], ...]
    layer: int = 0
    streams: tuple[Tensor, ...] | None = None

    def stream(self, network: Network, index: int, batch: range) -> Tensor:
        """The stream of a batch entering block `layer`, kept or recorded now."""
        return self.streams[index] if self.streams else _recorded(network, self, batch, self.layer)

    def batches(self) -> Iterator[range]:
        """Batches of texts of similar length; they depend only on the texts."""
        start = 0
        while start < len(self.ids):
            count = max(1, PASS_POSITIONS // max(1, len(self.ids[start])))
            yield range(start, min(start + count, len(self.ids)))
            start += count


def texts_at(network: Network, texts: Texts, layer: int) -> Texts:
    """The texts with their streams entering block `layer`, computed from those kept now.

    Beyond KEPT_STREAM, no stream is kept, so that memory does not grow with the corpus.
    """
    positions = sum(len(texts.ids[batch.start]) * len(batch) for batch in texts.batches())
    if positions * network.width > KEPT_STREAM:
        return Texts(texts.ids, layer)
    if texts.streams is None or texts.layer > layer:
        streams = tuple(_recorded(network, texts, batch, layer) for batch in texts.batches())
    else:
        streams = tuple(
            network.run(stream, texts.layer, layer, Causal(stream.shape[1], network.device))
            for stream in texts.streams
        )
    return Texts(texts.ids, layer, streams)


def _recorded(network: Network, texts: Texts, batch: range, layer: int) -> Tensor:
    # The last token is predicted but predicts nothing. Padding to the right of a text cannot affect it.
    longest = max(1, len(texts.ids[batch.start]) - 1)
    cut = [texts.ids[text][:-1] or texts.ids[text] for text in batch]
    rows = [row + row[-1:] * (longest - len(row)) for row in cut]
    return record(network, torch.tensor(rows), [layer])[layer]


@torch.inference_mode()
def lengths_at(network: Network, texts: Texts, layers: Collection[int]) -> list[StreamLengths]:
    """How long the stream of each text is at some layers, none above that of `texts`; its last token not run.

    Without layers, nothing is run; for that of `texts` alone, only where its stream is not kept.
    """
    kept: list[dict[int, Tensor]] = [{} for _ in texts.ids]
    for index, batch in enumerate(texts.batches()) if layers else ():
        see = entering(kept, batch, [len(texts.ids[text]) - 1 for text in batch])
        visit_from(network, texts.stream(network, index, batch), texts.layer, layers, see)
    return [*kept]


@torch.inference_mode()
def logprobs(
    network: Network, texts: Texts, runs_of: Callable[[int], Iterable[Run]], see: See | None = None
) -> Iterator[tuple[Run, Tensor]]:
    """Log probability of the token after each position that a run keeps.

    Args:
        texts: from `texts_at`, for a layer no deeper than the first that any run changes.
        runs_of: returns the runs of a text; called when its batch is reached.
        see: called in each pass, before its results are yielded.

    Returns:
        Each run with [kept], float64 on the CPU, as passes finish.

    Raises:
        NotFiniteError: steering made log probabilities infinite or NaN.
        VectorError: they are so unsteered, or an arm's additions at a layer changed none of the texts.
    """
    idle: Idle = {}
    for index, batch in enumerate(texts.batches()):
        # All arms of a text run together, so that a pass holds texts of one length.
        runs = (run for text in batch for run in runs_of(text))
        stream = None
        for first in runs:
            if stream is None:
                stream = texts.stream(network, index, batch)
            count = max(1, PASS_POSITIONS // max(1, len(texts.ids[first.text]) - 1))
            part = [first, *islice(runs, count - 1)]
            changed = ChangedRows([len(texts.ids[run.text]) - 1 for run in part])
            yield from zip(part, _scored(network, texts, batch, stream, part, changed, see), strict=True)
            _note(idle, part, changed)
    for error in idle.values():
        if error is not None:
            raise error


def _note(idle: Idle, runs: Sequence[Run], changed: ChangedRows) -> None:
    missing = set(changed.missing([run.arm.acting for run in runs]))
    for row, run in enumerate(runs):
        for layer, placements in run.arm.acting.items():
            if (row, layer) not in missing:
                idle[run.arm_number, layer] = None
            elif (run.arm_number, layer) not in idle:
                idle[run.arm_number, layer] = lost(placements, layer, changed.dtype)


def _scored(
    network: Network,
    texts: Texts,
    batch: range,
    stream: Tensor,
    runs: Sequence[Run],
    changed: ChangedRows,
    see: See | None,
) -> Sequence[Tensor]:
    longest = max(1, len(texts.ids[runs[0].text]) - 1)
    rows = stream[[run.text - batch.start for run in runs], :longest]  # [runs, longest, width]
    attention = Causal(longest, network.device)
    last = network.run(
        rows, texts.layer, network.depth, attention, changes_of([run.arm for run in runs], changed)
    )
    places = [(row, position) for row, run in enumerate(runs) for position in run.kept]
    wanted = [texts.ids[runs[row].text][position + 1] for row, position in places]
    # Only positions that count are unembedded, as the vocabulary is the widest part of a pass.
    rows_kept, positions = torch.tensor(places, dtype=torch.long, device=last.device).reshape(-1, 2).T
    see_rows = None if see is None else partial(see, runs)
    chosen = _chosen(network, last[rows_kept, positions], torch.tensor(wanted, dtype=torch.long), see_rows)
    if not chosen.isfinite().all():
        if not any(run.arm.acting for run in runs):
            raise VectorError("the unsteered logits are not finite; use `dtype=float32`")
        raise NotFiniteError(
            "the steered logits are not finite; use a smaller coefficient or `dtype=float32`"
        )
    return chosen.split([len(run.kept) for run in runs])


def _chosen(
    network: Network, stream: Tensor, wanted: Tensor, see: Callable[[range, Tensor, Tensor], None] | None
) -> Tensor:
    """Log probability of each position's wanted token, [positions], float64; holds at most LOGITS at once."""
    parts = max(1, -(-len(stream) * network.vocabulary // LOGITS))
    values, first = [torch.zeros(0, dtype=torch.float64)], 0
    for rows, ids in zip(stream.tensor_split(parts), wanted.tensor_split(parts), strict=True):
        if len(rows):
            logits = network.unembed(rows)
            likely = logits.gather(1, ids[:, None].to(logits.device)).squeeze(1).float()
            values.append((likely - _log_sums(logits)).cpu().double())
            if see is not None:
                see(range(first, first + len(rows)), rows, logits)
            first += len(rows)
    return torch.cat(values)


def _log_sums(logits: Tensor) -> Tensor:
    """Log-sum-exp of each row, [positions], float32."""
    if logits.device.type != "cpu":
        return logits.float().logsumexp(-1)
    rows = logits.split(max(1, SUMMED_LOGITS // logits.shape[1]))
    return torch.cat([some.float().logsumexp(-1) for some in rows])


def changes_of(arms: Sequence[Arm], changed: ChangedRows) -> Changes:
    """What is done in each row of a pass; each layer's tensors are made when the pass reaches it."""

    def changing(layer: int) -> Callable[[Tensor], Tensor]:
        def replace(stream: Tensor) -> Tensor:
            # A span may also cover the last token, which predicts nothing and is not run.
            _, positions, width = stream.shape
            change = change_of(arms, layer, positions + 1, width, stream.device)
            after = change.each(lambda values: values[:, :positions]).of(stream)
            changed.see(layer, stream, after)
            return after

        return replace

    return {layer: changing(layer) for layer in sorted({layer for arm in arms for layer in arm.layers})}
