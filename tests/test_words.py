"""Words are counted whole, in any case."""

import pytest

from steer_cli.measure.words import count_words

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


def test_a_phrase_and_letters_beyond_ascii():
    assert count_words("Mariage à la MAIRIE, à La mairie", {"place": ["à la mairie"]}) == {"place": 2}
    assert count_words("ÉGLISE", {"place": ["église"]}) == {"place": 1}


def test_the_longer_of_two_words_wins_where_both_begin():
    assert count_words("wedding", {"w": ["wed", "wedding"]}) == {"w": 1}
