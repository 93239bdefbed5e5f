"""Reading corpora: what comes out of good files, and one clear line for each bad one."""

import json
import textwrap
from pathlib import Path

import pytest

from steer_cli.errors import CorpusError
from steer_cli.measure.corpus import Columns, parse_groups, read_corpus


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
    corpus = read_corpus(f"walk={path}")
    assert corpus.name == "walk"
    assert texts(corpus)[:2] == ["Dr. Smith went home.", "It was 3.5 km!"]
    assert " ".join(texts(corpus)[2:]) == 'She said "No." Then she left.'
    assert corpus.sentences[-1].place == f"{path}:5"


def test_lines_are_sentences_as_they_are(tmp_path):
    path = written(tmp_path, "a.txt", "One. Two.\r\n\r\n three \n")
    assert texts(read_corpus(str(path), lines=True)) == ["One. Two.", "three"]
    assert read_corpus(str(path)).name == "a"


WEDDINGS = Path(__file__).parents[2] / "benchmarks" / "corpora" / "weddings.txt"
LINES = WEDDINGS.read_text(encoding="utf-8").split("\n")[:48]  # a sentence each
WITHOUT_STOPS = [line.rstrip(".") for line in LINES]
LISTS = {
    "sentences": LINES,
    "without full stops": WITHOUT_STOPS,
    "in lower case": [line.lower() for line in WITHOUT_STOPS],
    "in lower case, some with full stops": [line.lower() for line in (*WITHOUT_STOPS[:24], *LINES[24:])],
    "every other with a full stop": [line.rstrip(".") if n % 2 else line for n, line in enumerate(LINES)],
    "of equal length": [f"I like number {n + 10}" for n in range(48)],
    "of phrases": ["- buy milk", "- 3.5 km", "(maybe) a walk"] * 16,
    "in a script without case": ["الجو جميل اليوم", "我今天很高兴", "मैं घर गया"] * 16,
}


@pytest.mark.parametrize("lines", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("between", ["\n", "\n\n", "  \r\n"])
def test_a_line_break_ends_a_sentence_in_a_list(lines, between, tmp_path):
    path = written(tmp_path, "a.txt", between.join(lines))
    corpus = read_corpus(str(path))
    assert texts(corpus) == lines
    assert corpus.split == f"{path}: 48 lines became 48 sentences"


@pytest.mark.parametrize("width", [30, 72, 120])
def test_a_sentence_goes_on_in_the_next_line_of_wrapped_prose(width, tmp_path):
    paragraphs = [textwrap.fill(" ".join(LINES[n : n + 4]), width) for n in range(0, 48, 4)]
    for between in ("\n", "\n\n"):
        path = written(tmp_path, "a.txt", between.join(paragraphs))
        corpus = read_corpus(str(path))
        assert texts(corpus) == LINES
        lines = sum(len(paragraph.split("\n")) for paragraph in paragraphs)
        became = f"{path}: {lines} lines became 48 sentences; with `lines`, each line is one sentence"
        assert corpus.split == became


def test_a_line_may_be_a_paragraph(tmp_path):
    path = written(tmp_path, "a.txt", "\n".join(" ".join(LINES[n : n + 4]) for n in range(0, 48, 4)))
    assert texts(read_corpus(str(path))) == LINES


def test_the_place_of_a_sentence_is_its_own_line_in_a_list(tmp_path):
    path = written(tmp_path, "a.txt", "\nOne\nTwo\n\nThree")
    places = [sentence.place for sentence in read_corpus(str(path)).sentences]
    assert places == [f"{path}:{n}" for n in (2, 3, 5)]


def test_the_lines_of_a_cell_are_read_like_those_of_a_file(tmp_path):
    cells = ["Good food\nWould go again", textwrap.fill(" ".join(LINES), 72), "Bad"]
    content = "\n".join(json.dumps({"t": cell}) for cell in cells[::2])
    corpus = read_corpus(str(written(tmp_path, "a.jsonl", content)), columns=Columns("t"))
    assert texts(corpus) == ["Good food", "Would go again", "Bad"]
    assert corpus.split.endswith("a.jsonl: 2 rows became 3 sentences; with `lines`, each row is one sentence")
    path = written(tmp_path, "b.jsonl", json.dumps({"t": cells[1]}))
    assert texts(read_corpus(str(path), columns=Columns("t"))) == LINES


def test_nothing_is_said_of_lines_that_are_sentences_by_request(tmp_path):
    assert read_corpus(str(written(tmp_path, "a.txt", "One. Two.\nThree")), lines=True).split == ""


def test_tables_have_columns_and_labels(tmp_path):
    csv = written(tmp_path, "a.csv", '\ufefftext,stars\n"Good, really. I came back.",5\nBad.,1\n')
    rows = [{"t": "Good, really. I came back.", "s": 5}, {"t": "Bad.", "s": 1}]
    jsonl = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    by_csv = read_corpus(str(csv), columns=Columns("text", "stars"))
    by_jsonl = read_corpus(str(jsonl), columns=Columns("t", "s"))
    assert texts(by_csv) == texts(by_jsonl) == ["Good, really.", "I came back.", "Bad."]
    assert by_csv.labels == by_jsonl.labels == ("5", "1")
    assert by_csv.sha256 == by_jsonl.sha256
    groups = parse_groups(["bad=1,2", "good=5"])
    assert read_corpus(str(csv), columns=Columns("text", "stars", groups)).labels == ("good", "bad")


@pytest.mark.parametrize(
    ("name", "content", "columns", "said"),
    [
        ("a.txt", "", None, "no sentence"),
        ("a.txt", " \n\n", None, "no sentence"),
        ("a.txt", b"abc\0def", None, "not a text file"),
        ("a.txt", "fine\ncaf\xe9".encode("latin-1"), None, ":2: not UTF-8"),
        ("a.txt", "x", Columns("text"), "`column` and `label` are for .csv"),
        ("a.csv", "text\nx\n", None, "add `column=NAME`"),
        ("a.csv", "text,stars\nx,1\n", Columns("body"), "no such column; it has text, stars"),
        ("a.csv", "text,stars\nx\n", Columns("text", "stars"), ":2: `label=stars`"),
        ("a.csv", 'text\n"x\n', Columns("text"), "not readable as CSV"),
        ("a.csv", "text,stars\nx,4\n", Columns("text", "stars", {"1": "bad"}), "in no `group`"),
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
        read_corpus(f"x={path}", columns=columns)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [["negative"], ["=1"], ["a="], ["a=1", "b=1"]])
def test_bad_groups(options):
    with pytest.raises(CorpusError, match=r"^group "):
        parse_groups(options)
