"""Evidence: what is refused, what is left out, and how it is cut in two."""

import json
import random
from dataclasses import replace

import pytest

from steer_cli.errors import CorpusError
from steer_cli.measure.corpus import Corpus, Sentence
from steer_cli.measure.evidence import FEWEST, Choice, Choices, gathered, halves
from steer_cli.measure.evidence_files import read_choices, read_set
from steer_cli.recipe.schema import Recipe

WORDS = [
    "ship",
    "rain",
    "friend",
    "bride",
    "cake",
    "Rome",
    "Paris",
    "wine",
    "stone",
    "late",
    "people",
    "happy",
]


def corpus(count, about="weddings"):
    texts = [f"Sentence {number} is about {about}." for number in range(count)]
    return Corpus.of("file", [Sentence(text, None, f"{about}.txt:{n}") for n, text in enumerate(texts, 1)])


def choices(count):
    return Choices.of(Choice(f"Prompt {number}:", " yes", " no", f"c:{number}") for number in range(count))


def test_repeated_sentences_count_once_and_a_note_says_so():
    twice = replace(corpus(9), sentences=corpus(9).sentences * 3)
    said = []
    evidence = gathered(twice, neutral=corpus(16, "nothing"), note=said.append)
    assert evidence.toward.sentences == gathered(corpus(9)).toward.sentences
    assert said == ["toward: 18 repeated sentences left out"]


@pytest.mark.parametrize("kind", ["texts", "file", "pairs", "plus"])
def test_texts_that_the_vector_is_made_of_are_no_evidence(kind, tmp_path):
    toward, away = corpus(20), corpus(20, "ships")
    plus, minus = ([sentence.text for sentence in each.sentences[:3]] for each in (toward, away))
    addition = {"layer": 1, "position": "every"}
    if kind == "file":
        (tmp_path / "plus.txt").write_text("\n".join(plus), encoding="utf-8")
        addition |= {"texts": {"plus": str(tmp_path / "plus.txt"), "minus": minus}}
    elif kind == "texts":
        addition |= {"texts": {"plus": plus, "minus": minus}}
    elif kind == "pairs":
        addition |= {"pairs": [{"plus": one, "minus": other} for one, other in zip(plus, minus, strict=True)]}
    else:
        addition |= {"plus": f" {plus[0]}", "minus": minus[0]}
    used = 1 if kind == "plus" else 3
    said = []
    evidence = gathered(toward, away, recipe=Recipe(additions=[addition]), note=said.append)
    assert evidence.toward.sentences == toward.sentences[used:]
    assert evidence.away.sentences == away.sentences[used:]
    what = "1 sentence" if used == 1 else "3 sentences"
    assert said == [
        f"{name}: left out {what} that the recipe's vector is made of" for name in ("toward", "away")
    ]


def test_items_that_the_vector_is_made_of_are_no_evidence():
    pairs = [{"plus": f"Prompt {number}: yes", "minus": f"Prompt {number}: no"} for number in (0, 3)]
    recipe = Recipe(additions=[{"pairs": pairs, "layer": 1, "position": "every"}])
    said = []
    evidence = gathered(choices=choices(12), recipe=recipe, note=said.append)
    assert [item.prompt for item in evidence.choices.items] == [
        f"Prompt {number}:" for number in range(12) if number not in (0, 3)
    ]
    assert said == ["choices: left out 2 items that the recipe's vector is made of"]
    with pytest.raises(CorpusError, match="choices: the recipe's vector is made of 2 of 9 items; give 8"):
        gathered(choices=choices(9), recipe=recipe)


def test_where_little_else_is_left_it_is_refused():
    made_of = [sentence.text for sentence in corpus(13).sentences]
    texts = {"texts": {"plus": made_of, "minus": ["Another."]}, "layer": 1, "position": "every"}
    with pytest.raises(CorpusError, match="toward: the recipe's vector is made of 13 of 20 sentences; give"):
        gathered(corpus(20), recipe=Recipe(additions=[texts]))


def test_without_neutral_text_it_is_the_one_that_ships():
    assert len(gathered(corpus(8)).neutral.sentences) >= 200


