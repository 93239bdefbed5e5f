"""The rows that decode together: they enter with a prefilled prompt, draw one token per step, and leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steer_cli.activations.change import Change, with_room
from steer_cli.activations.effect import ChangedRows, lost
from steer_cli.decoding.kv_cache import KVCache
from steer_cli.decoding.prefill import check_finite
from steer_cli.decoding.regroup import Ended, regroup
from steer_cli.decoding.request import Decoded, SampleGroup, Started
from steer_cli.decoding.sampling import draw_from_candidates, draw_from_more, exact, token_counts, uniforms
from steer_cli.decoding.step import decode_step
from steer_cli.networks.network import Network
from steer_cli.recipe.sampling import Sampling


class _Sample(NamedTuple):
    """Sample `number` of an arm of a group."""

    group: SampleGroup
    arm: int
    number: int
    seat: int  # index of its uniform numbers

    @property
    def scored(self) -> bool:
        """Whether it is drawn from the unsteered model's logits."""
        return not self.group.started.request.arms[self.arm].placements


class Batch:
    """Rows that decode together, each an unfinished completion.

    The network runs slots. Rows of one arm that began together share a slot as long as they have drawn the
    same tokens: each draws from the same logits with its own uniform number, and they separate when they draw
    different tokens. Slots in use come first.

    Args:
        like: any of the requests to come, for shapes.
        rows: the most rows at a time.
        capacity: the most positions per row.
        fixed: run every step over all slots, one for each row.
        drew: called after each draw, when every group holds what its first samples have drawn so far.
    """

    def __init__(
        self,
        network: Network,
        like: Started,
        rows: int,
        capacity: int,
        sampling: Sampling,
        eos: Sequence[int],
        fixed: bool,
        drew: Callable[[], None] | None = None,
    ):
        device, steps = network.device, sampling.max_new_tokens
        self._network, self._sampling, self._apart = network, sampling, fixed
        self._drew = drew
        self._cache = KVCache(like.prefixes[0], network.slots_for(rows), capacity, fixed)
        self._decode = decode_step(network, self._cache)
        self._slots: list[list[_Sample]] = []  # the slots in use
        self._lengths: list[int] = []  # of each slot in use, mirrored from the device
        self._free_seats = list(range(rows))
        self._eos = torch.tensor(sorted(eos), dtype=torch.long, device=device)
        # One entry per seat.
        self._uniform = torch.zeros(rows, steps, dtype=exact(device), device=device)
        self._logprob = torch.zeros(rows, dtype=exact(device), device=device)
        # One entry per slot.
        self._drawn = torch.zeros(self._cache.rows, steps, dtype=torch.long, device=device)
        self._count = torch.zeros(self._cache.rows, dtype=torch.long, device=device)  # tokens drawn so far
        self._logits = torch.zeros(self._cache.rows, like.logits.shape[1], device=device)
        self._counts = torch.zeros_like(self._logits) if sampling.frequency_penalty != 0 else None
        self._changes: dict[int, Change] = {}  # layer -> what is done to new tokens, [slots, width]
        self._unchecked = False  # whether there are new rows that are steered only from their first new token

    @property
    def running(self) -> int:
        """How many rows have begun and not ended."""
        return len(self._uniform) - self.free

    @property
    def free(self) -> int:
        """How many more rows may begin."""
        return len(self._free_seats)

    def admit(self, group: SampleGroup, samples: int) -> None:
        """Begin the next samples of a group, in each arm."""
        request, steps = group.started.request, self._sampling.max_new_tokens
        indices = range(group.begun, group.begun + samples)
        group.begun += samples
        uniform = uniforms(self._sampling.seed, indices, steps).to(self._uniform)
        for arm in range(group.arms):
            rows = [_Sample(group, arm, index, self._free_seats.pop()) for index in indices]
            seats = [row.seat for row in rows]
            self._uniform[seats], self._logprob[seats] = uniform, 0.0
            together = [[row] for row in rows] if self._apart else [rows]
            first = len(self._slots)
            slots = slice(first, first + len(together))
            self._slots += together
            self._lengths += [len(request.prompt)] * len(together)
            self._cache.fill(slots, group.started.prefixes[arm], len(request.prompt))
            self._count[slots] = 0
            self._logits[slots] = group.started.logits[arm]
            if self._counts is not None:
                ids = torch.tensor([request.prompt], device=self._network.device)
                self._counts[slots] = token_counts(ids, self._counts.shape[1])
            self._change_in(slots, request.arms[arm].on_new_tokens)
            self._unchecked |= bool(request.arms[arm].acting_later)
        self._arrange()

    def _change_in(self, slots: slice, changes: Mapping[int, Change]) -> None:
        for layer, change in changes.items():
            self._changes[layer] = with_room(self._changes.get(layer), change, self._cache.rows)
        for layer, kept in self._changes.items():
            # A request with other arms may have used these slots.
            kept.fill(slots, changes.get(layer))

    def _arrange(self) -> None:
        """Tell the device each row's uniform numbers, its slot, and which rows are scored."""
        rows = [(row.seat, slot, row.scored) for slot, rows in enumerate(self._slots) for row in rows]
        if rows:
            self._seats, self._at_slot, scored = torch.tensor(rows, device=self._network.device).T
            self._scored = scored.nonzero().squeeze(1)
            self._scored_slots, self._in_scored = self._at_slot[self._scored].unique(return_inverse=True)

    def step(self) -> int:
        """Draw one token in every row and run the rows that continue; return how many ended."""
        before, (drawn, tokens, over, at_eos) = self.running, self._draw()
        if self._drew is not None:
            self._keep_first(tokens)
        self._score(drawn)
        if self.running > len(self._slots) or any(over):
            drawn = self._regroup(tokens, over, at_eos)
        # A pass on the CPU ends before `_forward` returns; on other devices the watcher works meanwhile.
        late = self._network.device.type != "cpu"
        if self._drew is not None and not late:
            self._drew()
        if self._slots:
            self._forward(drawn)
        if self._drew is not None and late:
            self._drew()
        return before - self.running

    def _keep_first(self, tokens: Sequence[int]) -> None:
        """Give each group what its arms' first samples drew; `tokens` are in the order of the slots."""
        rows = (sample for samples in self._slots for sample in samples)
        for row, token in zip(rows, tokens, strict=True):
            if row.number == 0:
                row.group.first.setdefault(row.arm, []).append(token)

    def _draw(self) -> tuple[Tensor, list[int], list[bool], list[bool]]:
        """Each row's token, on the device and on the host, whether the row has ended, and whether by EOS."""
        used = len(self._slots)
        logits, count = self._logits[:used], self._count[self._at_slot]
        counts = None if self._counts is None else self._counts[:used]
        facts = (logits, counts, self._sampling, self._uniform[self._seats, count], self._at_slot)
        token, conclusive = draw_from_candidates(*facts)
        last = count + 1 == self._sampling.max_new_tokens
        # The only wait for the device, except in the rare steps in which the candidates are not enough.
        tokens, eos, full, seen = torch.stack([token, self._is_eos(token), last, conclusive]).tolist()
        if not all(seen):
            check_finite(logits.amax(-1))
            token = draw_from_more(token, conclusive, *facts)
            tokens, eos = torch.stack([token, self._is_eos(token)]).tolist()
        over = [bool(end or stop) for end, stop in zip(eos, full, strict=True)]
        return token, tokens, over, [bool(end) for end in eos]

    def _is_eos(self, tokens: Tensor) -> Tensor:
        return (tokens[:, None] == self._eos).any(-1)

    def _score(self, tokens: Tensor) -> None:
        """Add up log probabilities of unsteered rows' tokens, from the logits they were drawn from."""
        rows = self._scored
        if len(rows):
            logits = self._logits[self._scored_slots]
            chosen = logits[self._in_scored, tokens[rows]] - logits.logsumexp(-1)[self._in_scored]
            self._logprob[self._seats[rows]] += chosen.to(self._logprob)

    def _regroup(self, tokens: Sequence[int], over: Sequence[bool], at_eos: Sequence[bool]) -> Tensor:
        """Remove rows that have ended, and move rows that drew different tokens into separate slots.

        Returns:
            The token of each slot that continues.
        """
        rows = (sample for samples in self._slots for sample in samples)
        seats_at_eos = {row.seat for row, end in zip(rows, at_eos, strict=True) if end}
        regrouped = regroup(self._slots, tokens, over)
        for ended in regrouped.ended:
            self._end(ended, ended.sample.seat in seats_at_eos)
        self._slots = regrouped.slots
        self._copy(regrouped.origins)
        self._arrange()
        return torch.tensor(regrouped.tokens, device=self._network.device)

    def _end(self, ended: Ended[_Sample], eos: bool) -> None:
        row = ended.sample
        drawn = self._drawn[ended.slot, : self._run_tokens(ended.slot)].tolist()
        logprob = float(self._logprob[row.seat]) if row.scored else None
        finish = "eos" if eos else "length"
        row.group.decoded[row.arm, row.number] = Decoded((*drawn, ended.token), finish, logprob)
        self._free_seats.append(row.seat)

    def _copy(self, origins: Sequence[int]) -> None:
        """Copy the contents of each slot's origin into it."""
        moved = [slot for slot, origin in enumerate(origins) if origin != slot]
        if moved:
            sources = torch.tensor([origins[slot] for slot in moved], device=self._network.device)
            targets = torch.tensor(moved, device=self._network.device)
            self._cache.copy(sources, targets, max(self._lengths))
            changes = (tensor for change in self._changes.values() for tensor in change.tensors)
            tensors = [self._drawn, self._count, *changes]
            for tensor in tensors if self._counts is None else [*tensors, self._counts]:
                tensor[targets] = tensor[sources]
        self._lengths = [self._lengths[origin] for origin in origins]

    def _check(self, changed: ChangedRows) -> None:
        """Raise VectorError if an addition that acts on new tokens alone left the first of them as it was."""
        self._unchecked = False
        arms = [rows[0].group.started.request.arms[rows[0].arm] for rows in self._slots]
        new = [arm.acting_later if self._run_tokens(n) == 0 else {} for n, arm in enumerate(arms)]
        free: list[dict] = [{}] * (self._cache.used - len(new))
        for slot, layer in changed.missing([*new, *free]):
            acting = [placement for placement in arms[slot].acting[layer] if placement.on_new_tokens]
            raise lost(acting, layer, changed.dtype)

    def _run_tokens(self, slot: int) -> int:
        """How many new tokens a slot has run: `_count` on the host, without waiting for the device."""
        return self._lengths[slot] - len(self._slots[slot][0].group.started.request.prompt)

    def _forward(self, tokens: Tensor) -> None:
        used = len(self._slots)
        count = self._count[:used]
        self._drawn[torch.arange(used, device=self._network.device), count] = tokens
        count += 1
        if self._counts is not None:
            once = torch.ones_like(tokens[:, None], dtype=torch.float32)
            self._counts[:used].scatter_add_(1, tokens[:, None], once)
        longest = max(self._lengths)
        # The last token of a row is drawn but not run.
        steps = self._sampling.max_new_tokens - 1 - min(map(self._run_tokens, range(used)))
        run = self._network.rows_to_run(used, self.running, steps)
        self._cache.begin_step(used, longest, longest == min(self._lengths), run)
        # Only `every` acts on new tokens; without it, nothing is changed, at no cost.
        changed = ChangedRows([1] * self._cache.used) if self._unchecked else None
        logits = self._decode(tokens, self._changes, changed)
        if changed is not None:
            self._check(changed)
        if len(logits) == len(self._logits):
            self._logits = logits  # saves copying megabytes
        else:
            self._logits[:used] = logits[:used]
        self._cache.end_step()
        self._lengths = [length + 1 for length in self._lengths]
