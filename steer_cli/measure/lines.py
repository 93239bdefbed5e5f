"""Lay out sentences as rows of tokens, and decide which predictions are compared.

A row is BOS, any spaces that keep a vector apart from the text, and the sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steer_cli.errors import CorpusError, PlanError
from steer_cli.measure.corpus import Corpus
from steer_cli.planning.in_front import Front, fitting, texts_towards
from steer_cli.planning.pairs import pad_id
from steer_cli.planning.placement import Alignment, Placement, check_acts_on_texts, place
from steer_cli.planning.plan import ModelFacts, align
from steer_cli.planning.span import name_of
from steer_cli.planning.tokens import Tokenizer
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe


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
    """Placements on a line, and the positions whose predictions are compared."""

    placements: tuple[Placement, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class CorpusPlan:
    """Corpora laid out as lines for a recipe's additions."""

    recipe: str  # the recipe's name
    facts: ModelFacts
    corpora: tuple[Corpus, ...]
    alignments: tuple[Alignment, ...]
    method: str
    lines: tuple[Line, ...]
    fronted: tuple[Line, ...] = ()  # the same with a text in front; empty without a baseline
    front: Front | None = None  # that text


def plan_corpora(
    recipe: Recipe,
    facts: ModelFacts,
    corpora: tuple[Corpus, ...],
    method: str = "pad",
    baseline: bool = False,
) -> CorpusPlan:
    """Lay out corpora, and check that the additions fit them.

    Args:
        method: `pad` puts spaces after BOS for the vector; `overlay` puts the vector on the text itself.
        baseline: also lay out the text that is steered towards as tokens in front of each line.

    Raises:
        CorpusError: there is no corpus, two have the same name, or a sentence exceeds the context.
        PlanError: the additions fit no line, or no text follows one of them in any line.
    """
    check_corpora(corpora)
    alignments = align(recipe, facts)
    front = pads_in_front(alignments, facts.tokenizer) if method == "pad" else ()
    lines = lay_out(corpora, facts.tokenizer, front, facts.context)
    check_fit(lines, alignments, facts.tokenizer)
    laid = CorpusPlan(recipe.name, facts, corpora, alignments, method, lines)
    if not baseline:
        return laid
    fronted, texts = with_text_in_front(lines, alignments, facts.tokenizer, facts.context)
    return replace(laid, fronted=fronted, front=texts)


def check_corpora(corpora: Sequence[Corpus]) -> None:
    """Raise CorpusError if two corpora have the same name, or there are none."""
    names = [corpus.name for corpus in corpora]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CorpusError(
            f"corpus {twice}: two corpora have this name; write NAME=FILE with different names",
            parameter="corpus",
        )
    if not names:
        raise CorpusError("corpus: none given; add `corpus=NAME=FILE`", parameter="corpus")


