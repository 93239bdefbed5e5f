"""A text is ordinary text, and gives the same tokens on every run, whatever a tokenizer's file asks for."""

import json
import shutil

import pytest

from steer_cli.planning.tokens import open_tokenizer

LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}


@pytest.fixture
def folder(tmp_path):
    from conftest import write_tokenizer

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    write_tokenizer(folder, "gpt2")
    return folder


def change(folder, **model):
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    written["model"] |= model
    file.write_text(json.dumps(written), encoding="utf-8")


def tokens(command, recipe, *more):
    code, out, err = command("table", recipe, "--json", *more)
    assert code == 0, err
    return json.loads(out)["rows"]


# --- special tokens that a text spells ----------------------------------------------------------------------


def test_a_special_token_in_a_prompt_is_ordinary_text(command, recipe_file, folder):
    front, *_ = tokens(command, recipe_file(folder, LOVE), "-p", "I hate <|endoftext|> you")
    bos, *pieces = front["tokens"]
    assert bos == "<|endoftext|>" and "".join(pieces) == "I hate <|endoftext|> you"
    assert "<|endoftext|>" not in pieces


def test_a_special_token_in_a_pair_is_ordinary_text_and_a_name_is_a_name(command, recipe_file, folder):
    addition = LOVE | {"plus": "Love <|endoftext|>", "pad": "<|endoftext|>"}
    _, plus, minus = tokens(command, recipe_file(folder, addition, bos="<|endoftext|>"), "-p", "Hate " * 20)
    assert plus["tokens"].count("<|endoftext|>") == 1 and "".join(plus["tokens"][1:]) == "Love <|endoftext|>"
    # As BOS and as the pad it is named, not written in a text.
    assert minus["tokens"][0] == minus["tokens"][-1] == "<|endoftext|>"


def test_added_tokens_that_are_not_special_stay_what_they_are(command, recipe_file, folder):
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("    ", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    front, *_ = tokens(command, recipe_file(folder, LOVE), "-p", "I hate    you because")
    assert "    " in front["tokens"]


def test_gpt2_files_without_tokenizer_json_too(command, recipe_file, folder):
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    front, *_ = tokens(command, recipe_file(folder, LOVE), "-p", "I hate <|endoftext|> you")
    assert "<|endoftext|>" not in front["tokens"][1:]


def test_completions_follow_a_prompt_that_spells_a_special_token(command, recipe_file, tiny_folder):
    recipe = recipe_file(tiny_folder("gpt2"), LOVE, sampling={"max_new_tokens": 5, "samples": 1})
    prompt = "I hate <|endoftext|> you"
    code, out, err = command("generate", recipe, "-p", prompt, "--jsonl")
    assert code == 0, err
    record = json.loads(out)
    assert record["prompt"] == prompt
    tokenizer = open_tokenizer(tiny_folder("gpt2"))
    for arm in ("unsteered", "steered"):
        assert record[arm]["text"] == tokenizer.decode(record[arm]["tokens"]).removesuffix("<|endoftext|>")


def test_a_vocabulary_that_takes_the_spelling_for_the_token_refuses_it(command, recipe_file, folder):
    from tokenizers import Tokenizer, models

    scores = [("<unk>", 0.0), ("</s>", 0.0), *((sign, -5.0) for sign in "</s>aLoveHt ")]
    tokenizer = Tokenizer(models.Unigram(list(dict(scores).items()), unk_id=0))
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "</s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    recipe = recipe_file(folder, LOVE)
    # Signs that it does not know are no fault: they are one <unk>, which nobody has spelled.
    assert len(tokens(command, recipe, "-p", "a < / s > a?!")[0]["tokens"]) == 1 + 11 + 1
    code, out, err = command("table", recipe, "-p", "a</s>a")
    assert (code, out) == (1, "")
    assert err.startswith("error: 'a</s>a': ") and "'</s>'" in err and len(err.splitlines()) == 1


# --- what is drawn at random --------------------------------------------------------------------------------


def test_dropout_of_merges_is_switched_off(command, recipe_file, folder):
    recipe = recipe_file(folder, LOVE)
    prompt = "I went to the wedding because my friend and the bride talk about weddings constantly"
    expected = tokens(command, recipe, "-p", prompt)
    change(folder, dropout=0.5)
    for _ in range(3):
        assert tokens(command, recipe, "-p", prompt) == expected


def test_two_runs_of_one_seed_agree_where_the_file_asks_for_dropout(
    command, recipe_file, tiny_folder, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), model)
    change(model, dropout=0.5)
    recipe = recipe_file(model, LOVE, prompt="I hate you because", sampling={"max_new_tokens": 5})
    first, second = (command("generate", recipe, "--jsonl") for _ in range(2))
    assert first == second and first[0] == 0
