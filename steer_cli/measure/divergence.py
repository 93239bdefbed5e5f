"""How much a steered distribution differs from the unsteered one, prediction by prediction: KL in nats.

It is computed while arms are compared, from the streams that leave the last block, so that no pass is run
twice and few logits are held at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

from steer_cli.measure.scoring import LOGITS, Run
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

    def see(self, runs: Sequence[Run], stream: Tensor) -> None:
        """Called with each pass; see `scoring.See`."""
        parts = zip(runs, stream.split([len(run.kept) for run in runs]), strict=True)
        wanted = [(run, part) for run, part in parts if run.text in self._texts]
        for text, of_text in groupby(wanted, lambda pair: pair[0].text):
            passed = list(of_text)
            if text not in self._unsteered:
                # A copy, so that the memory of the pass can be freed.
                self._unsteered[text] = passed.pop(0)[1].clone()
            most = max(1, LOGITS // (self._network.vocabulary * len(self._unsteered[text])) - 1)
            for first in range(0, len(passed), most):
                self._compare(text, passed[first : first + most])

    def _compare(self, text: int, passed: Sequence[tuple[Run, Tensor]]) -> None:
        back = self._moved[text] if self._moved else 0
        kept = [[position - back for position in run.kept] for run, _ in passed]
        rows = sorted({position for positions in kept for position in positions})
        sides = torch.cat([self._unsteered[text][rows], *(stream for _, stream in passed)])
        unsteered, *steered = self._network.unembed(sides).split([len(rows), *map(len, kept)])
        unsteered = unsteered.float().log_softmax(-1)
        for (run, _), positions, logits in zip(passed, kept, steered, strict=True):
            logprobs = logits.float().log_softmax(-1)
            others = unsteered[[rows.index(position) for position in positions]]
            parts = logprobs.exp() * (logprobs - others)
            # Rounding may leave a hair under 0.
            kl = parts.sum(-1, dtype=torch.float64).clamp(min=0).cpu()
            self._found.setdefault(run.arm_number, {})[text] = kl