def pads_in_front(alignments: Sequence[Alignment], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The spaces that keep a vector of n positions at the front apart from the text: n - 1, after BOS.

    Raises:
        PlanError: an addition does not act at the front.
        TokenError: the model has no token that is one space.
    """
    for alignment in alignments:
        if alignment.addition.position != "front":
            raise PlanError(
                f"method pad: keeps the front free, but {alignment.label} acts at "
                f"{name_of(alignment.addition.position)}; use `method=overlay`",
                parameter="method",
            )
    longest = max(alignment.length for alignment in alignments)
    pad = pad_id(tokenizer, "space", "method pad")
    assert pad is not None  # only the pad `none` has no id
    return (pad,) * (longest - (tokenizer.bos is not None))


def lay_out(
    corpora: Iterable[Corpus], tokenizer: Tokenizer, front: tuple[int, ...], context: int | None
) -> tuple[Line, ...]:
    """All sentences as tokens, longest first; `front` goes between BOS and the sentence.

    Raises:
        CorpusError: a sentence is longer than the model's context.
    """
    lines: list[Line] = []
    start = () if tokenizer.bos is None else (tokenizer.bos,)
    for corpus in corpora:
        for sentence in corpus.sentences:
            ids = (*start, *front, *tokenizer.encode(sentence.text))
            _check_context(len(ids), sentence.place, context)
            offset = len(start) + len(front)
            lines.append(Line(corpus.name, sentence.label, sentence.text, ids, offset, len(lines)))
    return tuple(sorted(lines, key=lambda line: -len(line.ids)))


def _check_context(length: int, place: str, context: int | None, parameter: str | None = None) -> None:
    if context is not None and length > context:
        raise CorpusError(
            f"{place}: a sentence of {length} tokens is longer than the model's context of {context}; "
            "split it",
            parameter=parameter,
        )


def with_text_in_front(
    lines: Sequence[Line], alignments: Sequence[Alignment], tokenizer: Tokenizer, context: int | None
) -> tuple[tuple[Line, ...], Front]:
    """The same sentences, in the same order, with the text that is steered towards (and its pads) in front
    as tokens instead.

    Several different texts stand there without pads, one after the other, as many as the context holds.

    Raises:
        CorpusError: a sentence is longer than the model's context with even one text in front.
        PlanError: an addition steers towards a chat.
    """
    try:
        texts = texts_towards(alignments)
    except PlanError as error:
        raise PlanError(f"baseline prompt: {error}; leave it out", parameter="baseline") from None
    if len(texts) == 1:
        front, rows = Front(texts, 1), (row.ids for alignment in alignments for row in alignment.rows_towards)
        ids = max(rows, key=len)
    else:
        own = max(len(line.ids) - line.offset for line in lines)
        start = tokenizer.bos is not None
        front = fitting(texts, None if context is None else context - own - start, tokenizer)
        ids = tokenizer.prompt(front.text)
    fronted = tuple(replace(line, ids=ids + line.ids[line.offset :], offset=len(ids)) for line in lines)
    for line in fronted:
        _check_context(len(line.ids), f"baseline prompt: {show(line.text[:40])}", context, "baseline")
    return fronted, front


def fit(line: Line, alignments: tuple[Alignment, ...], tokenizer: Tokenizer) -> Fitted:
    """Place the additions on a line.

    Predictions before a vector (`middle`, `{at: 5}`) are compared too, although it cannot affect them: the
    ratio is for whole sentences.

    Raises:
        PlanError: the additions do not fit the line.
    """
    placements = place(alignments, tokenizer, line.ids, line.text)
    # Predictions of the sentence's own tokens, made at uncovered positions.
    spans = [range(placement.start, placement.end) for placement in placements if not placement.every]
    covered = {position for span in spans for position in span}
    predicting = range(max(0, line.offset - 1), len(line.ids) - 1)
    return Fitted(placements, tuple(position for position in predicting if position not in covered))


def check_fit(lines: Iterable[Line], alignments: tuple[Alignment, ...], tokenizer: Tokenizer) -> None:
    """Raise PlanError if the additions fit no line, or one cannot affect any compared prediction.

    The ratio for such an addition would always be 1.
    """
    check_acts_on_texts(alignments)
    fitted, measured, fault = False, False, None
    unreached = dict(enumerate(alignments))
    for line in lines:
        try:
            fitted_line = fit(line, alignments, tokenizer)
        except PlanError as error:
            fault = error
            continue
        fitted = True
        if fitted_line.kept:
            measured = True
            reached = [n for n in unreached if fitted_line.kept[-1] >= fitted_line.placements[n].start]
            unreached = {n: alignment for n, alignment in unreached.items() if n not in reached}
    if fault is not None and not fitted:
        raise fault
    for alignment in unreached.values() if measured else ():
        if not alignment.addition.adds_nothing:
            raise PlanError(
                f"{alignment.label}: {name_of(alignment.addition.position)}: nothing follows the vector in a "
                "sentence; use front or middle"
            )
