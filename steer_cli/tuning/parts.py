"""Parts of evidence for the rounds of a search, chosen by the content of sentences and items alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from steer_cli.measure.corpus import Corpus, Sentence
from steer_cli.measure.evidence import Choices, Evidence, fewest

Item = TypeVar("Item")


def part_of(evidence: Evidence, share: float, most: int | None = None) -> Evidence:
    """A share of each set: those whose digests come first.

    They are at least as many as an interval needs, and at most `most`. A smaller share is part of each larger
    one.
    """
    neutral, toward, away = (
        corpus and Corpus.of(corpus.name, _first(corpus.name, corpus.sentences, _text, share, most))
        for corpus in (evidence.neutral, evidence.toward, evidence.away)
    )
    assert neutral is not None
    choices = evidence.choices
    if choices is not None:
        choices = Choices.of(_first("choices", choices.items, lambda item: item.content, share, most))
    return replace(evidence, neutral=neutral, toward=toward, away=away, choices=choices)


def _text(sentence: Sentence) -> str:
    return sentence.text


def _first(
    name: str, all_of: Sequence[Item], content: Callable[[Item], str], share: float, most: int | None
) -> list[Item]:
    count = max(fewest(name), math.ceil(share * len(all_of)))
    count = count if most is None else min(count, most)
    # Other bytes than those that cut the evidence in two.
    ranked = sorted(all_of, key=lambda item: hashlib.sha256(f"{content(item)}\n".encode()).digest())
    kept = set(map(content, ranked[:count]))
    return [item for item in all_of if content(item) in kept]


def digests_of(evidence: Evidence) -> list[str]:
    """The sets with their digests."""
    found = [f"{corpus.name} {corpus.sha256[:16]}" for corpus in evidence.corpora]
    if evidence.choices is not None:
        found.append(f"choices {evidence.choices.sha256[:16]}")
    return [*found, *([f"count {evidence.count}"] if evidence.count else [])]
