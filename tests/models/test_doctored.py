"""Folders of models that are damaged, or doctored: one line each, and never other tokens without a word."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import ARCHITECTURES
from doctored import FOLDERS, HARMLESS

from steer_cli.models.located import Located

ADDITION = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3}
SAMPLING = {"max_new_tokens": 4, "samples": 1, "seed": 1}
PROMPT = "I went up to my friend and said"


@pytest.fixture
def generated(command, recipe_file):
    """A function: folder -> (exit code, stdout, stderr) of `steer generate` on it."""

    def run(folder, **more):
        recipe = recipe_file(folder, ADDITION, **{"prompt": PROMPT, "sampling": SAMPLING, **more})
        return command("generate", recipe, "--jsonl", "--device", "cpu")

    return run


@pytest.fixture
def copied(tiny_folder, tmp_path):
    def copy(arch: str = "gpt2") -> Path:
        return Path(shutil.copytree(tiny_folder(arch), tmp_path / "parent" / arch))

    return copy


def one_line(outcome) -> str:
    """The line of a refusal; nothing else is on the screen."""
    code, stdout, stderr = outcome
    assert (code, stdout) == (1, ""), stderr
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    assert "Traceback" not in stderr
    return lines[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_doctored_folder_is_refused_in_one_line(generated, copied, name, capfd):
    folder = copied()
    FOLDERS[name](folder)
    capfd.readouterr()
    one_line(generated(folder))
    assert capfd.readouterr().err == ""  # what libraries write past Python's standard error


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_folder_may_not_choose_changes_nothing(generated, copied, tiny_folder, name):
    folder = copied()
    HARMLESS[name](folder)
    code, stdout, stderr = generated(folder)
    assert (code, stderr.strip()) == (0, ""), stderr
    assert tokens(stdout) == tokens(generated(tiny_folder("gpt2"))[1])


def tokens(stdout: str) -> list:
    return re.findall(r'"(?:tokens|ids|text)": ?(?:\[[^\]]*\]|"[^"]*")', stdout)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_undamaged_model_runs(generated, tiny_folder, arch):
    code, stdout, stderr = generated(tiny_folder(arch))
    assert (code, stderr.strip()) == (0, "") and tokens(stdout)


def test_the_default_model_runs(generated, real_folder):
    code, stdout, _ = generated(real_folder)
    assert code == 0 and tokens(stdout)


# --- what looks like damage and is none ---------------------------------------------------------------------


def saved(tmp_path, tiny_folder, arch: str, change, **values) -> Path:
    """A tiny model of its own, saved as older releases or other tools do it."""
    from conftest import randomise, tiny_config
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    source = tiny_folder(arch)
    ids = {
        key: json.loads((source / "config.json").read_text())[key] for key in ("bos_token_id", "eos_token_id")
    }
    config = tiny_config(arch, ids)
    config.update(values)
    network = AutoModelForCausalLM.from_config(config)
    randomise(network.float(), seed=1)
    folder = tmp_path / "saved" / arch
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder)
    config.save_pretrained(folder)
    held = change({key: tensor.clone() for key, tensor in network.state_dict().items()})
    save_file(held, folder / "model.safetensors")
    return folder


def with_buffers(held: dict) -> dict:
    import torch

    buffers = {}
    for key in held:
        block = re.match(r"(.*\.\d+)\.(attn|attention|self_attn)\.", key)
        if block:
            attention = f"{block[1]}.{block[2]}"
            if block[2] != "self_attn":  # Llama never had masks there
                buffers[f"{attention}.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.uint8)
                buffers[f"{attention}.masked_bias"] = torch.tensor(-1e4)
            buffers[f"{attention}.rotary_emb.inv_freq"] = torch.ones(4)
    return {**held, **buffers}


CHECKPOINTS = {
    "tied, head stored": ("gpt2", dict, {"tie_word_embeddings": True}),
    "tied, head not stored": (
        "gpt2",
        lambda held: {k: v for k, v in held.items() if k != "lm_head.weight"},
        {"tie_word_embeddings": True},
    ),
    "as GPT-2 lies on the hub": (
        "gpt2",
        lambda held: with_buffers(
            {k.removeprefix("transformer."): v for k, v in held.items() if k != "lm_head.weight"}
        ),
        {"tie_word_embeddings": True},
    ),
    "as Pythia lies on the hub": ("gpt_neox", with_buffers, {}),
    "as GPT-J lies on the hub": ("gptj", with_buffers, {}),
    "as Llama lay on the hub": ("llama", with_buffers, {}),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_older_releases_run(generated, tmp_path, tiny_folder, name):
    arch, change, values = CHECKPOINTS[name]
    code, _, stderr = generated(saved(tmp_path, tiny_folder, arch, change, **values))
    assert (code, stderr.strip()) == (0, ""), stderr


def test_the_cache_of_the_hub_is_made_of_links(generated, copied, tmp_path):
    repository = tmp_path / "hub" / "models--some--one"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(copied().iterdir()):
        file.rename(repository / "blobs" / f"{number:040}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040}")
    code, _, stderr = generated(snapshot)
    assert (code, stderr.strip()) == (0, ""), stderr
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../models--other--one/model.safetensors")
    one_line(generated(snapshot))


def test_a_link_to_a_folder_and_links_inside_are_followed(generated, copied, tmp_path):
    folder = copied()
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (tmp_path / "named").symlink_to(folder)
    assert generated(tmp_path / "named")[0] == 0


# --- the words ----------------------------------------------------------------------------------------------

WORDS = {
    "one tensor lost": r"1 weight is missing from the files: 'transformer\.h\.2\.mlp\.c_fc\.weight'; fetch",
    "a block lost": r"12 weights are missing from the files: .*, \.\.\.; fetch the model again",
    "fewer blocks than weights": r"\d\d weights are in the files but not in the network that config.json",
    "a tensor of another shape": r"1 weight is of a different shape from config.json: .*ln_f",
    "tokenizer larger than the embeddings": r"has 7\d\d tokens and the model has embeddings for 512",
    "a token beyond the embeddings": r"gives token 700 and the model has embeddings for 512",
    "quantised: gptq": r"quantised checkpoints are refused: gptq; use the unquantised model or a \.gguf",
    "index names up": r"'\.\./other/model\.safetensors' is not the plain name of a \.safetensors file",
    "BOS out of range": r"bos: token 10000 is not in the model, which has embeddings for 512",
    "config nested deeply": r"nested too deeply",
    "config of 100 MB": r"100000002 bytes",
}


@pytest.mark.parametrize("name", WORDS)
def test_the_line_says_what_and_where(generated, copied, name):
    folder = copied()
    FOLDERS[name](folder)
    assert re.search(WORDS[name], one_line(generated(folder)))


# --- positions that change with the length of other rows ----------------------------------------------------

SHORT = [1.0] * 6  # half the width of a head
ROPES = {
    "dynamic": ({"rope_type": "dynamic", "factor": 2.0}, {"max_position_embeddings": 32}),
    "longrope": (
        {"rope_type": "longrope", "short_factor": SHORT, "long_factor": [4.0] * 6, "factor": 8.0},
        {"original_max_position_embeddings": 32},
    ),
}


def roped(folder: Path, kind: str) -> None:
    rope, length = ROPES[kind]
    held = json.loads((folder / "config.json").read_text())
    held.update(rope_parameters={**held["rope_parameters"], **rope}, **length)
    (folder / "config.json").write_text(json.dumps(held))


@pytest.mark.parametrize("kind", ROPES)
def test_rows_beyond_the_length_at_which_positions_change_are_refused(generated, copied, kind):
    folder = copied("llama")
    roped(folder, kind)
    short = {**SAMPLING, "max_new_tokens": 10}
    code, _, stderr = generated(folder, sampling=short)
    assert code == 0, stderr
    line = one_line(generated(folder, sampling={**SAMPLING, "max_new_tokens": 40}))
    assert "more than the 32 of" in line and f"whose {kind} positions change with longer rows" in line
    line = one_line(generated(folder, prompt=None, prompts=[PROMPT, f"{PROMPT} " * 5], sampling=short))
    assert f"whose {kind} positions change" in line


OUTER = {"original_max_position_embeddings": 20}
CONTEXTS = [
    ({"rope_scaling": None}, 100),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 100),
    ({"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 20}}, 100),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, **OUTER}, 100),
    ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 30}}, 30),
    ({"rope_scaling": {"type": "longrope", "original_max_position_embeddings": 30}, **OUTER}, 20),
    ({"rope_scaling": {"type": "su"}, "model_type": "phi3", **OUTER}, 20),
    ({"rope_scaling": {"type": "yarn"}, "model_type": "phi3", **OUTER}, 20),
    ({"rope_scaling": {"type": "yarn"}, "model_type": "phimoe", **OUTER}, 20),
    ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}, "other": None}, **OUTER}, 20),
    ({"text_config": {"max_position_embeddings": 50}}, 50),
]


@pytest.mark.parametrize(("values", "context"), CONTEXTS)
def test_the_context_ends_where_positions_begin_to_change(tmp_path, values, context):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 100, **values}))
    located = Located("some", tmp_path)
    assert located.context == context
    assert (located.limited == "some") == (context in (50, 100) and "dynamic" not in str(values))


def test_longrope_without_its_length_is_refused(generated, copied):
    folder = copied("llama")
    roped(folder, "longrope")
    held = json.loads((folder / "config.json").read_text())
    del held["original_max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(held))
    assert "longrope positions without original_max_position_embeddings" in one_line(generated(folder))


# --- windows ------------------------------------------------------------------------------------------------

# Of keys about windows that a class does not declare, its network takes no notice.
STRAYS = {
    "llama": {"sliding_window": 3, "layer_types": ["sliding_attention"] * 5},
    "gpt_neox": {"sliding_window": 3, "use_sliding_window": True},
}


@pytest.mark.parametrize("arch", STRAYS)
def test_a_window_that_the_network_does_not_use_is_not_used(generated, copied, tiny_folder, arch):
    folder = copied(arch)
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, **STRAYS[arch]}))
    code, stdout, stderr = generated(folder)
    assert code == 0, stderr
    assert tokens(stdout) == tokens(generated(tiny_folder(arch))[1])


def test_a_row_is_held_against_the_smaller_of_two_contexts(generated, copied):
    folder = copied("gptj")
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, "max_position_embeddings": 5000}))
    assert "more than the 256 of" in one_line(generated(folder, sampling={**SAMPLING, "max_new_tokens": 300}))


# --- what only the weights say ------------------------------------------------------------------------------


def test_a_vocabulary_that_config_does_not_state_is_checked_when_the_weights_are_there(
    generated, tmp_path, tiny_folder
):
    folder = saved(tmp_path, tiny_folder, "gpt2", dict, vocab_size=50257)
    held = json.loads((folder / "config.json").read_text())
    del held["vocab_size"]  # 50257 is then the class's own
    (folder / "config.json").write_text(json.dumps(held))
    assert generated(folder)[0] == 0
    larger = json.loads((folder / "tokenizer.json").read_text())
    larger["model"]["vocab"].update({f"more{number}": 1000 + number for number in range(50_000)})
    (folder / "tokenizer.json").write_text(json.dumps(larger))
    assert "tokens and the model has embeddings for 50257" in one_line(generated(folder))
