"""Words are counted whole, in any case."""

import numpy as np
import pytest

from steer_cli.measure.words import count_words
from steer_cli.results import compare_arms

WEDDING = {"wedding": ["wedding", "weddings", "wed"]}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("A wedding.", 1),
        ("Wedding, WEDDINGS; wEd!", 3),
        ("wedding-wedding (wed)", 3),
        ("weddingcake, newlywed, wedded, Wednesday", 0),
        ("two\nweddings\n\nwed", 2),
        ("éwed wedé wed2", 0),
    ],
)
def test_whole_words_in_any_case(text, count):
    assert count_words(text, WEDDING) == {"wedding": count}


def test_each_label_counts_by_itself():
    lists = {"love": ["love"], "both": ["love", "hate"], "none": ["calm"]}
    assert count_words("Love, hate and love", lists) == {"love": 2, "both": 3, "none": 0}


def test_words_are_no_patterns():
    assert count_words("Nothing but a.c", {"dot": ["a.c"]}) == {"dot": 1}
    assert count_words("Nothing but abc", {"dot": ["a.c"]}) == {"dot": 0}
    assert count_words("C++ and C", {"c": ["C++"]}) == {"c": 1}


def test_punctuation_counts_beside_letters_too():
    assert count_words("What is it? Who, me?!", {"question": ["?"]}) == {"question": 2}
    assert count_words("It was... well, it was.", {"pause": ["..."]}) == {"pause": 1}
    assert count_words("C++11 and C++", {"c": ["C++"]}) == {"c": 2}
    assert count_words("xC++", {"c": ["C++"]}) == {"c": 0}


def test_a_phrase_and_letters_beyond_ascii():
    assert count_words("Mariage à la MAIRIE, à La mairie", {"place": ["à la mairie"]}) == {"place": 2}
    assert count_words("ÉGLISE", {"place": ["église"]}) == {"place": 1}


def test_the_longer_of_two_words_wins_where_both_begin():
    assert count_words("wedding", {"w": ["wed", "wedding"]}) == {"w": 1}


def test_the_error_of_counts_is_from_sample_to_sample_for_these_prompts():
    # Three prompts that differ much and samples that do not: more samples would change nothing.
    still = compare_arms([[0, 0], [1, 1], [5, 5]], [[1, 1], [2, 2], [6, 6]])
    assert still.unsteered == 2 and still.steered == 3 and still.difference == 1
    assert still.unsteered_stderr == still.steered_stderr == still.difference_stderr == 0
    # Means over two prompts, sample by sample: 1, 3, 2 unsteered and 2, 5, 2 steered.
    moved = compare_arms([[0, 2, 4], [2, 4, 0]], [[1, 4, 4], [3, 6, 0]])
    assert moved.unsteered_stderr == pytest.approx(np.std([1, 3, 2], ddof=1) / 3**0.5)
    assert moved.steered_stderr == pytest.approx(np.std([2, 5, 2], ddof=1) / 3**0.5)
    assert moved.difference_stderr == pytest.approx(np.std([1, 2, 0], ddof=1) / 3**0.5)
    # One sample of each prompt: the prompts are the draws.
    assert compare_arms([[0], [2]], [[1], [5]]).difference_stderr == pytest.approx(1)
