"""Log probabilities of texts under many arms: length-sorted batches that begin at a recorded stream.

A text's unsteered stream is recorded once; every arm runs from the first block that it changes. This module
does not know what texts mean or how their figures are put together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steer_cli.errors import VectorError
from steer_cli.model import Model
from steer_cli.residual import advance, record, resume

# Logits held at once: 128 MB of float32. What a pass needs besides is small against it.
LOGITS = 32_000_000
# Positions of one pass: more keeps no core busier.
PASS_POSITIONS = 2048
# Values of recorded streams kept for later layers (256 MB of float32); with more, each layer starts anew.
KEPT_STREAM = 64_000_000

Deltas = Mapping[int, Tensor]  # layer -> [positions, width]; zeros beyond the text's end or nothing


@dataclass(frozen=True)
class Job:
    """One text under one arm: which text, what is added where, and the first position to predict from."""

    text: int
    deltas: Deltas
    first: int = 0


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
def logprobs(model: Model, texts: Texts, jobs: Sequence[Job]) -> list[Tensor]:
    """Log probability of every token of a text but the first, for each job.

    Args:
        texts: as `texts_at` gives them for a layer that is no deeper than any that a job changes.

    Returns:
        For each job [tokens - 1], float64 on the CPU; NaN before the job's first position.

    Raises:
        VectorError: log probabilities are not finite any more.
    """
    results: list[Tensor | None] = [None] * len(jobs)
    waiting: dict[int, list[int]] = {}
    for number, job in enumerate(jobs):
        waiting.setdefault(job.text, []).append(number)
    for index, batch in enumerate(texts.batches()):
        numbers = [number for text in batch for number in waiting.get(text, ())]
        if not numbers:
            continue
        stream = texts.streams[index] if texts.streams else _recorded(model, texts, batch, texts.layer)
        for part in _parts(model, texts, jobs, numbers):
            for number, values in zip(
                part, _scored(model, texts, batch, stream, [jobs[n] for n in part]), strict=True
            ):
                results[number] = values
    return results


def _parts(model: Model, texts: Texts, jobs: Sequence[Job], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Jobs of one pass: as many as its logits allow."""
    at = 0
    while at < len(numbers):
        longest = max(1, len(texts.ids[jobs[numbers[at]].text]) - 1)
        count = max(1, min(PASS_POSITIONS // longest, LOGITS // (longest * model.vocabulary)))
        yield list(numbers[at : at + count])
        at += count


def _scored(model: Model, texts: Texts, batch: range, stream: Tensor, jobs: Sequence[Job]) -> list[Tensor]:
    ids = [texts.ids[job.text] for job in jobs]
    longest = max(1, max(map(len, ids)) - 1)
    first = min(min(job.first for job in jobs), longest - 1)
    rows = stream[[job.text - batch.start for job in jobs], :longest]  # [jobs, longest, width]
    deltas = {
        layer: torch.stack([_fitted(job.deltas.get(layer), rows[0]) for job in jobs])
        for layer in sorted({layer for job in jobs for layer in job.deltas})
    }
    logits = resume(model, texts.layer, rows, deltas, range(first, longest))
    values = []
    for row, job, scores in zip(ids, jobs, logits, strict=True):
        count = len(row) - 1
        scored = torch.full((count,), float("nan"), dtype=torch.float64)
        wanted = torch.tensor(row[job.first + 1 :], device=scores.device, dtype=torch.long)
        scores = scores[job.first - first : count - first].float()
        chosen = scores.gather(1, wanted[:, None]).squeeze(1) - scores.logsumexp(-1)
        if not chosen.isfinite().all():
            raise VectorError(
                "the steered logits are not finite; use a smaller coefficient or --dtype float32"
            )
        scored[job.first :] = chosen.double().cpu()
        values.append(scored)
    return values


def _fitted(delta: Tensor | None, like: Tensor) -> Tensor:
    """[positions, width] of a text's delta, cut or filled with zeros to the batch's length."""
    whole = torch.zeros(like.shape, device=like.device)
    if delta is not None:
        whole[: len(delta)] = delta[: len(like)]
    return whole


def next_logits(model: Model, prompt: Sequence[int], arms: Sequence[Deltas], at: int) -> Tensor:
    """Logits of the token behind position `at` of one prompt, for each arm.

    Args:
        arms: what is added, layer -> [positions of the prompt, width]; an empty one is unsteered.

    Returns:
        [arms, vocabulary], float32.
    """
    layers = sorted({layer for arm in arms for layer in arm})
    start = layers[0] if layers else 0
    stream = record(model, torch.tensor([list(prompt)]), [start])[start]
    size = max(1, PASS_POSITIONS // len(prompt))
    parts = []
    for first in range(0, len(arms), size):
        part = arms[first : first + size]
        deltas = {
            layer: torch.stack([_fitted(arm.get(layer), stream[0]) for arm in part]) for layer in layers
        }
        rows = stream.expand(len(part), -1, -1)
        parts.append(resume(model, start, rows, deltas, range(at, at + 1))[:, 0].float())
    logits = torch.cat(parts)
    if not logits.isfinite().all():
        raise VectorError("the steered logits are not finite; use a smaller coefficient or --dtype float32")
    return logits
