"""Where a direction comes from: the keys, what they rule out, and names of files that stay right."""

import hashlib
import io
import json
import os
import sys

import pytest
import yaml

from steer_cli.errors import RecipeError
from steer_cli.recipe import load as format_of
from steer_cli.recipe.file_text import as_file, as_values
from steer_cli.recipe.load import load
from steer_cli.recipe.named_files import located, moved_to
from steer_cli.recipe.overrides import parse_override
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.recipe.sources import TextFile, Texts, VectorFile
from steer_cli.recipe.yaml_source import Document, parse

TEXTS = {"texts": {"plus": ["a", "b"], "minus": "sad.txt"}, "layer": 1, "position": "every"}
VECTOR = {"vector": "v.gguf", "position": "every"}
PAIRS = {"pairs": [{"plus": "a", "minus": "b"}, {"plus": "c"}], "layer": 1, "position": "every"}
COLUMN = {"file": "a.csv", "column": "text"}

RIGHT = {
    "texts": TEXTS,
    "texts of columns": {**TEXTS, "texts": {"plus": COLUMN, "minus": COLUMN}},
    "texts read": {**TEXTS, "read": "mean", "combine": "mean", "match_norm": True, "source_layer": 0},
    "vector": VECTOR,
    "vector without a layer": {**VECTOR, "layer": None, "position": "front"},
    "vector with layers": {**VECTOR, "layer": [1, "50%"], "from": "repeng", "random": {}, "dims": 0.5},
    "vector of an addition": {"vector": {"file": "v.safetensors", "addition": 1}},
    "nulls": {**PAIRS, "texts": None, "vector": None, "from": None, "read": None},
    "pca": {**PAIRS, "combine": "pca", "read": "mean"},
    "read of one pair": {"plus": "a", "layer": 1, "position": "every", "read": "last"},
}
WRONG = {
    "one list": ({**TEXTS, "texts": {"plus": ["a"]}}, "texts.minus: missing; write a list of texts, a file"),
    "empty list": ({**TEXTS, "texts": {"plus": [], "minus": "a"}}, "texts.plus: [] is not a list of texts"),
    "a number": ({**TEXTS, "texts": {"plus": [3], "minus": "a"}}, "texts.plus.0: 3 is not text; quote it"),
    "no name": ({**TEXTS, "texts": {"plus": "", "minus": "a"}}, "texts.plus: '' is not a list of texts, a"),
    "no file": ({**TEXTS, "texts": {"plus": {"column": "a"}, "minus": "a"}}, "texts.plus.file: missing"),
    "a list of texts": ({**TEXTS, "texts": ["a"]}, "texts: ['a'] is not a mapping such as {plus:"),
    "texts at the front": ({**TEXTS, "position": "front"}, "texts: makes one row, for every position; write"),
    "texts summed": ({**TEXTS, "combine": "sum"}, "combine: sum is for pairs, and texts are not paired"),
    "pca of texts": ({**TEXTS, "combine": "pca"}, "combine: pca is for pairs, and texts are not paired"),
    "texts and plus": ({**TEXTS, "plus": "a"}, "needs either plus (and minus), or pairs, or texts, or a vec"),
    "texts and minus": ({**TEXTS, "minus": "a"}, "minus needs a plus, and both stand in the place of the te"),
    "texts without a layer": ({**TEXTS, "layer": None}, "layer: missing; write a block such as 6"),
    "pca of one pair": (
        {**PAIRS, "pairs": [{"plus": "a"}], "combine": "pca"},
        "pca needs at least two pairs",
    ),
    "pca of plus": ({"plus": "a", "layer": 1, "position": "every", "combine": "pca"}, "at least two pairs"),
    "pca at the front": ({**PAIRS, "combine": "pca", "position": "front"}, "combine: pca makes one row"),
    "read at the front": ({**PAIRS, "read": "last", "position": "back"}, "read: makes one row, for every po"),
    "read what": ({**PAIRS, "read": "first"}, "read: 'first' is not last or mean"),
    "combine how": ({**PAIRS, "combine": "max"}, "combine: 'max' is not mean, sum or pca"),
    "vector as a number": ({"vector": 3}, "vector: 3 is not a file such as love.safetensors or love.gguf"),
    "vector of nothing": ({"vector": ""}, "vector: '' is not a file such as love.safetensors"),
    "vector and pairs": ({**PAIRS, **VECTOR}, "needs either plus (and minus), or pairs, or texts, or a vect"),
    "vector and minus": (
        {**VECTOR, "minus": "a"},
        "minus needs a plus, and both stand in the place of the v",
    ),
    "vector read": ({**VECTOR, "read": "last"}, "read: needs texts, and a stored vector has none; remove it"),
    "vector summed": ({**VECTOR, "combine": "sum"}, "combine: needs texts, and a stored vector has none"),
    "vector matched": ({**VECTOR, "match_norm": True}, "match_norm: needs texts, and a stored vector has no"),
    "vector read at": ({**VECTOR, "source_layer": 1}, "source_layer: needs texts, and a stored vector has n"),
    "addition below 0": ({"vector": {"file": "a", "addition": -1}}, "vector.addition: -1 is not a number of"),
    "a key of vector": ({"vector": {"file": "a", "adition": 1}}, "unknown key; did you mean addition?"),
    "from nobody": ({**VECTOR, "from": "me"}, "from: 'me' is not steer, repeng, llama.cpp or steering-lite"),
    "from of texts": ({**TEXTS, "from": "steer"}, "from: names what made a stored vector; remove it, or wri"),
    "its name in Python": ({**VECTOR, "origin": "steer"}, "origin: unknown key"),
    "no layers": ({**VECTOR, "layer": []}, "layer: [] is not a block such as 6"),
}


