"""Decode: all samples of all arms of all prompts, in one batch that is kept full.

Rows leave the batch when they end and others take their place, so the work is the same for one prompt and
for thousands. This module does not know recipes or texts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from steer_cli.decoding.batch import Batch
from steer_cli.decoding.kv_cache import slot_bytes
from steer_cli.decoding.prefill import Job, Started, prefill
from steer_cli.decoding.request import Row, Task
from steer_cli.models.load import Model
from steer_cli.recipe.schema import Sampling
from steer_cli.steering.effect import out_of_reach

# Positions of one prefill pass, and memory for the rows that decode together.
PREFILL_POSITIONS = 2048
ROWS_MEMORY = 768_000_000  # bytes; on a GPU half of what is free
MOST_ROWS = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True)
class Finished:
    """A job with its completions: for each arm one row a sample."""

    started: Started
    rows: tuple[tuple[Row, ...], ...]


def row_budget(model: Model, like: Started, capacity: int) -> int:
    """Rows whose keys, values, logits and counts fit the memory for rows."""
    each = slot_bytes(like.prefixes[0], capacity) + 16 * model.vocabulary
    memory = ROWS_MEMORY
    if model.device.type == "cuda":
        memory = torch.cuda.mem_get_info(model.device)[0] // 2
    return max(1, min(MOST_ROWS.get(model.device.type, 64), memory // each))


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
    pack: bool = True,
) -> Iterator[Finished]:
    """Sample completions of every arm of every job, and give them in the order of the jobs.

    Jobs may differ in the number of their arms.

    Sample i of each arm draws with the same uniform numbers, made from (seed, i) alone.

    Args:
        longest_prompt: positions of the longest prompt among the jobs.
        batch_rows: rows that decode together; None fits them to a memory budget.
        ended: told how many rows have ended since it was last called.
        fixed: run every step at one shape, as a CUDA graph needs; None where a graph can be used.
        pack: hold the weights twice where that is quicker.
    """
    waiting, tasks = _Queue(jobs), deque()
    capacity = longest_prompt + sampling.max_new_tokens
    first = _start(model, waiting, 1, sampling)
    if not first:
        return
    tasks.extend(first)
    arms = first[0].arms
    fixed = model.on_one_gpu if fixed is None else fixed
    rows = batch_rows or row_budget(model, first[0].started, capacity)
    if waiting.peek() is None:
        rows = min(rows, arms * sampling.samples)  # all that there are
    rows = max(arms, rows - rows % arms)
    batch = Batch(model, first[0].started, rows, capacity, sampling, eos, fixed, pack)
    while True:
        while (task := _not_begun(tasks)) is not None or batch.free >= arms:
            if task is None:
                # One prefill pass for as many prompts as fill the batch, although a single row may have
                # ended: a pass for each would take as long as the rows themselves.
                more = _start(model, waiting, max(1, rows // (arms * sampling.samples)), sampling)
                if not more:
                    break
                tasks.extend(more)
                continue
            if batch.free < task.arms:
                if batch.running:
                    break
                # The batch was made for jobs of fewer arms.
                batch = Batch(model, task.started, task.arms, capacity, sampling, eos, fixed, pack)
            batch.admit(task, min(batch.free // task.arms, task.samples - task.begun))
        if not batch.running:
            return
        ended(batch.step())
        while tasks and (rows_by_arm := tasks[0].by_arm()):
            yield Finished(tasks.popleft().started, rows_by_arm)


def _not_begun(tasks: Iterable[Task]) -> Task | None:
    """The first task of which some samples wait for room."""
    return next((task for task in tasks if task.begun < task.samples), None)


class _Queue:
    """Jobs that can be looked at before they are taken."""

    def __init__(self, jobs: Iterable[Job]):
        self._jobs = iter(jobs)
        self._next: Job | None = None

    def peek(self) -> Job | None:
        if self._next is None:
            self._next = next(self._jobs, None)
        return self._next

    def take(self) -> Job:
        job, self._next = self.peek(), None
        return job


def _start(model: Model, waiting: _Queue, count: int, sampling: Sampling) -> list[Task]:
    jobs: list[Job] = []
    rows = longest = 0
    while len(jobs) < count and (job := waiting.peek()) is not None:
        rows, longest = rows + len(job.arms), max(longest, len(job.prompt))
        if jobs and rows * longest > PREFILL_POSITIONS:
            break
        for later in (later for arm in job.arms for later in arm.acting_later.values()):
            if sampling.max_new_tokens == 1:  # which is drawn and not run
                raise out_of_reach(later, len(job.prompt) - 1)
        jobs.append(waiting.take())
    return [Task(started, sampling.samples) for started in prefill(model, jobs)] if jobs else []
