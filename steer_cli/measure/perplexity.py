"""How likely are the sentences of a corpus, steered against unsteered?

Every sentence stands by itself behind BOS. d is log p(steered) - log p(unsteered) of a token; the ratio of
the perplexities is exp(-mean d) over all tokens of the sentences (Turner et al. 2023, "Perplexity on lots
of sentences"). Predictions made from positions that a vector lies on are left out for both arms, because
the stream there was overwritten; with `every` a vector lies on all of them, and none is left out. Those made
before a vector (`middle`, `{at: 5}`) count too, with a d of 0. This module does not know files or how figures
are shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steer_cli.arms import Unplaced, arm_of
from steer_cli.corpus import Corpus
from steer_cli.errors import CorpusError
from steer_cli.findings import Perplexity, SentenceChange, figure_name
from steer_cli.measure.lines import Line, fit
from steer_cli.measure.scoring import Deltas, Job, Texts, logprobs, texts_at
from steer_cli.model import Model
from steer_cli.tokens import Tokenizer


@dataclass
class Sheet:
    """The lines of a run with their unsteered log probabilities, which every arm is compared with."""

    model: Model
    tokenizer: Tokenizer
    lines: tuple[Line, ...]
    texts: Texts = field(init=False)
    unsteered: list[Tensor] = field(init=False)
    faults: dict[int, str] = field(default_factory=dict, init=False)  # line -> why an arm does not fit on it

    def __post_init__(self) -> None:
        self.texts = Texts(tuple(line.ids for line in self.lines))
        jobs = [Job(text, {}) for text in range(len(self.lines))]
        self.unsteered = logprobs(self.model, self.texts, jobs)

    def changes(self, arms: Sequence[Unplaced]) -> list[list[Tensor | None]]:
        """d of every prediction, for each arm and line: NaN where it is left out, None for one without.

        An arm that adds nothing is the unsteered one, so that its d is exactly 0.

        Raises:
            PlanError: an arm fits no line at all, or reaches no prediction.
            VectorError: log probabilities are not finite any more.
        """
        layer = min((arm.layer for arm in arms if not arm.nothing), default=None)
        if layer is not None:
            self.texts = texts_at(self.model, self.texts, layer)
        results: list[list[Tensor | None]] = [[None] * len(self.lines) for _ in arms]
        jobs, targets = [], []
        for number, arm in enumerate(arms):
            fitted, faults = fit(self.lines, arm.alignments, self.tokenizer)
            self.faults |= faults
            deltas: dict[tuple, Deltas] = {}
            for text, each in fitted.items():
                placements, kept = each.placements, each.kept
                if not kept:
                    continue
                if arm.nothing:
                    results[number][text] = _only(
                        torch.zeros(len(self.lines[text].ids) - 1, dtype=torch.float64), kept
                    )
                    continue
                spans = tuple((at.start, at.end, at.first_row) for at in placements)
                if spans not in deltas:
                    end = max(at.end for at in placements)
                    deltas[spans] = arm_of(self.model, placements, arm.vectors, end).prompt
                jobs.append(Job(text, deltas[spans], kept[0]))
                targets.append((number, text, kept))
        # Row by row, all arms of a text together, so that a pass holds texts of one length.
        order = sorted(range(len(jobs)), key=lambda index: jobs[index].text)
        steered = logprobs(self.model, self.texts, [jobs[index] for index in order])
        for index, values in zip(order, steered, strict=True):
            number, text, kept = targets[index]
            results[number][text] = _only(values - self.unsteered[text], kept)
        return results


def _only(values: Tensor, kept: Sequence[int]) -> Tensor:
    chosen = torch.full_like(values, float("nan"))
    chosen[list(kept)] = values[list(kept)]
    return chosen


def prompt_changes(
    plain: Sheet, fronted: Sequence[Line], kept: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """d of the same texts with tokens in front instead of a vector, where the vector's arm keeps predictions.

    Args:
        fronted: the lines of `plain` in the same order, laid out with the plus text in front.
        kept: d of the vector's arm, as `Sheet.changes` gives it.
    """
    order = sorted(range(len(fronted)), key=lambda index: -len(fronted[index].ids))
    texts = Texts(tuple(fronted[index].ids for index in order))
    values = dict(
        zip(order, logprobs(plain.model, texts, [Job(row, {}) for row in range(len(order))]), strict=True)
    )
    results: list[Tensor | None] = []
    for index, (line, other) in enumerate(zip(plain.lines, fronted, strict=True)):
        moved = other.offset - line.offset
        own = values[index]
        whole = torch.full_like(plain.unsteered[index], float("nan"))
        for p in range(len(whole)):
            whole[p] = own[p + moved] - plain.unsteered[index][p]
        results.append(None if kept[index] is None else whole.masked_fill(kept[index].isnan(), float("nan")))
    return results


def figures(
    sheet: Sheet, changes: Sequence[Tensor | None], corpora: Sequence[Corpus], method: str
) -> list[Perplexity]:
    """Perplexities and their ratio, for each corpus and label.

    Raises:
        CorpusError: no prediction of a corpus or label is left to compare.
    """
    return [_figures(sheet, changes, corpus, label, method) for corpus in corpora for label in corpus.labels]


def _figures(
    sheet: Sheet, changes: Sequence[Tensor | None], corpus: Corpus, label: str | None, method: str
) -> Perplexity:
    own = [i for i, line in enumerate(sheet.lines) if (line.corpus, line.label) == (corpus.name, label)]
    sums, counts, plain = [], [], []
    for index in own:
        if changes[index] is not None:
            kept = ~changes[index].isnan()
            sums.append(float(changes[index][kept].sum()))
            plain.append(float(sheet.unsteered[index][kept].sum()))
            counts.append(int(kept.sum()))
    missing = [index for index in own if changes[index] is None]
    reason = next((sheet.faults[index] for index in missing if index in sheet.faults), None)
    if not counts:
        named = figure_name(corpus.name, label)
        raise CorpusError(
            f"corpus {named}: no sentence can be measured: {reason}"
            if reason
            else f"corpus {named}: no sentence is long enough to compare a prediction behind the vector; "
            "give longer ones"
        )
    tokens = sum(counts)
    mean = sum(sums) / tokens
    return Perplexity(
        corpus=corpus.name,
        label=label,
        method=method,
        perplexity_unsteered=math.exp(-sum(plain) / tokens),
        perplexity_steered=math.exp(-(sum(plain) + sum(sums)) / tokens),
        ratio=math.exp(-mean),
        stderr=_stderr(sums, counts, mean),
        sentences=len(counts),
        tokens=tokens,
        left_out=len(own) - len(counts),
        reason=reason,
    )


def _stderr(sums: Sequence[float], counts: Sequence[int], mean: float) -> float | None:
    """Standard error of exp(-mean d), sentences being the independent draws.

    The mean is a ratio of two sums over sentences; its variance is that of the linearised ratio, and the
    exponential multiplies its root by the ratio itself (delta method).
    """
    size = len(sums)
    if size < 2:
        return None
    spread = sum((value - mean * count) ** 2 for value, count in zip(sums, counts, strict=True))
    return math.exp(-mean) * math.sqrt(size / (size - 1) * spread) / sum(counts)


def sentence_changes(
    sheet: Sheet, changes: Sequence[Tensor | None], piece: Callable[[int], str]
) -> list[SentenceChange]:
    """The heat map's rows: the tokens behind BOS and what was put in front, with d of each."""
    rows = []
    for line, change in sorted(zip(sheet.lines, changes, strict=True), key=lambda pair: pair[0].number):
        values = [None] * len(line.ids) if change is None else [None, *change.tolist()]
        shown = [None if value is None or math.isnan(value) else value for value in values]
        pieces = tuple(piece(id) for id in line.ids[line.offset :])
        rows.append(SentenceChange(line.corpus, line.label, pieces, tuple(shown[line.offset :])))
    return rows
