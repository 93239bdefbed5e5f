"""Lists of texts and stored vectors on the command line."""

import json

import numpy as np
import pytest
from conftest import FIVE
from vector_files import gguf

from steer_cli.recipe.load import load

PROMPT = "I went up to my friend and said"
GLAD = "Love wins\nI am excited because of the wedding\nmake people happy\n"
SAD = "n,text\n1,Yesterday my dog died\n2,you ate my cake\n3,the rain\n"
SHORT = {"max_new_tokens": 4, "samples": 1}


@pytest.fixture
def lists(tiny_folder, tmp_path, command):
    """The name of a recipe with two files of texts."""
    (tmp_path / "glad.txt").write_text(GLAD)
    (tmp_path / "sad.csv").write_text(SAD)
    texts = {"plus": "glad.txt", "minus": {"file": "sad.csv", "column": "text"}}
    addition = {"texts": texts, "read": "mean", "layer": 2, "coefficient": 3, "position": "every"}
    return recipe(tmp_path / "lists.yaml", tiny_folder("llama"), addition)


@pytest.fixture
def stored(tiny_folder, tmp_path, command):
    """The name of a recipe with a control vector at layers 2 and 4."""
    values = np.random.default_rng(0).standard_normal(48).astype("f4")
    gguf(tmp_path / "v.gguf", {"direction.1": values, "direction.3": values})
    addition = {"vector": "v.gguf", "coefficient": 2, "position": "every"}
    return recipe(tmp_path / "stored.yaml", tiny_folder("llama"), addition)


def recipe(file, folder, addition):
    values = {"model": str(folder), "prompt": PROMPT, "additions": [addition], "sampling": SHORT}
    file.write_text(json.dumps(values))
    return file.name


def test_the_table_names_files_and_how_texts_are_read(lists, stored, command, records):
    code, out, _ = command("table", lists)
    assert code == 0 and "glad.txt - sad.csv[text], mean of all tokens × 3, layer 2, every position" in out
    assert " →" in out and "   mean of " in out and "glad.txt  sha256 " in out and "sad.csv  sha256 " in out
    [record] = records("table", lists)
    rows = record["rows"][1:]
    # Plus and minus in turns, each with its share of the coefficient.
    assert [row["role"] for row in rows] == ["plus", "minus"] * 3
    assert [row["coefficient"] for row in rows] == pytest.approx([1, -1] * 3)
    assert all(row["mean_from"] == 1 and row["read"] == len(row["ids"]) - 1 for row in rows)
    assert {row["file"] for row in rows} == {"glad.txt", "sad.csv"}
    code, out, _ = command("table", stored)
    assert code == 0 and "v.gguf × 2, the file's layers, every position" in out
    assert "v.gguf →" in out and "v.gguf  sha256 " in out
    [record] = records("table", stored)
    assert [(row["layer"], row["role"], row["file"]) for row in record["rows"][1:]] == [
        (2, "vector", "v.gguf"),
        (4, "vector", "v.gguf"),
    ]


def test_the_receipt_says_how_the_texts_agree(lists, command, records):
    code, out, _ = command("generate", lists, "--explain")
    assert code == 0 and "  agreement: 'Love wins' and 2 more texts - 'Yesterday my dog died'" in out
    assert "two halves of the texts make vectors with a cosine of" in " ".join(out.split())
    [record] = records("generate", lists)
    [addition] = record["additions"]
    assert addition["agreement"]["plus"] == addition["agreement"]["minus"] == 3
    assert -1 <= addition["agreement"]["halves_cosine"] <= 1
    assert set(addition["files"]) == {"texts.plus", "texts.minus"}


def test_texts_that_do_not_agree_are_noted(lists, command, tmp_path):
    pairs = [
        {"plus": "Love", "minus": "Hate"},
        {"plus": "Hate", "minus": "Love"},
        {"plus": "I", "minus": "a"},
    ]
    model = json.loads((tmp_path / lists).read_text())["model"]
    recipe(tmp_path / "pairs.yaml", model, {"pairs": pairs, "layer": 2, "position": "every"})
    for words in (["generate"], ["shift"], ["norms"], ["generate", "--scan", "1:3:1"]):
        code, _, err = command(*words, "pairs.yaml")
        assert code == 0, err
        assert err.count("the texts do not agree: 'Love' - 'Hate' and 2 more pairs") == 1