@pytest.mark.parametrize(
    "given, said",
    [
        ({}, "nothing to measure an effect by"),
        ({"away": corpus(9)}, "away: needs toward sentences too; add `toward=FILE`"),
        ({"toward": corpus(1)}, "toward: 1 different sentence, too few"),
        ({"toward": replace(corpus(1), sentences=corpus(1).sentences * 9)}, "toward: 1 different sentence,"),
        ({"toward": corpus(9), "away": corpus(9)}, "is also a sentence of `toward` (weddings.txt:1)"),
        ({"toward": corpus(9), "neutral": corpus(16)}, "is also a sentence of `toward`"),
        ({"toward": corpus(9), "away": corpus(9, "x"), "neutral": corpus(20, "x")}, "a sentence of `away`"),
        ({"toward": corpus(9), "neutral": corpus(15, "x")}, "neutral: 15 different sentences, too few"),
        ({"choices": choices(FEWEST - 1)}, "choices: 7 different items, too few"),
    ],
)
def test_bad_evidence_is_refused(given, said):
    with pytest.raises(CorpusError) as raised:
        gathered(**given)
    assert said in str(raised.value)


def test_an_item_the_other_way_round_is_refused():
    first, *others = choices(8).items
    turned = replace(first, matching=first.not_matching, not_matching=first.matching, place="c:99")
    with pytest.raises(CorpusError, match="c:99: same item as c:0 with the answers swapped; keep one"):
        gathered(choices=Choices.of([first, *others, turned]))


def test_halves_depend_on_nothing_but_the_sentence():
    texts = [f"{word} {number}" for number, word in enumerate(WORDS * 8)]

    def sides(texts, name):
        made = Corpus.of(name, [Sentence(text, None, f"{name}:{n}") for n, text in enumerate(texts)])
        return [{s.text for s in half.toward.sentences} for half in halves(gathered(made))]

    search, card = sides(texts, "a")
    assert search | card == {*texts} and not search & card
    assert 0.3 < len(search) / len(texts) < 0.7
    shuffled = random.Random(0).sample(texts, len(texts))
    assert sides(shuffled, "b") == [search, card]
    more = [f"another {number}" for number in range(40)]
    assert [half & {*texts} for half in sides(more + texts, "c")] == [search, card]
    # `printf 'ship 0' | sha256sum` begins with af, which is odd.
    assert "ship 0" in card


def test_halves_of_choices_do_not_depend_on_which_answer_matches():
    items = choices(60).items
    turned = [replace(item, matching=item.not_matching, not_matching=item.matching) for item in items]
    for one, other in zip(
        halves(gathered(choices=Choices.of(items))),
        halves(gathered(choices=Choices.of(turned))),
        strict=True,
    ):
        assert [item.prompt for item in one.choices.items] == [item.prompt for item in other.choices.items]


def test_halves_that_are_too_small_are_refused():
    with pytest.raises(CorpusError, match="toward: 8 sentences are too few to search with one half"):
        halves(gathered(corpus(8)))


GOOD = {"prompt": "Q", "matching": " a", "not_matching": " b"}


@pytest.mark.parametrize(
    "row, said",
    [
        ({**GOOD, "not_matching": " a"}, "both answers are ' a'; they have to differ"),
        ({"prompt": "Q", "matching": " a"}, "not_matching: no such column; it has prompt, matching"),
        ({**GOOD, "matching": ""}, "matching: '' is not an answer"),
        ({**GOOD, "matching": 3}, "matching: 3 is not an answer"),
        ({**GOOD, "prompt": 7}, "prompt 7: not a text"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "content"),
        (["Q", " a", " b"], "is not an object"),
    ],
)
def test_bad_choices_name_their_line(row, said, tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(row)}\n", encoding="utf-8")
    with pytest.raises(CorpusError) as raised:
        read_choices(file)
    assert f"{file}:2" in str(raised.value) and said in str(raised.value)


def test_a_chat_may_be_the_prompt_of_a_choice(tmp_path):
    turns = [{"role": "user", "content": "How are you?"}]
    file = tmp_path / "c.jsonl"
    file.write_text(json.dumps({**GOOD, "prompt": turns}), encoding="utf-8")
    [item] = read_choices(file).items
    assert item.prompt.text == "How are you?"


def test_files_that_are_missing_or_empty(tmp_path):
    with pytest.raises(CorpusError, match=r"toward nowhere.txt: No such file"):
        read_set("toward", "nowhere.txt")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match="no item in it"):
        read_choices(tmp_path / "empty.jsonl")
    with pytest.raises(CorpusError, match=r"not a .jsonl file"):
        read_choices(tmp_path / "c.txt")
