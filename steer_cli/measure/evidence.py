"""What shows that steering works, and what it must not harm: sentences, choices between answers, words.

A sentence counts once in its set, and stands in one set only. Sets are cut in two by their content, so that a
search can be judged by what it has not seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from steer_cli.errors import CorpusError
from steer_cli.events import Note, silent
from steer_cli.measure.corpus import Corpus, Sentence
from steer_cli.measure.neutral import neutral_text
from steer_cli.planning.directions import texts_of
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.quoting import counted, show
from steer_cli.recipe.schema import Recipe

# With fewer draws, no interval would hold what it promises; of what is very unequal, such as KL on neutral
# sentences and words in completions, no fewer than FEWEST_UNEQUAL will do. See docs/score.md.
FEWEST, FEWEST_UNEQUAL = 8, 16

SETS = ("toward", "away", "neutral")  # of sentences


@dataclass(frozen=True)
class Choice:
    """A prompt and two answers to it; `place` is FILE:LINE, for errors."""

    prompt: str | Chat
    matching: str
    not_matching: str
    place: str = ""

    @property
    def content(self) -> str:
        """What makes it this item; the order of the answers does not."""
        prompt = self.prompt.record() if isinstance(self.prompt, Chat) else self.prompt
        return json.dumps([prompt, *sorted((self.matching, self.not_matching))])


@dataclass(frozen=True)
class Choices:
    """Items, and the SHA-256 of their content."""

    items: tuple[Choice, ...]
    sha256: str

    @classmethod
    def of(cls, items: Iterable[Choice]) -> Choices:
        kept = tuple(items)
        written = json.dumps([[item.content, item.matching] for item in kept])
        return cls(kept, hashlib.sha256(written.encode()).hexdigest())


@dataclass(frozen=True)
class Evidence:
    """What effect and damage are measured on; made by `gathered`, which checks it.

    `count` is a label of the recipe's word lists, whose words are counted in completions.
    """

    neutral: Corpus
    toward: Corpus | None = None
    away: Corpus | None = None
    choices: Choices | None = None
    count: str | None = None

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """The sets of sentences that there are, by the names in SETS."""
        return tuple(corpus for corpus in (self.toward, self.away, self.neutral) if corpus is not None)


def gathered(
    toward: Corpus | None = None,
    away: Corpus | None = None,
    neutral: Corpus | None = None,
    choices: Choices | None = None,
    count: str | None = None,
    recipe: Recipe | None = None,
    note: Note = silent,
) -> Evidence:
    """Put evidence together, without repeated sentences and those that the recipe's vectors are made of.

    A vector made of a sentence says little about others by what it does to that one.

    Args:
        neutral: by default the text that ships.
        count: a label of the recipe's word lists.
        note: told what is left out.

    Raises:
        CorpusError: there is nothing to measure an effect by, a set is too small, a sentence stands in two
            sets, or the recipe has no such words.
        PlanError: a file of the recipe's texts cannot be read.
    """
    if toward is None and away is not None:
        raise CorpusError("away: needs toward sentences too; add `toward=FILE`", "away")
    if toward is None and choices is None and count is None:
        raise CorpusError(
            "nothing to measure an effect by; add `toward=FILE` (sentences), `choices=FILE` (answers) or "
            "`count=NAME` (words)"
        )
    if count is not None and recipe is not None:
        _check_counted(count, recipe)
    given = dict(zip(SETS, (toward, away, neutral or neutral_text()), strict=True))
    sets = {name: _distinct(name, corpus, note) for name, corpus in given.items() if corpus is not None}
    _check_apart(sets)
    for name, corpus in sets.items():
        _check_size(name, len(corpus.sentences), "sentence")
    made_of = frozenset[str]() if recipe is None else texts_of(recipe)
    sets = {name: _unused(name, corpus, made_of, note) for name, corpus in sets.items()}
    if choices is not None:
        choices = _unused_choices(_distinct_choices(choices, note), made_of, note)
    return Evidence(sets["neutral"], sets.get("toward"), sets.get("away"), choices, count)


def _check_counted(count: str, recipe: Recipe) -> None:
    if count not in recipe.count:
        known = ", ".join(map(show, recipe.count))
        ways = f"it has {known}" if known else "it has no word lists; add `count: {NAME: [word, ...]}` to it"
        raise CorpusError(f"count {show(count)}: no such words in {recipe.label}; {ways}", "count")


def _distinct(name: str, corpus: Corpus, note: Note) -> Corpus:
    """Each sentence once, under the set's name and without labels."""
    first: dict[str, Sentence] = {}
    for sentence in corpus.sentences:
        first.setdefault(sentence.text, replace(sentence, label=None))
    _say_repeated(name, len(corpus.sentences) - len(first), "sentence", note)
    return Corpus.of(name, first.values(), corpus.split)


