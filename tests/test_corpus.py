"""Reading corpora: what comes out of good files, and one clear line for each bad one."""

import json

import pytest

from steer_cli.corpus import Columns, parse_groups, read
from steer_cli.errors import CorpusError


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(corpus):
    return [sentence.text for sentence in corpus.sentences]


def test_a_text_is_split_into_sentences_that_may_go_on_in_the_next_line(tmp_path):
    path = written(
        tmp_path, "a.txt", 'Dr. Smith went\nhome. It was 3.5 km!\n\n\n  She said "No." Then she left.\n'
    )
    corpus = read(f"walk={path}")
    assert corpus.name == "walk"
    assert texts(corpus)[:2] == ["Dr. Smith went home.", "It was 3.5 km!"]
    assert " ".join(texts(corpus)[2:]) == 'She said "No." Then she left.'
    assert corpus.sentences[-1].place == f"{path}:5"


def test_lines_are_sentences_as_they_are(tmp_path):
    path = written(tmp_path, "a.txt", "One. Two.\r\n\r\n three \n")
    assert texts(read(str(path), lines=True)) == ["One. Two.", "three"]
    assert read(str(path)).name == "a"


def test_tables_have_columns_and_labels(tmp_path):
    csv = written(tmp_path, "a.csv", '\ufefftext,stars\n"Good, really. I came back.",5\nBad.,1\n')
    rows = [{"t": "Good, really. I came back.", "s": 5}, {"t": "Bad.", "s": 1}]
    jsonl = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    by_csv = read(str(csv), columns=Columns("text", "stars"))
    by_jsonl = read(str(jsonl), columns=Columns("t", "s"))
    assert texts(by_csv) == texts(by_jsonl) == ["Good, really.", "I came back.", "Bad."]
    assert by_csv.labels == by_jsonl.labels == ("5", "1")
    assert by_csv.sha256 == by_jsonl.sha256
    groups = parse_groups(["bad=1,2", "good=5"])
    assert read(str(csv), columns=Columns("text", "stars", groups)).labels == ("good", "bad")


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("a.txt", "", None, "no sentence"),
        ("a.txt", " \n\n", None, "no sentence"),
        ("a.txt", b"abc\0def", None, "not a text file"),
        ("a.txt", "fine\ncaf\xe9".encode("latin-1"), None, ":2: not UTF-8"),
        ("a.txt", "x", Columns("text"), "--column and --label are for .csv"),
        ("a.csv", "text\nx\n", None, "add --column"),
        ("a.csv", "text,stars\nx,1\n", Columns("body"), "no such column; it has text, stars"),
        ("a.csv", "text,stars\nx\n", Columns("text", "stars"), ":2: --label stars"),
        ("a.csv", 'text\n"x\n', Columns("text"), "not readable as CSV"),
        ("a.csv", "text,stars\nx,4\n", Columns("text", "stars", {"1": "bad"}), "in no --group"),
        ("a.csv", "text\n", Columns("text"), "no sentence"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', Columns("text"), ":2: not readable as JSON"),
        ("a.jsonl", "[1]\n", Columns("text"), "not an object"),
        ("a.jsonl", '{"text": 3}\n', Columns("text"), "is not text"),
        ("a.jsonl", '{"text": "\\ud800"}\n', Columns("text"), "half a character"),
        ("missing.txt", None, None, "No such file"),
        ("folder", "dir", None, "directory"),
    ],
)
def test_a_bad_file_is_one_clear_line(name, content, columns, said, tmp_path):
    path = tmp_path / name
    if content == "dir":
        path.mkdir()
    elif content is not None:
        written(tmp_path, name, content)
    with pytest.raises(CorpusError) as caught:
        read(f"x={path}", columns=columns)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [["negative"], ["=1"], ["a="], ["a=1", "b=1"]])
def test_bad_groups(options):
    with pytest.raises(CorpusError, match="--group"):
        parse_groups(options)
