"""Sentences as rows of tokens: BOS, what keeps a vector apart from the text, the sentence.

Here it is decided which predictions an arm is compared on. This module does not know activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steer_cli.errors import CorpusError, PlanError
from steer_cli.measure.corpus import Corpus
from steer_cli.planning.placement import Alignment, Placement, place
from steer_cli.planning.tokens import Tokenizer, pad_id
from steer_cli.recipe.yaml_source import show


@dataclass(frozen=True)
class Line:
    """A sentence as tokens; `offset` is the position of its own first token."""

    corpus: str
    label: str | None
    text: str
    ids: tuple[int, ...]
    offset: int
    number: int  # in the order of the files


@dataclass(frozen=True)
class Fitted:
    """The plan of a line, and the positions whose predictions are compared."""

    placements: tuple[Placement, ...]
    kept: tuple[int, ...]


def pads_in_front(alignments: Sequence[Alignment], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The spaces that keep a vector of n positions at the front apart from the text: n - 1 behind BOS.

    Raises:
        PlanError: an addition does not act at the front.
        TokenError: the model has no token that is one space.
    """
    for alignment in alignments:
        if alignment.addition.position != "front":
            raise PlanError(
                f"{alignment.label}: --method pad keeps the front free, but the addition acts at "
                f"{alignment.addition.position}; use --method overlay"
            )
    longest = max(alignment.length for alignment in alignments)
    return (pad_id(tokenizer, "space", "--method pad"),) * (longest - (tokenizer.bos is not None))


def lay_out(
    corpora: Iterable[Corpus], tokenizer: Tokenizer, front: tuple[int, ...], context: int | None
) -> tuple[Line, ...]:
    """All sentences as tokens, the longest first; `front` goes between BOS and the sentence.

    Raises:
        CorpusError: a sentence is longer than the model's context.
    """
    lines = []
    start = () if tokenizer.bos is None else (tokenizer.bos,)
    for corpus in corpora:
        for sentence in corpus.sentences:
            ids = (*start, *front, *tokenizer.encode(sentence.text))
            _check_context(len(ids), sentence.place, context)
            offset = len(start) + len(front)
            lines.append(Line(corpus.name, sentence.label, sentence.text, ids, offset, len(lines)))
    return tuple(sorted(lines, key=lambda line: -len(line.ids)))


def _check_context(length: int, place: str, context: int | None) -> None:
    if context is not None and length > context:
        raise CorpusError(
            f"{place}: a sentence of {length} tokens is longer than the model's context of {context}; "
            "split it"
        )


def prompted(lines: Iterable[Line], alignments: Sequence[Alignment], context: int | None) -> tuple[Line, ...]:
    """The same sentences, in the same order, with the plus text (and its pads) in front as tokens instead.

    Raises:
        CorpusError: a sentence is longer than the model's context with that in front.
        PlanError: the recipe has more than one text to put there.
    """
    pairs = [pair for alignment in alignments for pair in alignment.pairs]
    if len({pair.plus for pair in pairs}) > 1:
        raise PlanError(
            f"--baseline prompt: the recipe has {len(pairs)} texts and one goes in front; "
            "use a recipe of one pair"
        )
    front = pairs[0].plus.ids
    fronted = tuple(replace(line, ids=front + line.ids[line.offset :], offset=len(front)) for line in lines)
    for line in fronted:
        _check_context(len(line.ids), f"--baseline prompt: {show(line.text[:40])}", context)
    return fronted


def fit(line: Line, alignments: tuple[Alignment, ...], tokenizer: Tokenizer) -> Fitted:
    """The plan of a line.

    Predictions before a vector (`middle`, `{at: 5}`) are compared too, although it cannot reach them: the
    ratio is that of whole sentences.

    Raises:
        PlanError: the additions do not fit on it.
    """
    placements = place(alignments, tokenizer, line.ids, line.text)
    # Of the sentence's own tokens, from uncovered positions.
    covered = {p for at in placements if not at.every for p in range(at.start, at.end)}
    own = range(max(0, line.offset - 1), len(line.ids) - 1)
    return Fitted(placements, tuple(p for p in own if p not in covered))


def check_fit(lines: Iterable[Line], alignments: tuple[Alignment, ...], tokenizer: Tokenizer) -> None:
    """Raises PlanError where the additions fit no line, or one reaches no prediction that is compared.

    The ratio of such an addition would be 1 by plan.
    """
    fitted, measured, fault = False, False, None
    unreached = dict(enumerate(alignments))
    for line in lines:
        try:
            each = fit(line, alignments, tokenizer)
        except PlanError as error:
            fault = error
            continue
        fitted = True
        if each.kept:
            measured = True
            reached = [n for n in unreached if each.kept[-1] >= each.placements[n].start]
            unreached = {n: alignment for n, alignment in unreached.items() if n not in reached}
    if fault is not None and not fitted:
        raise fault
    for alignment in unreached.values() if measured else ():
        if alignment.addition.coefficient != 0:
            position = alignment.addition.position
            where = position if isinstance(position, str) else "position"
            raise PlanError(
                f"{alignment.label}: {where}: nothing follows the vector in a sentence; use front or middle"
            )