def _unused(name: str, corpus: Corpus, made_of: frozenset[str], note: Note) -> Corpus:
    """The sentences that the recipe's vectors are not made of."""
    kept = [sentence for sentence in corpus.sentences if sentence.text.strip() not in made_of]
    _say_used(name, len(kept), len(corpus.sentences), "sentence", note)
    return Corpus.of(name, kept, corpus.split)


def _unused_choices(choices: Choices, made_of: frozenset[str], note: Note) -> Choices:
    """The items that the recipe's vectors are not made of, with one of the answers."""
    kept = [
        item
        for item in choices.items
        if isinstance(item.prompt, Chat)
        or not made_of & {f"{item.prompt}{answer}".strip() for answer in (item.matching, item.not_matching)}
    ]
    _say_used("choices", len(kept), len(choices.items), "item", note)
    return Choices.of(kept)


def _say_used(name: str, kept: int, count: int, what: str, note: Note) -> None:
    """Say how many of a set the recipe's vectors are made of, if any.

    Raises:
        CorpusError: too few others are left.
    """
    used = count - kept
    if used and kept < fewest(name):
        raise CorpusError(
            f"{name}: the recipe's vector is made of {used} of {counted(count, what)}; give "
            f"{fewest(name)} or more others",
            name,
        )
    if used:
        note(f"{name}: left out {counted(used, what)} that the recipe's vector is made of")


def _distinct_choices(choices: Choices, note: Note) -> Choices:
    first: dict[str, Choice] = {}
    for item in choices.items:
        other = first.setdefault(item.content, item)
        if other.matching != item.matching:
            raise CorpusError(
                f"choices {item.place}: same item as {other.place} with the answers swapped; keep one",
                "choices",
            )
    _check_size("choices", len(first), "item")
    _say_repeated("choices", len(choices.items) - len(first), "item", note)
    return Choices.of(first.values())


def fewest(name: str) -> int:
    """How many sentences or items this set needs."""
    return FEWEST_UNEQUAL if name == "neutral" else FEWEST


def _check_size(name: str, count: int, what: str) -> None:
    if count < fewest(name):
        counted = f"{count} different {what}{'' if count == 1 else 's'}"
        raise CorpusError(f"{name}: {counted}, too few for an interval; give {fewest(name)} or more", name)


def _say_repeated(name: str, count: int, what: str, note: Note) -> None:
    if count:
        note(f"{name}: {count} repeated {what}{'' if count == 1 else 's'} left out")


def _check_apart(sets: dict[str, Corpus]) -> None:
    """Raise CorpusError where a sentence stands in two sets."""
    found: dict[str, tuple[str, Sentence]] = {}
    for name, corpus in sets.items():
        for sentence in corpus.sentences:
            if sentence.text in found:
                other, where = found[sentence.text]
                raise CorpusError(
                    f"{name} {sentence.place}: {show(sentence.text[:40])} is also a sentence of `{other}` "
                    f"({where.place}); each sentence may stand in one of them",
                    name,
                )
            found[sentence.text] = name, sentence


def halves(evidence: Evidence) -> tuple[Evidence, Evidence]:
    """The evidence of a search, and that of the card which judges what it found.

    Each set is cut by a hash of each sentence or item alone: neither order, nor file, nor the other sentences
    matter. Words are counted in both, so completions of the two must differ in their seeds.

    Raises:
        CorpusError: a half is too small.
    """
    search, card = (_half(evidence, half) for half in (0, 1))
    return search, card


def _half(evidence: Evidence, half: int) -> Evidence:
    toward, away = (corpus and _kept(corpus, half) for corpus in (evidence.toward, evidence.away))
    choices = evidence.choices
    if choices is not None:
        items = [item for item in choices.items if _half_of(item.content) == half]
        _check_half("choices", len(items), len(choices.items), "items")
        choices = Choices.of(items)
    return Evidence(_kept(evidence.neutral, half), toward, away, choices, evidence.count)


def _kept(corpus: Corpus, half: int) -> Corpus:
    sentences = [sentence for sentence in corpus.sentences if _half_of(sentence.text) == half]
    _check_half(corpus.name, len(sentences), len(corpus.sentences), "sentences")
    return Corpus.of(corpus.name, sentences)


def _half_of(content: str) -> int:
    return hashlib.sha256(content.encode()).digest()[0] & 1


def _check_half(name: str, kept: int, count: int, what: str) -> None:
    if kept < fewest(name):
        raise CorpusError(
            f"{name}: {count} {what} are too few to search with one half and judge by the other ({kept} in "
            f"one of them); give {4 * fewest(name)} or more",
            name,
        )
