"""How likely are the sentences of a corpus, steered compared with unsteered?

Each sentence is measured on its own, after BOS. With d = log p(steered) - log p(unsteered) for a token, the
ratio of perplexities is exp(-mean d) over all tokens of the sentences (Turner et al. 2023, "Perplexity on
lots of sentences"). Predictions made at positions covered by a vector are left out in both arms, because the
stream there was overwritten; `every` covers all positions, and none is left out. Predictions before a vector
(`middle`, `{at: 5}`) count too, with d = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steer_cli.activations.arms import Steering
from steer_cli.errors import CorpusError, PlanError, VectorError
from steer_cli.events import Note, silent
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.lines import CorpusPlan, Line, fit
from steer_cli.measure.scoring import Run, See, Texts, logprobs, texts_at
from steer_cli.networks.network import Network
from steer_cli.planning.alignment import files_of
from steer_cli.planning.tokens import Tokenizer
from steer_cli.results import CorpusFindings, Perplexity, SentenceChange, figure_name, left_out_notes

LARGEST_EXPONENT = 700  # nats per token; its exponential is still finite

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
    unsteered: list[Tensor] = field(init=False)  # for every token but the first

    def __post_init__(self) -> None:
        self.texts = Texts(tuple(line.ids for line in self.lines))
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
                yield Run(text, fitted.kept, arm.on(fitted.placements), number)

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

        for run, values in logprobs(self.network, texts, runs_of):
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


def figures(sheet: Sheet, compared: Compared, corpora: Sequence[Corpus], method: str) -> list[Perplexity]:
    """Perplexities and their ratio, for each corpus and label.

    Raises:
        CorpusError: no prediction of a corpus or label can be compared.
    """
    return [
        _figures(sheet, compared, (corpus.name, label), method)
        for corpus in corpora
        for label in corpus.labels
    ]


def _figures(sheet: Sheet, compared: Compared, figure: Figure, method: str) -> Perplexity:
    lines = [i for i, line in enumerate(sheet.lines) if (line.corpus, line.label) == figure]
    kept = [index for index in lines if compared.count[index]]
    reason = compared.reasons.get(figure)
    if not kept:
        named = figure_name(*figure)
        raise CorpusError(
            f"corpus {named}: no sentence can be measured: {reason}"
            if reason
            else f"corpus {named}: no sentence is long enough to compare a prediction after the vector; "
            "give longer ones"
        )
    sums = [compared.change[index] for index in kept]
    counts = [compared.count[index] for index in kept]
    plain, tokens = sum(compared.unsteered[index] for index in kept), sum(counts)
    mean = sum(sums) / tokens
    if -min(mean, plain / tokens, (plain + sum(sums)) / tokens) > LARGEST_EXPONENT:
        raise VectorError(
            f"corpus {figure_name(*figure)}: the perplexity is no longer finite; use a smaller coefficient"
        )
    return Perplexity(
        *figure,
        method=method,
        perplexity_unsteered=math.exp(-plain / tokens),
        perplexity_steered=math.exp(-(plain + sum(sums)) / tokens),
        ratio=math.exp(-mean),
        stderr=_stderr(sums, counts, mean),
        sentences=len(kept),
        tokens=tokens,
        left_out=len(lines) - len(kept),
        reason=reason,
    )


def _stderr(sums: Sequence[float], counts: Sequence[int], mean: float) -> float | None:
    """Standard error of exp(-mean d), with sentences as the independent draws.

    The mean is a ratio of two sums over sentences. By the delta method, its variance is that of the
    linearised ratio, and the exponential multiplies its standard error by the perplexity ratio itself.
    """
    size = len(sums)
    if size < 2:
        return None
    spread = sum((value - mean * count) ** 2 for value, count in zip(sums, counts, strict=True))
    return math.exp(-mean) * math.sqrt(size / (size - 1) * spread) / sum(counts)


def sentence_changes(sheet: Sheet, compared: Compared, piece: Callable[[int], str]) -> list[SentenceChange]:
    """Rows of the heat map: the tokens after BOS and anything put in front, with d for each."""
    rows = []
    for text, line in sorted(enumerate(sheet.lines), key=lambda pair: pair[1].number):
        shown: list[float | None] = [None] * len(line.ids)
        kept, changes = compared.changes.get(text, ((), torch.zeros(0)))
        for position, change in zip(kept, changes.tolist(), strict=True):
            shown[position + 1] = change
        pieces = tuple(piece(id) for id in line.ids[line.offset :])
        rows.append(SentenceChange(line.corpus, line.label, pieces, tuple(shown[line.offset :])))
    return rows


def compare_corpora(
    network: Network,
    plan: CorpusPlan,
    steering: Steering,
    sentences: bool = False,
    note: Note = silent,
) -> CorpusFindings:
    """Compare every corpus of a plan, and its baseline if there is one, steered with unsteered.

    Args:
        sentences: keep the change of every token.
        note: called to say how lines were split and which sentences are left out.
    """
    for said in filter(None, (corpus.split for corpus in plan.corpora)):
        note(said)
    sheet = Sheet(network, plan.facts.tokenizer, plan.lines)
    [compared] = sheet.compare([steering], keep_changes=sentences or bool(plan.fronted))
    found = figures(sheet, compared, plan.corpora, plan.method)
    if plan.fronted:
        if plan.front is not None and plan.front.count > 1:
            note(f"baseline prompt: {plan.front.name} stand in front of each sentence")
        in_front = sheet.with_tokens_in_front(plan.fronted, compared)
        found += figures(sheet, in_front, plan.corpora, "prompt")
    # The baseline leaves out the same sentences.
    for said in dict.fromkeys(left_out_notes(found)):
        note(said)
    changes = sentence_changes(sheet, compared, plan.facts.tokenizer.piece) if sentences else ()
    files = files_of(steering.alignments)
    return CorpusFindings(plan.recipe, plan.facts.name, tuple(found), tuple(changes), files)
