"""Decode: all samples of all arms of all prompts, in one batch that is kept full.

Rows leave the batch when they end and others take their place, so the work is the same for one prompt and
for thousands. This module does not know recipes or texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from steer_cli.model import Model
from steer_cli.prefill import Job, Started, prefill, stacked
from steer_cli.recipe import Sampling
from steer_cli.residual import inject
from steer_cli.sampling import draw, exact, token_counts, uniforms
from steer_cli.slots import Slots, slot_bytes
from steer_cli.step import decode_step

# Positions of one prefill pass, and memory for the rows that decode together.
PREFILL_POSITIONS = 2048
ROWS_MEMORY = 768_000_000  # bytes
MOST_ROWS = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True)
class Row:
    """One completion: token ids with the EOS that ended it, if one did."""

    ids: tuple[int, ...]
    finish: str  # eos or length


@dataclass(frozen=True)
class Finished:
    """A job with its completions: for each arm one row a sample."""

    started: Started
    rows: tuple[tuple[Row, ...], ...]


@dataclass
class _Task:
    """A job on its way: samples not yet begun, rows not yet ended."""

    started: Started
    samples: int
    begun: int = 0
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)  # (arm, sample) -> row

    @property
    def arms(self) -> int:
        return len(self.started.job.arms)

    def finished(self) -> Finished | None:
        if len(self.rows) < self.arms * self.samples:
            return None
        by_arm = (tuple(self.rows[arm, sample] for sample in range(self.samples)) for arm in range(self.arms))
        return Finished(self.started, tuple(by_arm))


def row_budget(model: Model, like: Started, capacity: int) -> int:
    """Rows whose keys, values, logits and counts fit the memory for rows."""
    each = slot_bytes(like.prefixes[0], capacity) + 16 * model.vocabulary
    return max(1, min(MOST_ROWS.get(model.device.type, 64), ROWS_MEMORY // each))


@torch.inference_mode()
def generate(
    model: Model,
    jobs: Iterable[Job],
    sampling: Sampling,
    eos: Sequence[int],
    longest_prompt: int,
    batch_rows: int | None = None,
    ended: Callable[[int], None] = lambda _: None,
    fixed: bool | None = None,
) -> Iterator[Finished]:
    """Sample completions of every arm of every job, and give them in the order of the jobs.

    Sample i of each arm draws with the same uniform numbers, made from (seed, i) alone.

    Args:
        longest_prompt: positions of the longest prompt among the jobs.
        batch_rows: rows that decode together; None fits them to a memory budget.
        ended: told how many rows have ended since it was last called.
        fixed: run every step at one shape, as a CUDA graph needs; None where a graph can be used.
    """
    waiting, tasks = iter(jobs), deque()
    capacity = longest_prompt + sampling.max_new_tokens
    first = _start(model, waiting, 1, sampling)
    if not first:
        return
    tasks.extend(first)
    arms = first[0].arms
    fixed = model.on_one_gpu if fixed is None else fixed
    rows = batch_rows or row_budget(model, first[0].started, capacity)
    batch = _Batch(model, first[0].started, max(arms, rows - rows % arms), capacity, sampling, eos, fixed)
    while True:
        while batch.free >= arms:
            task = next((task for task in tasks if task.begun < task.samples), None)
            if task is not None:
                batch.admit(task, min(batch.free // arms, task.samples - task.begun))
                continue
            # One prefill pass for as many prompts as there is room for.
            more = _start(model, waiting, -(-batch.free // (arms * sampling.samples)), sampling)
            if not more:
                break
            tasks.extend(more)
        if not batch.used:
            return
        ended(batch.step())
        while tasks and (finished := tasks[0].finished()):
            tasks.popleft()
            yield finished


def _start(model: Model, waiting: Iterator[Job], count: int, sampling: Sampling) -> list[_Task]:
    jobs: list[Job] = []
    positions = 0
    for job in islice(waiting, count):
        jobs.append(job)
        positions += len(job.arms) * len(job.prompt)
        if positions >= PREFILL_POSITIONS:
            break
    return [_Task(started, sampling.samples) for started in prefill(model, jobs)] if jobs else []


class _Batch:
    """The rows that decode together. The first `used` slots are running, the others free."""

    def __init__(
        self,
        model: Model,
        like: Started,
        rows: int,
        capacity: int,
        sampling: Sampling,
        eos: Sequence[int],
        fixed: bool,
    ):
        self._model, self._sampling = model, sampling
        self._slots = Slots(model, like.prefixes[0], rows, capacity, fixed)
        self._owners: list[tuple[_Task, int, int]] = []  # (task, arm, sample) of each running row
        self._lengths: list[int] = []  # of each running row, as on the device
        self._eos = torch.tensor(sorted(eos), dtype=torch.long, device=model.device)
        steps = sampling.max_new_tokens
        self._drawn = torch.zeros(rows, steps, dtype=torch.long, device=model.device)
        self._number = torch.zeros(rows, dtype=torch.long, device=model.device)  # tokens drawn so far
        self._uniform = torch.zeros(rows, steps, dtype=exact(model.device), device=model.device)
        self._logits = torch.zeros(rows, like.logits.shape[1], device=model.device)
        self._counts = torch.zeros_like(self._logits) if sampling.frequency_penalty != 0 else None
        layers = sorted({layer for arm in like.job.arms for layer in arm.decode})
        self._deltas = {layer: torch.zeros(rows, 1, model.width, device=model.device) for layer in layers}
        self._decode = decode_step(model, self._slots)

    @property
    def used(self) -> int:
        return len(self._owners)

    @property
    def free(self) -> int:
        return self._slots.rows - self.used

    def admit(self, task: _Task, samples: int) -> None:
        """Begin the next samples of a task, a row for each arm."""
        job, sampling = task.started.job, self._sampling
        numbers = range(task.begun, task.begun + samples)
        task.begun += samples
        uniform = uniforms(sampling.seed, numbers, sampling.max_new_tokens).to(self._model.device)
        first = self.used
        for index, sample in enumerate(numbers):
            for arm, prefix in enumerate(task.started.prefixes):
                slot = self.used
                self._slots.fill(slot, prefix, len(job.prompt))
                self._uniform[slot] = uniform[index]
                self._owners.append((task, arm, sample))
                self._lengths.append(len(job.prompt))
        rows = slice(first, self.used)
        self._number[rows] = 0
        self._logits[rows] = task.started.logits.repeat(samples, 1)
        if self._counts is not None:
            ids = torch.tensor([job.prompt], device=self._model.device)
            self._counts[rows] = token_counts(ids, self._counts.shape[1])
        for delta in self._deltas.values():
            delta[rows] = 0  # a job of other arms may have had these slots
        one_row = [{layer: delta[None] for layer, delta in arm.decode.items()} for arm in job.arms]
        for layer, delta in stacked(one_row, (1, self._model.width), self._model).items():
            self._deltas[layer][rows] = delta.repeat(samples, 1, 1)

    def step(self) -> int:
        """Draw one token in every running row and run the rows that go on; returns how many ended."""
        used, number = self.used, self._number[: self.used]
        rows = torch.arange(used, device=self._model.device)
        counts = None if self._counts is None else self._counts[:used]
        token = draw(self._logits[:used], counts, self._sampling, self._uniform[rows, number])
        self._drawn[rows, number] = token
        number += 1
        at_eos = torch.isin(token, self._eos)
        over = (at_eos | (number == self._sampling.max_new_tokens)).tolist()  # the one wait for the device
        gone = [row for row in range(used) if over[row]]
        if gone:
            self._leave(gone, at_eos.tolist())
        if self.used:
            self._forward()
        return len(gone)

    def _leave(self, gone: Sequence[int], at_eos: Sequence[bool]) -> None:
        for row in gone:
            task, arm, sample = self._owners[row]
            ids = tuple(self._drawn[row, : int(self._number[row])].tolist())
            task.rows[arm, sample] = Row(ids, "eos" if at_eos[row] else "length")
        # The last running row moves into each gap, the highest gap first, so that it is one that goes on.
        for row in sorted(gone, reverse=True):
            last = self.used - 1
            if row != last:
                self._move(last, row)
                self._owners[row], self._lengths[row] = self._owners[last], self._lengths[last]
            self._owners.pop()
            self._lengths.pop()

    def _move(self, source: int, target: int) -> None:
        self._slots.move(source, target)
        tensors = [self._drawn, self._number, self._uniform, *self._deltas.values()]
        for tensor in tensors if self._counts is None else [*tensors, self._counts]:
            tensor[target] = tensor[source]

    def _forward(self) -> None:
        used = self.used
        token = self._drawn[torch.arange(used, device=self._model.device), self._number[:used] - 1]
        if self._counts is not None:
            self._counts[:used].scatter_add_(
                1, token[:, None], torch.ones_like(token[:, None], dtype=torch.float32)
            )
        self._slots.begin_step(used, max(self._lengths))
        # Only the position `every` acts on new tokens; without it there is no hook and no cost. The hooks
        # do not outlive the step, since whoever takes the results may run the model too.
        deltas = {layer: delta[: self._slots.used] for layer, delta in self._deltas.items()}
        with inject(self._model, deltas):
            self._logits[:used] = self._decode(token)[:used]
        self._slots.end_step()
        self._lengths = [length + 1 for length in self._lengths]