@pytest.fixture(scope="module")
def by_schema():
    import jsonschema

    schema = json.loads(json.dumps(format_of.schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("addition", RIGHT.values(), ids=RIGHT)
def test_what_is_right_passes_and_reads_back(addition, by_schema):
    values = {"prompt": "I", "additions": [addition]}
    assert by_schema.is_valid(values)
    made = format_of.validate(Document("r.yaml", values))
    again = format_of.validate(parse(as_file(made), "file"))
    assert again.model_dump() == made.model_dump()
    assert by_schema.is_valid(as_values(made))
    assert Recipe(prompt="I", additions=[addition]).additions == made.additions


@pytest.mark.parametrize("addition, said", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_and_the_schema_agrees(addition, said, by_schema):
    values = {"prompt": "I", "additions": [addition]}
    assert not by_schema.is_valid(values)
    with pytest.raises(RecipeError) as caught:
        format_of.validate(parse(yaml.safe_dump(values), "r.yaml"))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems
    for problem in caught.value.problems:
        assert problem.startswith("r.yaml:") and len(problem.splitlines()) == 1


def test_parts_are_made_in_python():
    texts = Texts(plus=TextFile(file="a.csv", column="text"), minus=["b"])
    made = Addition(texts=texts, layer=2, position="every")
    assert made == Addition(texts={"plus": COLUMN, "minus": ("b",)}, layer=2, position="every")
    stored = Addition(vector=VectorFile(file="v.safetensors", addition=1), origin="steer")
    assert stored.origin == "steer" and stored.layers == () and stored.every is None
    assert as_values(Recipe(additions=[stored]))["additions"] == [
        {
            "vector": {"file": "v.safetensors", "addition": 1},
            "from": "steer",
            "coefficient": 1,
            "position": "front",
        }
    ]
    with pytest.raises(RecipeError, match=r"^Addition: from: 'me' is not steer, repeng"):
        Addition(vector="v.gguf", origin="me")


# ---- names of files

ADDITIONS = [
    {**TEXTS, "texts": {"plus": "glad.txt", "minus": COLUMN}},
    {"vector": "../v.gguf", "position": "every"},
    {"vector": {"file": "w.safetensors", "addition": 1}, "position": "every"},
]


def names(recipe):
    texts, one, other = recipe.additions
    return [texts.texts.plus, texts.texts.minus.file, one.vector, other.vector.file]


def files(recipe):
    return [os.path.realpath(located(recipe, name)) for name in names(recipe)]


def written(folder):
    folder.mkdir(parents=True)
    (folder / "r.yaml").write_text(json.dumps({"prompt": "I", "additions": ADDITIONS}))
    return folder / "r.yaml"


def expected(folder):
    return [str(folder / name) for name in ("glad.txt", "a.csv")] + [
        str(folder.parent / "v.gguf"),
        str(folder / "w.safetensors"),
    ]


def test_names_are_relative_to_the_recipes_file(tmp_path, monkeypatch):
    file = written(tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    for name in (file, "a/b/r.yaml"):
        recipe = load(str(name))
        assert names(recipe) == ["glad.txt", "a.csv", "../v.gguf", "w.safetensors"]
        assert files(recipe) == expected(tmp_path / "a" / "b")
        assert recipe.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_names_from_standard_input_and_python_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    content = written(tmp_path / "a" / "b").read_text()
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    for recipe in (load("-"), Recipe(prompt="I", additions=ADDITIONS)):
        assert files(recipe) == expected(tmp_path / "a" / "b")


def test_names_in_changes_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    file = written(tmp_path / "a" / "b")
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    changes = ["additions.1.vector=mine.gguf", "additions.0.texts.plus=joy.txt"]
    recipe = load(str(file), [parse_override(change) for change in changes])
    found = expected(tmp_path / "a" / "b")
    assert files(recipe) == [
        str(tmp_path / "c" / "joy.txt"),
        found[1],
        str(tmp_path / "c" / "mine.gguf"),
        found[3],
    ]


def test_a_recipe_for_another_folder_names_the_same_files(tmp_path, monkeypatch):
    file = written(tmp_path / "a" / "b")
    (tmp_path / "c" / "d").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "c" / "d")
    monkeypatch.chdir(tmp_path)
    recipe = load("a/b/r.yaml")
    for folder in (tmp_path / "c", tmp_path / "c" / "d", tmp_path / "link", tmp_path):
        moved = folder / "moved.yaml"
        moved.write_text(as_file(moved_to(recipe, folder)))
        assert files(load(str(moved))) == files(recipe) == expected(tmp_path / "a" / "b")
        assert not any(os.path.isabs(name) for name in names(load(str(moved))))
    same = moved_to(recipe, file.parent)
    assert names(same) == names(recipe) and moved_to(same, file.parent) == same


def test_an_absolute_name_stays(tmp_path):
    recipe = Recipe(prompt="I", additions=[{"vector": "/x/v.gguf", "position": "every"}])
    assert moved_to(recipe, tmp_path).additions[0].vector == "/x/v.gguf"
