"""The rows that decode together: they enter with a prefilled prompt, draw a token a step, and leave.

This module does not know which rows come next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from steer_cli.decoding.kv_cache import Slots
from steer_cli.decoding.prefill import Started, check_first_token
from steer_cli.decoding.request import Row, Task
from steer_cli.decoding.sampling import exact, glance, look_again, token_counts, uniforms
from steer_cli.decoding.step import Ahead, decode_step
from steer_cli.errors import VectorError
from steer_cli.models.load import Model
from steer_cli.recipe.schema import Sampling


class _Row(NamedTuple):
    """Sample number `sample` of an arm of a task."""

    task: Task
    arm: int
    sample: int
    seat: int  # where its uniform numbers are


@dataclass(frozen=True)
class _Drawn:
    """What each row has drawn in one step, slot by slot."""

    tokens: Tensor
    ids: list[int]  # the same on the host
    over: list[bool]
    at_eos: list[bool]


class Batch:
    """Rows that decode together, each a completion on its way.

    Those of one arm that began together share a slot, which is what the network runs, while they have drawn
    the same tokens: each draws from the same logits by its own uniform number, and they part when they draw
    differently. The first slots are in use.

    Args:
        like: any job of those to come, for shapes.
        rows: how many at most at a time.
        capacity: most positions of a row.
        fixed: run every step over all slots, one for each row.
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
        self._rows: list[list[_Row]] = []  # in each slot in use
        self._lengths: list[int] = []  # of each slot in use, as on the device
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
        self._unchecked = False  # whether rows have begun that are acted on from the first new token on
        self._decode = decode_step(model, self._slots, pack)

    @property
    def running(self) -> int:
        """Rows that have begun and not ended."""
        return self._slots.rows - self.free

    @property
    def free(self) -> int:
        """Rows that may begin."""
        return len(self._free_seats)

    def admit(self, task: Task, samples: int) -> None:
        """Begin the next samples of a task, in each arm."""
        job, steps = task.started.job, self._sampling.max_new_tokens
        numbers = range(task.begun, task.begun + samples)
        task.begun += samples
        uniform = uniforms(self._sampling.seed, numbers, steps).to(self._uniform)
        for arm in range(task.arms):
            rows = [_Row(task, arm, sample, self._free_seats.pop()) for sample in numbers]
            self._uniform[[row.seat for row in rows]] = uniform
            together = [[row] for row in rows] if self._apart else [rows]
            first = len(self._rows)
            slots = slice(first, first + len(together))
            self._rows += together
            self._lengths += [len(job.prompt)] * len(together)
            self._slots.fill(slots, task.started.prefixes[arm], len(job.prompt))
            self._number[slots] = 0
            self._logits[slots] = task.started.logits[arm]
            if self._counts is not None:
                ids = torch.tensor([job.prompt], device=self._model.device)
                self._counts[slots] = token_counts(ids, self._counts.shape[1])
            self._add_in(slots, job.arms[arm].decode)
            self._unchecked |= bool(job.arms[arm].acting_later)
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
        places = [(row.seat, slot) for slot, rows in enumerate(self._rows) for row in rows]
        if places:
            self._seats, self._at = torch.tensor(places, device=self._model.device).T

    def step(self) -> int:
        """Draw one token in every row and run the rows that go on; returns how many ended."""
        before, drawn = self.running, self._draw()
        tokens = drawn.tokens
        if self.running > len(self._rows) or any(drawn.over):
            tokens = self._part(drawn)
        for slot in range(len(self._rows)) if self._unchecked else ():
            row = self._rows[slot][0]
            if self._run(slot) == 0:
                check_first_token(self._model, row.task.started, row.arm, tokens[slot])
        self._unchecked = False
        if self._rows:
            self._forward(tokens)
        return before - self.running

    def _draw(self) -> _Drawn:
        logits, number = self._logits[: len(self._rows)], self._number[self._at]
        counts = None if self._counts is None else self._counts[: len(self._rows)]
        drawing = (logits, counts, self._sampling, self._uniform[self._seats, number], self._at)
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
        parts: list[dict[int, list[_Row]]] = []  # of each slot: token -> the rows that drew it
        facts = zip(drawn.ids, drawn.over, drawn.at_eos, strict=True)
        for slot, rows in enumerate(self._rows):
            parts.append({})
            # Rows first, so that `zip` takes no fact that is the next slot's.
            for row, (token, over, at_eos) in zip(rows, facts, strict=False):
                if over:
                    self._end(row, slot, token, at_eos)
                else:
                    parts[slot].setdefault(token, []).append(row)
        # Where each slot comes from. The last one moves into the gap of one that nobody is left in, the
        # highest gap first, so that it is one that goes on.
        origin = list(range(len(parts)))
        for slot in reversed(origin.copy()):
            if not parts[slot]:
                parts[slot], origin[slot] = parts[-1], origin[-1]
                del parts[-1], origin[-1]
        tokens = [next(iter(part)) for part in parts]
        self._rows = [part[token] for part, token in zip(parts, tokens, strict=True)]
        for slot, part in enumerate(parts):
            for token in list(part)[1:]:
                tokens.append(token)
                self._rows.append(part[token])
                origin.append(origin[slot])
        self._copy(origin)
        self._arrange()
        return torch.tensor(tokens, device=self._model.device)

    def _end(self, row: _Row, slot: int, token: int, eos: bool) -> None:
        ids = self._drawn[slot, : self._run(slot)].tolist()
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

    def _run(self, slot: int) -> int:
        """New tokens that a slot has run: `_number` on the host, without waiting for the device."""
        return self._lengths[slot] - len(self._rows[slot][0].task.started.job.prompt)

    def _steps_left(self) -> int:
        least = min(map(self._run, range(len(self._rows))))
        return self._sampling.max_new_tokens - 1 - least  # the last token is drawn and not run

    def _forward(self, tokens: Tensor) -> None:
        used = len(self._rows)
        number = self._number[:used]
        self._drawn[torch.arange(used, device=self._model.device), number] = tokens
        number += 1
        if self._counts is not None:
            self._counts[:used].scatter_add_(
                1, tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.float32)
            )
        longest = max(self._lengths)
        level = longest == min(self._lengths)
        self._slots.begin_step(used, longest, level)
        # Only the position `every` acts on new tokens; without it nothing is added and there is no cost.
        logits = self._decode(tokens, self._deltas, Ahead(self.running, self._steps_left()))
        if len(logits) == len(self._logits):
            self._logits = logits  # 3 MB of a step of 16 rows need not be copied
        else:
            self._logits[:used] = logits[:used]
        self._slots.end_step()
        self._lengths = [length + 1 for length in self._lengths]
