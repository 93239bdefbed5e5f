"""The concepts in benchmarks/concepts: enough sentences, all different, and valid recipes."""

import re
from pathlib import Path

import pytest

from steer_cli.measure.corpus import read_corpus
from steer_cli.measure.evidence import gathered
from steer_cli.measure.neutral import neutral_text
from steer_cli.recipe.load import load

FOLDER = Path(__file__).parents[2] / "benchmarks" / "concepts"
CONCEPTS = ["topic", "mood", "style", "formality", "language", "sentiment", "question", "persona"]
SIDES = ("toward", "away")
WORD = re.compile(r"[^\W_][\w'-]*")


def lines(concept, side):
    return (FOLDER / concept / f"{side}.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def folded(text):
    """A sentence without what does not make it another one."""
    return " ".join(WORD.findall(text.casefold()))


def test_there_are_eight():
    assert sorted(file.name for file in FOLDER.iterdir() if file.is_dir()) == sorted(CONCEPTS)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_file_has_fifty_sentences_one_per_line(concept, side):
    written = lines(concept, side)
    corpus = read_corpus(str(FOLDER / concept / f"{side}.txt"))
    assert [sentence.text for sentence in corpus.sentences] == written
    assert len(written) == 50
    assert [line for line in written if not 7 <= len(WORD.findall(line)) <= 14] == []


def test_no_sentence_stands_twice_in_any_file_or_in_the_neutral_text():
    texts = [line for concept in CONCEPTS for side in SIDES for line in lines(concept, side)]
    texts += [sentence.text for sentence in neutral_text().sentences]
    seen = [folded(text) for text in texts]
    assert sorted(text for text in set(seen) if seen.count(text) > 1) == []


@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_files_of_a_concept_are_evidence_of_similar_length(concept):
    corpora = {side: read_corpus(str(FOLDER / concept / f"{side}.txt")) for side in SIDES}
    said = []
    evidence = gathered(**corpora, note=said.append)
    assert said == []  # nothing is left out
    toward, away = (
        sum(len(WORD.findall(sentence.text)) for sentence in corpus.sentences) / len(corpus.sentences)
        for corpus in (evidence.toward, evidence.away)
    )
    assert abs(toward - away) < 1


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_recipe_is_valid_and_has_one_pair(concept, command):
    file = FOLDER / concept / "recipe.yaml"
    assert command("check", file) == (0, f"{file}: ok (1 addition, 1 prompt)\n", "")
    recipe = load(str(file))
    [addition] = recipe.additions
    assert (recipe.name, recipe.model) == (concept, "smollm2-135m")
    assert addition.plus and addition.minus
    assert (addition.layer, addition.coefficient, addition.position) == (10, 1, "front")
