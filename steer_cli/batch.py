"""The rows that decode together: they enter with a prefilled prompt, draw a token a step, and leave.

This module does not know which rows come next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from steer_cli.errors import VectorError
from steer_cli.model import Model
from steer_cli.prefill import Started, stacked
from steer_cli.recipe import Sampling
from steer_cli.sampling import exact, glance, look_again, token_counts, uniforms
from steer_cli.slots import Slots
from steer_cli.step import decode_step


@dataclass(frozen=True)
class Row:
    """One completion: token ids with the EOS that ended it, if one did."""

    ids: tuple[int, ...]
    finish: str  # eos or length


@dataclass
class Task:
    """A job on its way: samples not yet begun, rows not yet ended."""

    started: Started
    samples: int
    begun: int = 0
    rows: dict[tuple[int, int], Row] = field(default_factory=dict)  # (arm, sample) -> row

    @property
    def arms(self) -> int:
        return len(self.started.job.arms)

    def by_arm(self) -> tuple[tuple[Row, ...], ...] | None:
        """For each arm one row a sample; None while some have not ended."""
        if len(self.rows) < self.arms * self.samples:
            return None
        return tuple(
            tuple(self.rows[arm, sample] for sample in range(self.samples)) for arm in range(self.arms)
        )


class Batch:
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
        pack: bool,
    ):
        self._model, self._sampling = model, sampling
        self._slots = Slots(model, like.prefixes[0], rows, capacity, fixed)
        self._owners: list[tuple[Task, int, int]] = []  # (task, arm, sample) of each running row
        self._lengths: list[int] = []  # of each running row, as on the device
        self._eos = torch.tensor(sorted(eos), dtype=torch.long, device=model.device)
        steps = sampling.max_new_tokens
        self._drawn = torch.zeros(rows, steps, dtype=torch.long, device=model.device)
        self._number = torch.zeros(rows, dtype=torch.long, device=model.device)  # tokens drawn so far
        self._uniform = torch.zeros(rows, steps, dtype=exact(model.device), device=model.device)
        self._logits = torch.zeros(rows, like.logits.shape[1], device=model.device)
        self._counts = torch.zeros_like(self._logits) if sampling.frequency_penalty != 0 else None
        self._deltas: dict[int, torch.Tensor] = {}  # what is added at every new token, [slots, width]
        self._decode = decode_step(model, self._slots, steps if pack else 0)

    @property
    def used(self) -> int:
        return len(self._owners)

    @property
    def free(self) -> int:
        return self._slots.rows - self.used

    def admit(self, task: Task, samples: int) -> None:
        """Begin the next samples of a task, a row for each arm."""
        job, sampling = task.started.job, self._sampling
        numbers = range(task.begun, task.begun + samples)
        task.begun += samples
        device = self._model.device
        uniform = uniforms(sampling.seed, numbers, sampling.max_new_tokens).to(device, exact(device))
        # Sample by sample, the arms of one side by side.
        first = self.used
        rows = slice(first, first + task.arms * samples)
        for arm, prefix in enumerate(task.started.prefixes):
            slots = slice(first + arm, rows.stop, task.arms)
            self._slots.fill(slots, prefix, len(job.prompt))
            self._uniform[slots] = uniform
        self._owners += [(task, arm, sample) for sample in numbers for arm in range(task.arms)]
        self._lengths += [len(job.prompt)] * (rows.stop - first)
        self._number[rows] = 0
        self._logits[rows] = task.started.logits.repeat(samples, 1)
        if self._counts is not None:
            ids = torch.tensor([job.prompt], device=self._model.device)
            self._counts[rows] = token_counts(ids, self._counts.shape[1])
        decoding = stacked([arm.decode for arm in job.arms], (self._model.width,), self._model)
        for layer in decoding.keys() - self._deltas.keys():
            self._deltas[layer] = torch.zeros(self._slots.rows, self._model.width, device=device)
        for layer, delta in self._deltas.items():
            # A job of other arms may have had these slots.
            delta[rows] = decoding[layer].repeat(samples, 1) if layer in decoding else 0

    def step(self) -> int:
        """Draw one token in every running row and run the rows that go on; returns how many ended."""
        over, at_eos = self._draw()
        gone = [row for row, ended in enumerate(over) if ended]
        if gone:
            self._leave(gone, at_eos)
        if self.used:
            self._forward()
        return len(gone)

    def _draw(self) -> tuple[list[bool], list[bool]]:
        """Draw; returns which rows are over, and which by EOS."""
        used, number = self.used, self._number[: self.used]
        rows = torch.arange(used, device=self._model.device)
        counts = None if self._counts is None else self._counts[:used]
        drawing = (self._logits[:used], counts, self._sampling, self._uniform[rows, number])
        token, enough = glance(*drawing)
        at_eos, last = torch.isin(token, self._eos), number + 1 == self._sampling.max_new_tokens
        # The one wait for the device, but for the rare steps in which a glance is not enough.
        facts = torch.stack([at_eos, last, enough]).tolist()
        if not all(facts[2]):
            if not self._logits[:used].amax(-1).isfinite().all():
                raise VectorError(
                    "the logits are not finite any more; use a smaller coefficient or --dtype float32"
                )
            token = look_again(token, enough, *drawing)
            facts[0] = torch.isin(token, self._eos).tolist()
        self._drawn[rows, number] = token
        number += 1
        return [eos or end for eos, end in zip(facts[0], facts[1], strict=True)], facts[0]

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
        longest = max(self._lengths)
        self._slots.begin_step(used, longest, level=longest == min(self._lengths))
        # Only the position `every` acts on new tokens; without it nothing is added and there is no cost.
        logits = self._decode(token, self._deltas)
        if len(logits) == len(self._logits):
            self._logits = logits  # 3 MB of a step of 16 rows need not be copied
        else:
            self._logits[:used] = logits[:used]
        self._slots.end_step()
        self._lengths = [length + 1 for length in self._lengths]
