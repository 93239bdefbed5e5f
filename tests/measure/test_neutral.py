"""The neutral text that ships is long, varied and without repeats, and it is in the package."""

from __future__ import annotations

import re
from importlib.resources import files

from steer_cli.measure.neutral import neutral_text


def test_the_neutral_text_has_at_least_two_hundred_different_sentences():
    texts = [sentence.text for sentence in neutral_text().sentences]
    assert len(texts) >= 220
    assert len(set(texts)) == len(texts)


def test_every_line_of_the_file_is_one_sentence():
    written = files("steer_cli.measure").joinpath("neutral.txt").read_text(encoding="utf-8")
    assert [sentence.text for sentence in neutral_text().sentences] == written.splitlines()


def test_prose_dialogue_instructions_and_code_are_all_there():
    texts = [sentence.text for sentence in neutral_text().sentences]
    dialogue = [text for text in texts if text.startswith('"')]
    code = [text for text in texts if re.search(r"[(){}\[\]=<>;|]", text)]
    prose = [text for text in texts if text not in dialogue and text not in code]
    assert len(dialogue) >= 40 and len(code) >= 25 and len(prose) >= 100


def test_sentences_have_eight_to_thirty_words_except_code():
    for sentence in neutral_text().sentences:
        count = len(sentence.text.split())
        assert count <= 30, sentence.text
        if not re.search(r"[(){}\[\]=<>;|*]|git ", sentence.text):
            assert count >= 8, sentence.text
