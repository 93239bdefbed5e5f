"""The lines of corpora, scored once unsteered and then under every arm that is compared with that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steer_cli.activations.arms import Steering
from steer_cli.activations.relative import NO_LENGTHS, StreamLengths
from steer_cli.errors import PlanError
from steer_cli.measure.lines import Line, fit
from steer_cli.measure.scoring import Run, See, Texts, lengths_at, logprobs, texts_at
from steer_cli.networks.network import Network
from steer_cli.planning.tokens import Tokenizer
from steer_cli.results import CameTo, came_to

Figure = tuple[str, str | None]  # corpus, label


@dataclass
class Compared:
    """One arm compared with the unsteered one: sums over the compared predictions of each line.

    A line that is left out has a count of 0. `changes` (line -> positions and their d) is filled on request.
    """

    change: list[float]
    unsteered: list[float]
    count: list[int]
    reasons: dict[Figure, str] = field(default_factory=dict)  # why the additions do not fit on a line
    changes: dict[int, tuple[Sequence[int], Tensor]] = field(default_factory=dict)
    coefficients: list[tuple[CameTo, ...]] = field(
        default_factory=list
    )  # of each line, where some are relative

    @classmethod
    def of(cls, lines: int) -> Compared:
        return cls([0.0] * lines, [0.0] * lines, [0] * lines)


@dataclass
class Sheet:
    """The lines of a run and their unsteered log probabilities, with which every arm is compared.

    `see` is told of every pass over the lines, of the unsteered one first.
    """

    network: Network
    tokenizer: Tokenizer
    lines: tuple[Line, ...]
    see: See | None = None
    texts: Texts = field(init=False)
    lengths: list[StreamLengths] = field(init=False)  # where relative coefficients are
    unsteered: list[Tensor] = field(init=False)  # for every token but the first

    def __post_init__(self) -> None:
        self.texts = Texts(tuple(line.ids for line in self.lines))
        self.lengths = [NO_LENGTHS] * len(self.lines)
        self.unsteered = _whole(self.network, self.texts, self.see)

    def compare(self, arms: Sequence[Steering], keep_changes: bool = False) -> list[Compared]:
        """Compare each arm with the unsteered one; an arm that fits no line compares nothing.

        An arm that adds nothing is treated as the unsteered one, so that d is exactly 0.

        Raises:
            VectorError: log probabilities are no longer finite.
        """
        found = [Compared.of(len(self.lines)) for _ in arms]
        acting = [number for number, arm in enumerate(arms) if not arm.adds_nothing]
        if acting:
            layer = min(arms[number].layer for number in acting)
            self.texts = texts_at(self.network, self.texts, layer)
            relative = frozenset[int]().union(*(arms[number].relative_layers for number in acting))
            self.lengths = lengths_at(self.network, self.texts, relative)
        for number, arm in enumerate(arms):
            if arm.adds_nothing:
                for run in self._runs(number, arm, range(len(self.lines)), found[number]):
                    self._enter(found[number], run, self.unsteered[run.text][list(run.kept)], keep_changes)

        def runs_of(text: int) -> Iterator[Run]:
            for number in acting:
                yield from self._runs(number, arms[number], [text], found[number])

        for run, values in logprobs(self.network, self.texts, runs_of, self.see):
            self._enter(found[run.arm_number], run, values, keep_changes)
        return found

    def _runs(self, number: int, arm: Steering, texts: Sequence[int], found: Compared) -> Iterator[Run]:
        for text in texts:
            line = self.lines[text]
            try:
                fitted = fit(line, arm.alignments, self.tokenizer)
            except PlanError as error:
                found.reasons.setdefault((line.corpus, line.label), str(error))
                continue
            if fitted.kept:
                on_line = arm.on(fitted.placements, self.lengths[text])
                if arm.relative_layers:
                    found.coefficients.append(came_to(on_line.placements))
                yield Run(text, fitted.kept, on_line, number)

    def _enter(self, found: Compared, run: Run, values: Tensor, keep_changes: bool) -> None:
        unsteered = self.unsteered[run.text][list(run.kept)]
        found.change[run.text] = float((values - unsteered).sum())
        found.unsteered[run.text] = float(unsteered.sum())
        found.count[run.text] = len(run.kept)
        if keep_changes:
            found.changes[run.text] = (run.kept, values - unsteered)

    def with_tokens_in_front(self, fronted: Sequence[Line], vector: Compared) -> Compared:
        """Compare the same texts with tokens in front instead of a vector, on the same predictions.

        Args:
            fronted: the lines in the same order, laid out with the plus text in front.
            vector: the results of the vector's arm, with changes.
        """
        found = Compared.of(len(self.lines))
        found.reasons = vector.reasons
        # All lines grew or shrank by the same number of tokens, so the longest is still first.
        texts = Texts(tuple(line.ids for line in fronted))
        moved = [other.offset - line.offset for line, other in zip(self.lines, fronted, strict=True)]

        def runs_of(text: int) -> Iterator[Run]:
            if text in vector.changes:
                yield Run(text, [position + moved[text] for position in vector.changes[text][0]])

        for run, values in logprobs(self.network, texts, runs_of, self.see):
            kept = vector.changes[run.text][0]
            self._enter(found, Run(run.text, kept), values, keep_changes=False)
        return found


def _whole(network: Network, texts: Texts, see: See | None) -> list[Tensor]:
    """Log probabilities of every token but the first in each text."""
    found = [torch.zeros(0, dtype=torch.float64)] * len(texts.ids)

    def runs_of(text: int) -> Iterator[Run]:
        if len(texts.ids[text]) > 1:
            yield Run(text, range(len(texts.ids[text]) - 1))

    for run, values in logprobs(network, texts, runs_of, see):
        found[run.text] = values.clone()  # a copy, so that the memory of the pass can be freed
    return found
