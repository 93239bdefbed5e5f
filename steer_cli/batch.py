"""The rows that decode together: they enter with a prefilled prompt, draw a token a step, and leave.

This module does not know which rows come next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from steer_cli.errors import VectorError
from steer_cli.model import Model
from steer_cli.prefill import Started
from steer_cli.recipe import Sampling
from steer_cli.sampling import exact, glance, look_again, token_counts, uniforms
from steer_cli.slots import Slots
from steer_cli.step import decode_step
from steer_cli.task import Row, Task


class _Sample(NamedTuple):
    """One of the rows of a batch: sample number `sample` of an arm of a task."""

    task: Task
    arm: int
    sample: int
    seat: int  # where its uniform numbers are


@dataclass(frozen=True)
class _Drawn:
    """What each row of the batch has drawn in one step, in the order of the rows."""

    tokens: Tensor
    ids: list[int]  # the same on the host
    over: list[bool]
    at_eos: list[bool]


class Batch:
    """The rows that decode together. The first slots are running, the others free.

    Samples of an arm that have drawn the same tokens so far are one row of the network: they share a slot,
    and each draws from the same logits by its own uniform number. They part when they draw differently.

    Args:
        like: any job of those to come, for shapes.
        rows: most samples of all arms at a time.
        capacity: most positions of a row.
        fixed: run every step over all slots, a slot for each sample.
        pack: hold the weights twice where that is quicker.
    """

    def __init__(
        self,
        model: Model,
        like: Started,
        rows: int,
        capacity: int,
        sampling: Sampling,
        eos: Sequence[int],
        fixed: bool,
        pack: bool,
    ):
        self._model, self._sampling, self._apart = model, sampling, fixed
        self._slots = Slots(model, like.prefixes[0], rows, capacity, fixed)
        self._samples: list[list[_Sample]] = []  # of each running slot, those that have drawn the same so far
        self._lengths: list[int] = []  # of each running slot, as on the device
        self._free_seats = list(range(rows))
        self._eos = torch.tensor(sorted(eos), dtype=torch.long, device=model.device)
        steps = sampling.max_new_tokens
        self._uniform = torch.zeros(rows, steps, dtype=exact(model.device), device=model.device)  # of a seat
        # All others are of a slot.
        self._drawn = torch.zeros(rows, steps, dtype=torch.long, device=model.device)
        self._number = torch.zeros(rows, dtype=torch.long, device=model.device)  # tokens drawn so far
        self._logits = torch.zeros(rows, like.logits.shape[1], device=model.device)
        self._counts = torch.zeros_like(self._logits) if sampling.frequency_penalty != 0 else None
        self._deltas: dict[int, Tensor] = {}  # what is added at every new token, [slots, width]
        self._decode = decode_step(model, self._slots, steps if pack else 0)

    @property
    def used(self) -> int:
        return self._slots.rows - self.free

    @property
    def free(self) -> int:
        return len(self._free_seats)

    def admit(self, task: Task, samples: int) -> None:
        """Begin the next samples of a task, in each arm."""
        job, steps = task.started.job, self._sampling.max_new_tokens
        numbers = range(task.begun, task.begun + samples)
        task.begun += samples
        uniform = uniforms(self._sampling.seed, numbers, steps).to(self._uniform)
        for arm in range(task.arms):
            rows = [_Sample(task, arm, sample, self._free_seats.pop()) for sample in numbers]
            self._uniform[[row.seat for row in rows]] = uniform
            together = [[row] for row in rows] if self._apart else [rows]
            first = len(self._samples)
            slots = slice(first, first + len(together))
            self._samples += together
            self._lengths += [len(job.prompt)] * len(together)
            self._slots.fill(slots, task.started.prefixes[arm], len(job.prompt))
            self._number[slots] = 0
            self._logits[slots] = task.started.logits[arm]
            if self._counts is not None:
                ids = torch.tensor([job.prompt], device=self._model.device)
                self._counts[slots] = token_counts(ids, self._counts.shape[1])
            self._add_in(slots, job.arms[arm].decode)
        self._arrange()

    def _add_in(self, slots: slice, decode: Mapping[int, Tensor]) -> None:
        for layer in decode.keys() - self._deltas.keys():
            like = decode[layer]
            self._deltas[layer] = torch.zeros(self._slots.rows, *like.shape, device=self._model.device)
        for layer, delta in self._deltas.items():
            # A job of other arms may have had these slots.
            delta[slots] = decode.get(layer, 0)

    def _arrange(self) -> None:
        """Note on the device whose numbers each row draws by, and in which slot it is."""
        rows = [(row.seat, slot) for slot, samples in enumerate(self._samples) for row in samples]
        if rows:
            self._seats, self._at = torch.tensor(rows, device=self._model.device).T

    def step(self) -> int:
        """Draw one token in every row and run the rows that go on; returns how many ended."""
        before, drawn = self.used, self._draw()
        tokens = drawn.tokens
        if self.used > len(self._samples) or any(drawn.over):
            tokens = self._part(drawn)
        if self._samples:
            self._forward(tokens)
        return before - self.used

    def _draw(self) -> _Drawn:
        slots, rows = len(self._samples), self.used
        # The common case needs no copy of the logits: a slot for each row.
        at = slice(slots) if slots == rows else self._at
        logits, number = self._logits[at], self._number[at]
        counts = None if self._counts is None else self._counts[at]
        drawing = (logits, counts, self._sampling, self._uniform[self._seats, number])
        token, enough = glance(*drawing)
        at_eos, last = self._is_eos(token), number + 1 == self._sampling.max_new_tokens
        # The one wait for the device, but for the rare steps in which a glance is not enough.
        ids, eos, full, seen = torch.stack([token, at_eos, last, enough]).tolist()
        if not all(seen):
            if not logits.amax(-1).isfinite().all():
                raise VectorError(
                    "the logits are not finite any more; use a smaller coefficient or --dtype float32"
                )
            token = look_again(token, enough, *drawing)
            ids, eos = torch.stack([token, self._is_eos(token)]).tolist()
        over = [bool(end or stop) for end, stop in zip(eos, full, strict=True)]
        return _Drawn(token, ids, over, [bool(end) for end in eos])

    def _is_eos(self, tokens: Tensor) -> Tensor:
        return (tokens[:, None] == self._eos).any(-1)

    def _part(self, drawn: _Drawn) -> Tensor:
        """Let rows go that are over, and those that drew differently into slots of their own.

        Returns:
            The token of each slot that goes on.
        """
        parts: list[dict[int, list[_Sample]]] = []  # of each slot: token -> the samples that drew it
        row = 0
        for slot, samples in enumerate(self._samples):
            parts.append({})
            for sample in samples:
                if drawn.over[row]:
                    self._end(sample, slot, drawn.ids[row], drawn.at_eos[row])
                else:
                    parts[slot].setdefault(drawn.ids[row], []).append(sample)
                row += 1
        # Where each slot comes from. The last one moves into the gap of one that nobody is left in, the
        # highest gap first, so that it is one that goes on.
        origin = list(range(len(parts)))
        for slot in reversed(origin.copy()):
            if not parts[slot]:
                parts[slot], origin[slot] = parts[-1], origin[-1]
                del parts[-1], origin[-1]
        tokens = [next(iter(part)) for part in parts]
        self._samples = [part[token] for part, token in zip(parts, tokens, strict=True)]
        for slot, part in enumerate(parts):
            for token in list(part)[1:]:
                tokens.append(token)
                self._samples.append(part[token])
                origin.append(origin[slot])
        self._copy(origin)
        self._arrange()
        return torch.tensor(tokens, device=self._model.device)

    def _end(self, row: _Sample, slot: int, token: int, eos: bool) -> None:
        ids = self._drawn[slot, : int(self._number[slot])].tolist()
        row.task.rows[row.arm, row.sample] = Row((*ids, token), "eos" if eos else "length")
        self._free_seats.append(row.seat)

    def _copy(self, origin: Sequence[int]) -> None:
        """Let each slot hold what its origin holds."""
        targets = [target for target, source in enumerate(origin) if source != target]
        if targets:
            sources = torch.tensor([origin[target] for target in targets], device=self._model.device)
            targets = torch.tensor(targets, device=self._model.device)
            self._slots.copy(sources, targets, max(self._lengths))
            tensors = [self._drawn, self._number, *self._deltas.values()]
            for tensor in tensors if self._counts is None else [*tensors, self._counts]:
                tensor[targets] = tensor[sources]
        self._lengths = [self._lengths[source] for source in origin]

    def _forward(self, tokens: Tensor) -> None:
        running = len(self._samples)
        number = self._number[:running]
        self._drawn[torch.arange(running, device=self._model.device), number] = tokens
        number += 1
        if self._counts is not None:
            self._counts[:running].scatter_add_(
                1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.float32)
            )
        longest = max(self._lengths)
        level = longest == min(self._lengths)
        self._slots.begin_step(running, longest, level, to_come=self.used)
        # Only the position `every` acts on new tokens; without it nothing is added and there is no cost.
        logits = self._decode(tokens, self._deltas)
        if len(logits) == len(self._logits):
            self._logits = logits  # 3 MB of a step of 16 rows need not be copied
        else:
            self._logits[:running] = logits[:running]
        self._slots.end_step()
        self._lengths = [length + 1 for length in self._lengths]
