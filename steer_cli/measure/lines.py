"""Sentences as rows of tokens: BOS, what keeps a vector apart from the text, the sentence.

This module does not know activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steer_cli.corpus import Corpus
from steer_cli.errors import CorpusError, PlanError
from steer_cli.plan import Alignment
from steer_cli.tokens import Tokenizer, pad_id


@dataclass(frozen=True)
class Line:
    """A sentence as tokens; `offset` is the position of its own first token."""

    corpus: str
    label: str | None
    text: str
    ids: tuple[int, ...]
    offset: int
    number: int  # in the order of the files


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
            if context is not None and len(ids) > context:
                raise CorpusError(
                    f"{sentence.place}: a sentence of {len(ids)} tokens is longer than the model's context "
                    f"of {context}; split it"
                )
            offset = len(start) + len(front)
            lines.append(Line(corpus.name, sentence.label, sentence.text, ids, offset, len(lines)))
    return tuple(sorted(lines, key=lambda line: -len(line.ids)))


def prompted(
    lines: Iterable[Line], alignments: Sequence[Alignment], tokenizer: Tokenizer
) -> tuple[Line, ...]:
    """The same sentences, in the same order, with the plus text (and its pads) in front as tokens instead.

    Raises:
        PlanError: the recipe has more than one text to put there.
    """
    pairs = [pair for alignment in alignments for pair in alignment.pairs]
    if len({pair.plus for pair in pairs}) > 1:
        raise PlanError(
            f"--baseline prompt: the recipe has {len(pairs)} texts and one goes in front; "
            "use a recipe of one pair"
        )
    return tuple(
        replace(line, ids=pairs[0].plus.ids + line.ids[line.offset :], offset=len(pairs[0].plus.ids))
        for line in lines
    )