def test_a_saved_recipe_finds_its_files_from_another_folder(lists, stored, command, records, tmp_path):
    (tmp_path / "kept").mkdir()
    for name in (lists, stored):
        saved = f"kept/{name}"
        [first] = records("generate", name, "--save", saved)
        assert command("check", saved)[0] == 0
        assert load(saved).sha256 == first["recipe_sha256"]
        [again] = records("generate", saved)
        assert again["steered"] == first["steered"]
    command(
        "sweep",
        stored,
        "--layers",
        "2",
        "--coefficients",
        "0:2:1",
        "--best",
        "max kl",
        "--save",
        "kept/w.yaml",
    )
    assert load("kept/w.yaml").additions[0].vector == "../v.gguf"
    assert command("check", "kept/w.yaml")[0] == 0


def test_check_reads_the_files(lists, stored, command, tmp_path):
    assert command("check", lists, stored)[0] == 0
    (tmp_path / "glad.txt").unlink()
    (tmp_path / "v.gguf").write_bytes(b"GGUF")
    code, _, err = command("check", lists, stored)
    first, second = err.splitlines()
    assert code == 1 and first.startswith("error: lists: additions.0.texts.plus: ")
    assert second == "error: stored: additions.0.vector: v.gguf: it ends too early; fetch it again"


def test_measurements_take_both(lists, stored, command, records):
    corpus = ["--corpus", "five.txt", "--method", "overlay"]
    for name in (lists, stored):
        assert records("shift", name)[0]["kl"] > 0
        assert len(records("perplexity", name, *corpus)) == 1
        for control in ("random", "shuffled"):
            assert "control" in records("generate", name, "--control", control)[0]
        points = records("sweep", name, "--layers", "2,4", "--coefficients", "0:2:1")
        assert [(point["layer"], point["coefficient"]) for point in points] == [
            (layer, coefficient) for layer in (2, 4) for coefficient in (0, 1, 2)
        ]
        assert len(records("generate", name, "--scan", "0:2:1", "--scan-layers", "2,4")) == 5
    assert [record["layer"] for record in records("norms", lists)] == [0, 1, 2, 3, 4]
    assert [record["layer"] for record in records("norms", stored)] == [2, 4]
    assert len(FIVE) == 5
    for control in ("embedding", "prompt"):
        assert "control" in records("generate", lists, "--control", control)[0]


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            ["generate", "--control", "embedding"],
            "--control embedding: needs texts, and the stored vector v.g",
        ),
        (
            ["generate", "--control", "prompt"],
            "--control prompt: the stored vector v.gguf has no text to put",
        ),
        (["sweep", "--layers", "1:3"], "has no vector for layer 1; choose with `layer: [2, 4]`"),
        (["generate", "--scan-layers", "2:4"], "has no vector for layer 3; choose with `layer: [2, 4]`"),
        (["generate", "--layer", "3"], "--layer 3: v.gguf has no vector for layer 3"),
        (["generate", "--position", "front"], "has one row, which is for every position"),
        (
            ["perplexity", "--corpus", "five.txt", "--method", "overlay", "--baseline", "prompt"],
            "has no text",
        ),
    ],
)
def test_what_a_stored_vector_cannot_is_one_line(arguments, said, stored, command):
    name, *options = arguments
    code, out, err = command(name, stored, *options)
    assert code == 1 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert said in err


def test_a_pair_of_the_command_line_takes_the_place_of_either(lists, stored, records):
    pair = ["--plus", "Love", "--minus", "Hate", "--layer", "2", "--set", "additions.0.read=null"]
    for name in (lists, stored):
        [record] = records("table", name, *pair)
        assert [row["role"] for row in record["rows"]] == ["prompt", "plus", "minus"]


def test_a_sweep_goes_on_unless_its_files_have_changed(lists, stored, command, tmp_path):
    for name, file in ((lists, "glad.txt"), (stored, "v.gguf")):
        arguments = ["sweep", name, "--layers", "2", "--store", f"{name}.store"]
        assert command(*arguments)[0] == command(*arguments)[0] == 0
        if file == "glad.txt":
            (tmp_path / file).write_text(GLAD + "one more\n")
        else:
            gguf(tmp_path / file, {"direction.1": np.ones(48, "f4")})
        code, _, err = command(*arguments)
        assert code == 1 and "a sweep with a different recipe" in err


def test_the_table_needs_no_torch_for_a_stored_vector(stored):
    import subprocess
    import sys

    script = (
        "import sys; from steer_cli.cli import app\n"
        f"try: app(['table', {stored!r}])\n"
        "except SystemExit as done: print(done.code)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"], done.stderr
