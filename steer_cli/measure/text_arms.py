"""Many arms on the sentences of some evidence, in shared passes: what each gains, and how much changes.

The unsteered stream of all sentences is recorded once, and moves up to the first layer of the arms that are
compared. Arms of one `TextArms` act on spans of the same length at the front, or all at other positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from steer_cli.activations.arms import Steering
from steer_cli.events import silent
from steer_cli.measure.bootstrap import Draws
from steer_cli.measure.divergence import Divergence
from steer_cli.measure.lines import Line
from steer_cli.measure.score_plan import check_enough, on_texts
from steer_cli.measure.scoring import Run
from steer_cli.measure.sheet import Compared, Sheet
from steer_cli.networks.network import Network
from steer_cli.planning.tokens import Tokenizer


@dataclass(frozen=True)
class SetChanges:
    """The measured sentences of one set, in the order of the file, under one arm.

    `change` has the gain of log probability of each sentence over its compared predictions, in nats, and how
    many these are. `divergence` has KL(steered || unsteered) of every prediction, a tensor per sentence, if
    it was asked for.
    """

    change: Draws
    divergence: tuple[Tensor, ...] = ()


ArmChanges = dict[str, SetChanges]  # toward, away and neutral, as far as the evidence has them


@dataclass
class TextArms:
    """Sentences with which arms are compared; going through layers in rising order is cheapest.

    Args:
        lines: from `lines_of`, for additions like those of the arms.
        diverging: the sets whose KL can be asked for.
        passed: told of how many more sentences have been run in some arm.
    """

    network: Network
    tokenizer: Tokenizer
    lines: tuple[Line, ...]
    diverging: Sequence[str] = ()
    passed: Callable[[int], object] = silent
    sheet: Sheet = field(init=False)
    _divergence: Divergence = field(init=False)

    def __post_init__(self) -> None:
        texts = [text for text, line in enumerate(self.lines) if line.corpus in self.diverging]
        self._divergence = Divergence(self.network, texts)
        self.sheet = Sheet(self.network, self.tokenizer, self.lines, self._see)

    def _see(self, runs: Sequence[Run], rows: range, stream: Tensor, logits: Tensor) -> None:
        self._divergence.see(runs, rows, stream, logits)
        if rows.start == 0:
            self.passed(len(runs))

    def compare(self, arms: Sequence[Steering]) -> list[ArmChanges]:
        """What each arm changes on every set.

        Raises:
            CorpusError: too few sentences of a set can be measured.
            VectorError: an arm changes nothing, or log probabilities are no longer finite.
        """
        return [self.by_set(compared, number) for number, compared in enumerate(self.compared(arms))]

    def compared(self, arms: Sequence[Steering], keep_changes: bool = False) -> list[Compared]:
        """The same line by line; see `Sheet.compare`."""
        placed = [replace(arm, alignments=on_texts(arm.alignments)) for arm in arms]
        return self.sheet.compare(placed, keep_changes)

    def with_tokens_in_front(self, fronted: Sequence[Line], vector: Compared) -> ArmChanges:
        """What tokens in front change instead of a vector; see `Sheet.with_tokens_in_front`."""
        moved = [other.offset - line.offset for line, other in zip(self.lines, fronted, strict=True)]
        with self._divergence.moved(moved):
            compared = self.sheet.with_tokens_in_front(fronted, vector)
        return self.by_set(compared, 0)

    def by_set(self, compared: Compared, number: int) -> ArmChanges:
        """The lines of one arm, the one of this number among those compared last, set by set."""
        divergences = self._divergence.taken(number)
        return {name: self._changes(name, compared, divergences) for name in self._sets()}

    def _sets(self) -> Iterator[str]:
        yield from dict.fromkeys(line.corpus for line in sorted(self.lines, key=lambda line: line.number))

    def _changes(self, name: str, compared: Compared, divergences: dict[int, Tensor]) -> SetChanges:
        within = [text for text, line in enumerate(self.lines) if line.corpus == name]
        within.sort(key=lambda text: self.lines[text].number)
        kept = [text for text in within if compared.count[text]]
        check_enough(name, len(kept), f"{len(within)} sentences", compared.reasons.get((name, None)))
        sums = np.array([compared.change[text] for text in kept])
        counts = np.array([compared.count[text] for text in kept], dtype=np.float64)
        # An arm that adds nothing is not run.
        nothing = (torch.zeros(compared.count[text], dtype=torch.float64) for text in kept)
        found = tuple(divergences.get(text, zeros) for text, zeros in zip(kept, nothing, strict=True))
        return SetChanges(Draws(sums, counts), found if name in self.diverging else ())
