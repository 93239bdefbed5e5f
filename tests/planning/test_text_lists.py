"""Files of texts: what they hold, and what each mistake in them says."""

import pytest
import yaml

from steer_cli.errors import PlanError
from steer_cli.planning.directions import check_files
from steer_cli.planning.text_lists import read_lists
from steer_cli.recipe.load import load

WHOLE = "I am glad\n\n  What joy \r\n   \nLove\u2028wins"


def recipe(folder, plus, minus=("sad",)):
    minus = list(minus) if isinstance(minus, tuple) else minus
    addition = {"texts": {"plus": plus, "minus": minus}, "layer": 2, "position": "every"}
    file = folder / "r.yaml"
    file.write_text(yaml.safe_dump({"prompt": "I", "additions": [addition]}), encoding="utf-8")
    return load(str(file))


def texts(folder, plus):
    made = recipe(folder, plus)
    check_files(made)
    return read_lists(made, made.additions[0].texts, "r")["plus"][0]


def test_a_line_is_a_text_and_blank_ones_are_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert texts(tmp_path, "a.txt") == ("I am glad", "  What joy ", "Love\u2028wins")
    assert texts(tmp_path, {"file": "a.txt"}) == texts(tmp_path, str(tmp_path / "a.txt"))
    assert texts(tmp_path, ["a", " b"]) == ("a", " b")


def test_a_column_holds_the_texts(tmp_path):
    (tmp_path / "a.csv").write_text('n,text\n1,"two\nlines"\n2,\n3,"a, b"\n', encoding="utf-8")
    assert texts(tmp_path, {"file": "a.csv", "column": "text"}) == ("two\nlines", "a, b")
    (tmp_path / "a.jsonl").write_text('{"t": "\u00e9"}\n\n{"t": " b", "n": 3}\n', encoding="utf-8")
    assert texts(tmp_path, {"file": "a.jsonl", "column": "t"}) == ("é", " b")


MISTAKES = {
    "missing": (None, "a.txt", None, "No such file or directory; give a file of texts, or a list of them"),
    "NUL in text": (b"a\0b", "a.txt", None, "not a text file (it contains NUL bytes)"),
    "not UTF-8": (b"a\n\xff\xfe", "a.txt", None, "a.txt:2: not UTF-8 text; save the file as UTF-8"),
    "empty": (b"", "a.txt", None, "no text in it; write one per line"),
    "blank": (b" \n\r\n", "a.txt", None, "no text in it"),
    "empty column": (b"t\n\n", "a.csv", "t", "no text in it"),
    "column of a text": (b"a\n", "a.txt", "t", "`column` is for .csv and .jsonl files; remove it"),
    "which column": (
        b"n,text\n1,a\n",
        "a.csv",
        None,
        "which column holds the texts? write {file: a.csv, column: NAME}; it has n, text",
    ),
    "no such column": (
        b"n,text\n1,a\n",
        "a.csv",
        "txt",
        "a.csv:2: column txt: no such column; it has n, text",
    ),
    "no cell": (b"n,text\n1,a\n2\n", "a.csv", "text", "a.csv:3: column text: no value in this row"),
    "not text": (b'{"t": "a"}\n{"t": 3}\n', "a.jsonl", "t", "a.jsonl:2: t: 3 is not text; quote it"),
    "not JSON": (b'{"t": "a"}\n{"t\n', "a.jsonl", "t", "a.jsonl:2: not readable as JSON"),
    "not CSV": (b't\n"a\n', "a.csv", "t", "not readable as CSV"),
    "half a character": (b'{"t": "\\ud800"}\n', "a.jsonl", "t", "half a character"),
}


@pytest.mark.parametrize("content, name, column, said", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("side", ["plus", "minus"])
def test_each_mistake_is_one_line_with_its_place(content, name, column, said, side, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    named = {"file": name} | ({} if column is None else {"column": column})
    made = recipe(tmp_path, **{"plus": ["glad"], "minus": ["sad"], side: named})
    with pytest.raises(PlanError) as caught:
        check_files(made)
    found = str(caught.value)
    assert found.startswith(f"r: additions.0.texts.{side}: {tmp_path / name}")
    assert said in found and len(found.splitlines()) == 1


def test_a_folder_is_no_file_of_texts(tmp_path):
    with pytest.raises(PlanError, match="Is a directory; give a file of texts"):
        check_files(recipe(tmp_path, "."))
