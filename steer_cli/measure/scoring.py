"""Log probabilities of texts under many arms: length-sorted batches that begin at a recorded stream.

A text's unsteered stream is recorded once; every arm runs from the first block that it changes. What is added
is made for one pass at a time, and a vocabulary is opened for a part of its positions only, so that memory
grows by a number a token and no more. This module does not know what texts mean or how their
figures are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from steer_cli.errors import VectorError
from steer_cli.models.load import Model
from steer_cli.planning.placement import Placement
from steer_cli.steering.arms import NOTHING, Placed
from steer_cli.steering.effect import Changes, lost, out_of_reach
from steer_cli.steering.residual import Made, advance, read_out, record

# Logits held at once: 128 MB of float32. What a pass needs besides is small against it.
LOGITS = 32_000_000
# Logits whose exponentials are summed at once: what a core's cache holds is summed in half the time.
SUMMED_LOGITS = 1_000_000
# Positions of one pass: more keeps no core busier, and no cache holds what they need.
PASS_POSITIONS = 640
# Values of recorded streams kept for later layers (128 MB of float32, twice while they move up); with more,
# each layer starts anew.
KEPT_STREAM = 32_000_000


# (arm, layer) -> the fault of what acts there, as long as no text was changed; a single text need not be, as
# its last token, which may be all that is acted on, is not run.
Idle = dict[tuple[int, int], VectorError | None]


@dataclass(frozen=True)
class Job:
    """One text under one arm: which text, the positions to predict from, which arm, and what it adds."""

    text: int
    kept: Sequence[int]
    arm: int = 0
    placed: Placed = NOTHING


@dataclass(frozen=True)
class Texts:
    """Token ids of texts, the longest first, and their streams entering block `layer` where they are kept."""

    ids: tuple[tuple[int, ...], ...]
    layer: int = 0
    streams: tuple[Tensor, ...] | None = None

    def batches(self) -> Iterator[range]:
        """Texts of nearly one length; depends on nothing but the texts."""
        start = 0
        while start < len(self.ids):
            count = max(1, PASS_POSITIONS // max(1, len(self.ids[start])))
            yield range(start, min(start + count, len(self.ids)))
            start += count


def texts_at(model: Model, texts: Texts, layer: int) -> Texts:
    """The texts with their streams entering block `layer`, reached from where they are kept now.

    Beyond KEPT_STREAM no stream is kept, so that memory does not grow with the corpus.
    """
    positions = sum(len(texts.ids[batch.start]) * len(batch) for batch in texts.batches())
    if positions * model.width > KEPT_STREAM:
        return Texts(texts.ids, layer)
    if texts.streams is None or texts.layer > layer:
        streams = tuple(_recorded(model, texts, batch, layer) for batch in texts.batches())
    else:
        streams = tuple(advance(model, texts.layer, stream, layer) for stream in texts.streams)
    return Texts(texts.ids, layer, streams)


def _recorded(model: Model, texts: Texts, batch: range, layer: int) -> Tensor:
    # The last token is predicted but predicts nothing. What stands to the right of a text cannot reach it.
    longest = max(1, len(texts.ids[batch.start]) - 1)
    cut = [texts.ids[text][:-1] or texts.ids[text] for text in batch]
    rows = [row + row[-1:] * (longest - len(row)) for row in cut]
    return record(model, torch.tensor(rows), [layer])[layer]


@torch.inference_mode()
def logprobs(
    model: Model, texts: Texts, jobs_of: Callable[[int], Iterable[Job]]
) -> Iterator[tuple[Job, Tensor]]:
    """Log probability of the token behind each position that a job keeps.

    Args:
        texts: as `texts_at` gives them for a layer that is no deeper than any that a job changes.
        jobs_of: the jobs of a text, asked for when its batch is reached.

    Returns:
        Each job with [kept], float64 on the CPU, as passes are done.

    Raises:
        VectorError: log probabilities are not finite any more, or what an arm adds at a layer has changed
            none of the texts.
    """
    idle: Idle = {}
    for index, batch in enumerate(texts.batches()):
        # All arms of a text together, so that a pass holds texts of one length.
        jobs = (job for text in batch for job in jobs_of(text))
        stream = texts.streams[index] if texts.streams else None
        for first in jobs:
            if stream is None:
                stream = _recorded(model, texts, batch, texts.layer)
            count = max(1, PASS_POSITIONS // max(1, len(texts.ids[first.text]) - 1))
            part = [first, *islice(jobs, count - 1)]
            changes = Changes([len(texts.ids[job.text]) - 1 for job in part])
            yield from zip(part, _scored(model, texts, batch, stream, part, changes), strict=True)
            _note(idle, part, changes)
    for error in idle.values():
        if error is not None:
            raise error


def _note(idle: Idle, jobs: Sequence[Job], changes: Changes) -> None:
    missing = set(changes.missing([job.placed.acting for job in jobs]))
    for row, job in enumerate(jobs):
        for layer, placements in job.placed.acting.items():
            if (row, layer) not in missing:
                idle[job.arm, layer] = None
            elif (job.arm, layer) not in idle:
                idle[job.arm, layer] = lost(placements, layer, changes.dtype)


def _scored(
    model: Model, texts: Texts, batch: range, stream: Tensor, jobs: Sequence[Job], changes: Changes
) -> Sequence[Tensor]:
    longest = max(1, len(texts.ids[jobs[0].text]) - 1)
    rows = stream[[job.text - batch.start for job in jobs], :longest]  # [jobs, longest, width]
    last = advance(model, texts.layer, rows, model.depth, _deltas(model, jobs, longest), changes.see)
    places = [(row, position) for row, job in enumerate(jobs) for position in job.kept]
    wanted = [texts.ids[jobs[row].text][position + 1] for row, position in places]
    # Only positions that count are read out: the vocabulary is the widest part of a pass.
    at_row, at_position = torch.tensor(places, dtype=torch.long, device=last.device).reshape(-1, 2).T
    chosen = _chosen(model, last[at_row, at_position], torch.tensor(wanted, dtype=torch.long))
    if not chosen.isfinite().all():
        raise VectorError("the steered logits are not finite; use a smaller coefficient or --dtype float32")
    return chosen.split([len(job.kept) for job in jobs])


def _chosen(model: Model, stream: Tensor, wanted: Tensor) -> Tensor:
    """Log probability of one token a position, [positions], float64; at most LOGITS are held."""
    parts = max(1, -(-len(stream) * model.vocabulary // LOGITS))
    values = [torch.zeros(0, dtype=torch.float64)]
    for rows, ids in zip(stream.tensor_split(parts), wanted.tensor_split(parts), strict=True):
        if len(rows):
            logits = read_out(model, rows)
            likely = logits.gather(1, ids[:, None].to(logits.device)).squeeze(1).float()
            values.append((likely - _log_sums(logits)).cpu().double())
    return torch.cat(values)


def _log_sums(logits: Tensor) -> Tensor:
    """ln of the sum of exponentials of each row, [positions], float32."""
    if logits.device.type != "cpu":
        return logits.float().logsumexp(-1)
    rows = logits.split(max(1, SUMMED_LOGITS // logits.shape[1]))
    return torch.cat([some.float().logsumexp(-1) for some in rows])


def _deltas(model: Model, jobs: Sequence[Job], positions: int) -> dict[int, Made]:
    """layer -> makes what a pass of the jobs adds there, [jobs, positions, width]."""
    layers = sorted({layer for job in jobs for layer in job.placed.layers})
    return {layer: partial(_delta, model, jobs, layer, positions) for layer in layers}


def _delta(model: Model, jobs: Sequence[Job], layer: int, positions: int) -> Tensor:
    # A span may cover the last token too, which predicts nothing and is not run.
    whole = torch.zeros(len(jobs), positions + 1, model.width, device=model.device)
    made: dict[tuple, Tensor] = {}  # an arm often adds the same to many texts
    for row, job in zip(whole, jobs, strict=True):
        key = (job.arm, job.placed.spans)
        if key in made:
            row.copy_(made[key])
        else:
            job.placed.add_to(row, layer)
            made[key] = row
    return whole[:, :positions]


def next_logits(model: Model, prompt: Sequence[int], arms: Sequence[Placed], at: int) -> Tensor:
    """Logits of the token behind position `at` of one prompt, for each arm; an empty one is unsteered.

    Returns:
        [arms, vocabulary], float32 on the CPU.

    Raises:
        VectorError: logits are not finite any more, or what an arm adds at a layer changes nothing.
    """
    start = min((layer for arm in arms for layer in arm.layers), default=0)
    stream = record(model, torch.tensor([list(prompt)]), [start])[start]
    jobs = [Job(0, (at,), number, arm) for number, arm in enumerate(arms)]
    size = max(1, PASS_POSITIONS // len(prompt))
    parts = []
    for first in range(0, len(jobs), size):
        part = jobs[first : first + size]
        rows = stream.expand(len(part), -1, -1)
        changes = Changes([at + 1] * len(part))
        last = advance(model, start, rows, model.depth, _deltas(model, part, len(prompt)), changes.see)
        for row, layer in changes.missing([job.placed.acting for job in part]):
            raise _without_effect(part[row].placed.acting[layer], layer, at, changes)
        parts.append(read_out(model, last[:, at]).float().cpu())
    logits = torch.cat(parts)
    if not logits.isfinite().all():
        raise VectorError("the steered logits are not finite; use a smaller coefficient or --dtype float32")
    return logits


def _without_effect(placements: Sequence[Placement], layer: int, at: int, changes: Changes) -> VectorError:
    within = [placement for placement in placements if placement.start < min(placement.end, at + 1)]
    return lost(within, layer, changes.dtype) if within else out_of_reach(placements, at)
