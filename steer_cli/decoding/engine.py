"""Decode all samples of all arms of all prompts, in one batch that is kept full.

When a row ends, another takes its place, so thousands of prompts run as efficiently as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from steer_cli.activations.effect import out_of_reach
from steer_cli.decoding.batch import Batch
from steer_cli.decoding.kv_cache import slot_bytes
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Decoded, Request, SampleGroup, Started
from steer_cli.networks.network import Network
from steer_cli.recipe.sampling import Sampling

# Positions per prefill pass, and memory for the rows that decode together.
PREFILL_POSITIONS = 2048
ROWS_MEMORY = 768_000_000  # bytes; on a GPU, half of the free memory
MOST_ROWS = {"cpu": 64, "cuda": 256}

# Told of the requests that have been prefilled and not given back, the oldest first.
Watch = Callable[[Iterable[SampleGroup]], None]


@dataclass(frozen=True)
class Finished:
    """A request and its completions: for each arm, its samples in order."""

    started: Started
    arms: tuple[tuple[Decoded, ...], ...]


def row_budget(network: Network, like: Started, capacity: int) -> int:
    """How many rows' keys, values, logits and counts fit the memory budget."""
    per_row = slot_bytes(like.prefixes[0], capacity) + 16 * network.vocabulary
    memory = ROWS_MEMORY
    if network.device.type == "cuda":
        memory = torch.cuda.mem_get_info(network.device)[0] // 2
    return max(1, min(MOST_ROWS.get(network.device.type, 64), memory // per_row))


@torch.inference_mode()
def decode(
    network: Network,
    requests: Iterable[Request],
    sampling: Sampling,
    eos: Sequence[int],
    longest_prompt: int,
    batch_rows: int | None = None,
    ended: Callable[[int], None] = lambda _: None,
    fixed: bool | None = None,
    watch: Watch | None = None,
) -> Iterator[Finished]:
    """Sample completions of every arm of every request, and yield them in the order of the requests.

    Requests may differ in their number of arms. Sample i of every arm draws with the same uniform numbers,
    which depend only on (seed, i).

    Args:
        longest_prompt: positions of the longest prompt among the requests.
        batch_rows: rows that decode together; None fits them to a memory budget.
        ended: called with the number of rows that have ended since the last call.
        fixed: run every step at one shape, as a CUDA graph needs; None means only where one can be used.
        watch: called after each step's draw with what is under way, see `SampleGroup.first_by_arm`.
    """
    waiting = _Queue(requests)
    groups: deque[SampleGroup] = deque(_start(network, waiting, 1, sampling))
    if not groups:
        return
    capacity = longest_prompt + sampling.max_new_tokens
    arms = groups[0].arms
    fixed = network.on_one_gpu if fixed is None else fixed
    rows = batch_rows or row_budget(network, groups[0].started, capacity)
    if waiting.peek() is None:
        rows = min(rows, arms * sampling.samples)  # no more than there are
    rows = max(arms, rows - rows % arms)
    settings = (capacity, sampling, eos, fixed, None if watch is None else partial(watch, groups))
    batch = Batch(network, groups[0].started, rows, *settings)
    while True:
        while (group := _not_begun(groups)) is not None or batch.free >= arms:
            if group is None:
                # Prefill as many prompts as fill the batch in one pass, even if only one row has ended: a
                # pass for each prompt would take as long as decoding the rows.
                more = _start(network, waiting, max(1, rows // (arms * sampling.samples)), sampling)
                if not more:
                    break
                groups.extend(more)
                continue
            if batch.free < group.arms:
                if batch.running:
                    break
                # The batch was made for requests of fewer arms.
                batch = Batch(network, group.started, group.arms, *settings)
            batch.admit(group, min(batch.free // group.arms, group.samples - group.begun))
        if not batch.running:
            return
        ended(batch.step())
        while groups and (by_arm := groups[0].by_arm()):
            yield Finished(groups.popleft().started, by_arm)


def _not_begun(groups: Iterable[SampleGroup]) -> SampleGroup | None:
    """The first group with samples that have not begun."""
    return next((group for group in groups if group.begun < group.samples), None)


class _Queue:
    """A queue of requests that allows looking ahead."""

    def __init__(self, requests: Iterable[Request]):
        self._requests = iter(requests)
        self._next: Request | None = None

    def peek(self) -> Request | None:
        if self._next is None:
            self._next = next(self._requests, None)
        return self._next

    def take(self) -> None:
        self._next = None


def _start(network: Network, waiting: _Queue, count: int, sampling: Sampling) -> list[SampleGroup]:
    requests: list[Request] = []
    rows = longest = 0
    while len(requests) < count and (request := waiting.peek()) is not None:
        rows, longest = rows + len(request.arms), max(longest, len(request.prompt))
        if requests and rows * longest > PREFILL_POSITIONS:
            break
        for later in (later for arm in request.arms for later in arm.acting_later.values()):
            if sampling.max_new_tokens == 1:  # this token is drawn but not run
                raise out_of_reach(later, len(request.prompt) - 1)
        requests.append(request)
        waiting.take()
    return (
        [SampleGroup(started, sampling.samples) for started in prefill(network, requests)] if requests else []
    )
