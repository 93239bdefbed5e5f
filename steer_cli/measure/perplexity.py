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

import torch

from steer_cli.activations.arms import Steering
from steer_cli.errors import CorpusError, VectorError
from steer_cli.events import Note, silent
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.lines import CorpusPlan
from steer_cli.measure.sheet import Compared, Figure, Sheet
from steer_cli.networks.network import Network
from steer_cli.planning.alignment import files_of
from steer_cli.results import CorpusFindings, Perplexity, SentenceChange, figure_name, over_texts

LARGEST_EXPONENT = 700  # nats per token; its exponential is still finite


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
    came_to = over_texts(compared.coefficients)
    return CorpusFindings(plan.recipe, plan.facts.name, tuple(found), tuple(changes), files, came_to)


def left_out_notes(figures: Sequence[Perplexity]) -> Iterator[str]:
    """A note for every corpus with sentences that could not be measured."""
    for each in figures:
        if each.left_out:
            why = each.reason or "they are too short for the vector"
            yield (
                f"{figure_name(each.corpus, each.label)}: {each.left_out} of "
                f"{each.left_out + each.sentences} sentences are left out: {why}"
            )
