"""`steer models check` says which way a model goes, and why; `--threads` holds before anything runs."""

import json

import pytest
import torch

import steer_cli as steer
from steer_cli.decoding.kv_cache import KVCache
from steer_cli.errors import ModelError
from steer_cli.models import load as loading
from steer_cli.models.hardware import MOST_THREADS, Hardware
from steer_cli.models.located import Located


@pytest.fixture(autouse=True)
def one_thread():
    """Whatever a test asks for, the others compute with one."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


def test_a_plain_model_says_so(command, tiny_folder):
    folder = tiny_folder("llama")
    code, out, err = command("models", "check", folder, "--json")
    assert code == 0, err
    assert json.loads(out) == {
        "model": str(folder),
        "way": "plain",
        "network": "Llama",
        "reason": None,
        "blocks": 5,
        "width": 48,
        "context": 256,
        "dtype": "float32",
        "device": "cpu",
        "self_test": "passed",
    }


def test_an_adapted_model_says_why(command, tiny_folder):
    folder = tiny_folder("gemma3_adapted")
    code, out, err = command("models", "check", folder, "--json", "--dtype", "bfloat16")
    assert code == 0, err
    found = json.loads(out)
    assert (found["way"], found["network"]) == ("transformers", "Gemma3ForCausalLM")
    assert "gemma3_text" in found["reason"] and "unknown_to_plain_networks" in found["reason"]
    assert (found["blocks"], found["width"], found["dtype"]) == (5, 32, "bfloat16")
    code, out, _ = command("models", "check", folder)
    assert code == 0 and "unknown_to_plain_networks" in out and "5, of width 32" in out
    assert [line.split()[0] for line in out.splitlines()] == [
        *("model", "computed", "because", "blocks", "context", "weights", "self-test"),
    ]


def test_a_model_that_cannot_be_loaded_is_one_line(command, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    for model in ("bert", "./nowhere"):
        code, out, err = command("models", "check", model)
        assert (code, out) == (1, "") and err.startswith("error: model ") and err.count("\n") == 1


def test_one_that_fails_its_test_is_refused_and_no_longer_believed(
    command, tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    folder = tiny_folder("gpt2")
    assert command("models", "check", folder)[0] == 0
    assert len(list((tmp_path / "home" / "checked").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "positions", property(lambda cache: cache.lengths[: cache.used, None] + 1))
        code, out, err = command("models", "check", folder)
    assert (code, out) == (1, "") and err.count("\n") == 1 and "full pass" in err
    # It had passed before, and is tested all the same; loading tests it again from now on.
    assert not list((tmp_path / "home" / "checked").iterdir())


@pytest.mark.parametrize("words", [["generate", "R"], ["shift", "R"], ["norms", "R"]])
def test_threads_are_set_before_anything_runs(words, command, recipe_file, tiny_folder, monkeypatch):
    addition = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}
    recipe = recipe_file(tiny_folder("gpt2"), addition, prompt="I went up to my friend and said")
    plain, seen = loading._plain, []
    monkeypatch.setattr(
        loading, "_plain", lambda *given: seen.append(torch.get_num_threads()) or plain(*given)
    )
    code, _, err = command(*[recipe if word == "R" else word for word in words], "--threads", 2)
    assert code == 0, err
    assert seen == [2] and torch.get_num_threads() == 2


def test_the_rest_of_the_commands_that_load_a_model_take_threads(command):
    for words in (["perplexity"], ["sweep"], ["models", "check"]):
        assert "--threads" in command(*words, "--help")[1]


def test_threads_have_bounds_and_are_left_alone_by_default(command, tiny_folder):
    folder = tiny_folder("gpt2")
    for count in (0, MOST_THREADS + 1, "x"):
        assert command("models", "check", folder, "--threads", count)[0] == 2
        if count != "x":
            with pytest.raises(ModelError, match=f"^threads {count}: 1 to {MOST_THREADS}$"):
                loading.load(Located("tiny", folder), Hardware(threads=count))
    steer.load_model(str(folder), threads=2)
    steer.load_model(str(folder))
    assert torch.get_num_threads() == 2
