"""How much a steered distribution differs from the unsteered one, prediction by prediction: KL in nats.

It is computed while arms are compared, from the streams that leave the last block, so that no pass is run
twice and few logits are held at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from steer_cli.measure.scoring import Run
from steer_cli.networks.network import Network


class Divergence:
    """Collects KL(arm || unsteered) of every prediction that runs keep on some texts.

    The first run of each text is the unsteered one, over all of its positions; its stream is kept.

    Args:
        texts: the numbers of the texts.
    """

    def __init__(self, network: Network, texts: Sequence[int]):
        self._network, self._texts = network, frozenset(texts)
        self._unsteered: dict[int, Tensor] = {}  # text -> [positions, width]
        self._lengths: dict[int, int] = {}  # text -> how many positions that will be
        self._found: dict[int, dict[int, Tensor]] = {}  # arm -> text -> [kept]
        self._moved: Sequence[int] | None = None

    @contextmanager
    def moved(self, by: Sequence[int]) -> Iterator[None]:
        """Within the `with`, each text has so many more tokens in front than it had unsteered."""
        self._moved = by
        try:
            yield
        finally:
            self._moved = None

    def taken(self, arm: int) -> dict[int, Tensor]:
        """What was found for an arm since it was last taken: text -> [kept], float64 on the CPU."""
        return self._found.pop(arm, {})

    def see(self, runs: Sequence[Run], rows: range, stream: Tensor, logits: Tensor) -> None:
        """Called with each pass; see `scoring.See`."""
        end = 0
        parts: dict[int, list[tuple[Run, range, slice]]] = {}
        for run in runs:
            start, end = end, end + len(run.kept)
            inside = range(max(start, rows.start), min(end, rows.stop))
            if run.text in self._texts and inside:
                which = range(inside.start - start, inside.stop - start)
                within = slice(inside.start - rows.start, inside.stop - rows.start)
                parts.setdefault(run.text, []).append((run, which, within))
        for text, passed in parts.items():
            if len(self._unsteered.get(text, ())) < self._lengths.get(text, 1):
                self._keep(text, passed.pop(0), stream)
            self._compare(text, passed, logits)

    def _keep(self, text: int, part: tuple[Run, range, slice], stream: Tensor) -> None:
        # A copy, so that the memory of the pass can be freed.
        run, _, within = part
        known = self._unsteered.get(text, stream[:0])
        self._unsteered[text] = torch.cat([known, stream[within]])
        self._lengths[text] = len(run.kept)

    def _compare(self, text: int, passed: Sequence[tuple[Run, range, slice]], logits: Tensor) -> None:
        if not passed:
            return
        back = self._moved[text] if self._moved else 0
        kept = [[run.kept[index] - back for index in which] for run, which, _ in passed]
        positions = sorted({position for some in kept for position in some})
        unsteered = self._network.unembed(self._unsteered[text][positions]).float()
        unsteered = unsteered - unsteered.logsumexp(-1, keepdim=True)
        for (run, _, within), some in zip(passed, kept, strict=True):
            others = unsteered if some == positions else unsteered[[positions.index(p) for p in some]]
            found = self._found.setdefault(run.arm_number, {})
            known = found.get(text, torch.zeros(0, dtype=torch.float64))
            found[text] = torch.cat([known, divergence(logits[within].float(), others)])


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL of each row to the other's, [rows], float64 on the CPU.

    Args:
        logits: [rows, vocabulary].
        others: log probabilities, [rows, vocabulary].
    """
    logprobs = logits.log_softmax(-1)
    # Rounding may leave a hair under 0.
    return (logprobs.exp() * (logprobs - others)).sum(-1, dtype=torch.float64).clamp(min=0).cpu()
