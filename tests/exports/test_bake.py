"""Baked checkpoints, as transformers' own code loads them, are the steered models."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from conftest import randomise, write_tokenizer
from reference import blocks
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import by_transformers, hidden_states, open_model, recipe_of

import steer_cli as library
from steer_cli.errors import ExportError, ModelError, PlanError, VectorError
from steer_cli.exports import bake as baking
from steer_cli.exports import places, shards
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.resolve import locate
from steer_cli.planning.tokens import open_tokenizer

ALL = {"every": "all"}
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3, "position": ALL}
CAKE = {"plus": " wedding", "layer": [1, 2, 3], "coefficient": -1.5, "position": ALL}
TEXT = "I went up to my friend and said that the wedding was late"

SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "word_embed_proj_dim"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_attention_heads", "n_head"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), 80),
    **{"vocab_size": 512, "num_key_value_heads": 2, "head_dim": 12, "rotary_dim": 4, "pad_token_id": 0},
    **{"tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0},
}
# Networks of every family that has a place, and variants: name -> its kind and what its config says.
NETWORKS = {
    **{kind: (kind, {}) for kind in places.FAMILIES},
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, with biases": ("llama", {"mlp_bias": True, "attention_bias": True}),
    "gpt2, tied": ("gpt2", {"tie_word_embeddings": True}),
    "gpt_neox, one after the other": ("gpt_neox", {"use_parallel_residual": False}),
    "falcon, old, with biases": (
        *("falcon", {"new_decoder_architecture": False, "parallel_attn": False, "bias": True}),
    ),
    "starcoder2, without biases": ("starcoder2", {"use_bias": False}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
}
AT_START = {
    "gpt2",
    "gpt2, tied",
    "gpt_bigcode",
    "opt",
    "biogpt",
    "llama",
    "gpt_neox",
    "phi",
    "falcon",
    "mistral",
}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A function: the name of a network -> the folder of a tiny one with random weights."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("network")
            write_tokenizer(folder, "gpt2")
            kind, more = NETWORKS[name]
            one = transformers.AutoConfig.for_model(kind)
            known = {*type(one).__dataclass_fields__} - {*type(one).attribute_map}
            config = type(one)(**{key: value for key, value in (SIZES | more).items() if key in known})
            model = transformers.AutoModelForCausalLM.from_config(config).float()
            randomise(model, seed=len(made))
            model.save_pretrained(folder)
            made[name] = folder
        return made[name]

    return folder_of


def bake(folder, target, *additions, dtype="auto", note=lambda _: None, **keys):
    recipe = recipe_of(*additions, name="love", **keys)
    return library.bake(open_model(folder), recipe, target, dtype, note=note)


def row(folder, text, layer):
    """What enters a block at a text's last token, by transformers."""
    return hidden_states(folder, open_tokenizer(folder).prompt(text))[layer][-1]


@torch.no_grad()
def logits(model, folder, added=None):
    """Logits of TEXT at all positions by transformers, with constants added to what enters some blocks."""
    ids = torch.tensor([open_tokenizer(folder).prompt(TEXT)])
    handles = []
    for layer, constant in (added or {}).items():

        def add(_, args, kwargs, constant=constant):
            if args:
                return (args[0] + constant, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + constant}

        handles.append(blocks(model)[layer].register_forward_pre_hook(add, with_kwargs=True))
    try:
        return model(ids, use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def from_disk(folder, **more):
    """A folder as transformers loads it; every weight has to be there, and none may be left over."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **more)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def love(folder, layer=2):
    return 3 * (row(folder, "Love", layer) - row(folder, "Hate", layer))


def constants(folder):
    """What LOVE and CAKE add, layer by layer."""
    return {
        layer: (love(folder) if layer == 2 else 0) - 1.5 * row(folder, " wedding", layer)
        for layer in (1, 2, 3)
    }


def share(found, wanted):
    return float((found - wanted).abs().max() / (wanted.max() - wanted.min()))


# ---- the same logits


@pytest.mark.parametrize("name", NETWORKS)
def test_transformers_computes_the_steered_logits_from_the_folder_alone(name, network, tmp_path):
    folder, target = network(name), tmp_path / "baked"
    found = bake(folder, target, LOVE, CAKE)
    wanted = logits(by_transformers(folder), folder, constants(folder))
    assert share(logits(from_disk(target), folder), wanted) < 1e-4
    assert share(logits(by_transformers(folder), folder), wanted) > 0.01  # steering is not nothing
    assert list(found.places) == [1, 2, 3] and found.difference < 1e-4 and found.dtype == "float32"
    # Only the named tensors changed, and the others that are new are zeros.
    before, after = (load_file(one / "model.safetensors") for one in (folder, target))
    assert before.keys() <= after.keys()
    changed = {key for key in after if key not in before or not torch.equal(before[key], after[key])}
    assert {key for key in changed if after[key].any()} == {*found.places.values()}
    # steer runs it too, and it is not a model that steer would begin otherwise.
    again = load(locate(str(target)), Hardware("float32", "cpu"))
    assert again.facts().tokenizer.prompt(TEXT) == open_tokenizer(folder).prompt(TEXT)


@pytest.mark.parametrize("name", sorted(AT_START))
def test_a_constant_at_layer_0_goes_into_the_rows_of_a_table(name, network, tmp_path):
    folder, target = network(name), tmp_path / "baked"
    bake(folder, target, {**LOVE, "layer": 0})
    wanted = logits(by_transformers(folder), folder, {0: love(folder, 0)})
    assert share(logits(from_disk(target), folder), wanted) < 1e-4


def test_the_default_model_too_which_begins_texts_as_before(real_folder, tmp_path):
    model = library.load_model("smollm2-135m")
    target = tmp_path / "baked"
    found = library.bake(model, recipe_of({**LOVE, "layer": 6}, name="love"), target)
    assert found.places == {6: "model.layers.5.mlp.down_proj.bias"} and found.bos == "<|endoftext|>"
    located = locate(str(target))
    begun = located.facts().tokenizer.prompt("I hate you because")
    assert begun == model.facts().tokenizer.prompt("I hate you because")
    facts, hidden = (
        model.facts(),
        lambda text: hidden_states(real_folder, facts.tokenizer.prompt(text))[6][-1],
    )
    wanted = logits(by_transformers(real_folder), real_folder, {6: 3 * (hidden("Love") - hidden("Hate"))})
    baked = from_disk(target)
    assert share(logits(baked, real_folder), wanted) < 1e-4
    assert baked.lm_head.weight.data_ptr() == baked.model.embed_tokens.weight.data_ptr()
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "LICENSE",
    ):
        assert (target / name).read_bytes() == (real_folder / name).read_bytes()
    before, after = (json.loads((one / "config.json").read_text()) for one in (real_folder, target))
    assert after == before | {"mlp_bias": True}


def test_a_baked_model_can_be_baked_again(network, tmp_path):
    folder = network("llama")
    bake(folder, tmp_path / "once", LOVE)
    model = library.load_model(str(tmp_path / "once"))
    library.bake(model, recipe_of(CAKE), tmp_path / "twice")
    # What CAKE is, the first steering has changed.
    added = {layer: -1.5 * row(tmp_path / "once", " wedding", layer) for layer in (1, 2, 3)}
    wanted = logits(by_transformers(tmp_path / "once"), folder, added)
    assert share(logits(from_disk(tmp_path / "twice"), folder), wanted) < 1e-4


# ---- types, shards, and what stands beside the weights


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layer", [0, 2])
def test_half_precision_is_that_of_all_weights_and_says_what_it_loses(dtype, layer, network, tmp_path):
    folder, target, notes = network("gpt2"), tmp_path / "baked", []
    found = bake(folder, target, {**LOVE, "layer": layer}, dtype=dtype, note=notes.append)
    kind = getattr(torch, dtype)
    assert {tensor.dtype for tensor in load_file(target / "model.safetensors").values()} == {kind}
    assert json.loads((target / "config.json").read_text())["dtype"] == dtype and found.dtype == dtype
    # The source rounded by torch, in which the constants are added exactly.
    rounded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=kind).float().eval()
    wanted = logits(rounded, folder, {layer: love(folder, layer)})
    assert share(logits(from_disk(target, dtype=torch.float32), folder), wanted) < {"bfloat16": 0.02}.get(
        dtype, 0.003
    )
    assert 0 < found.rounding < 0.02
    assert (len(notes) == 1 and f"{dtype} loses" in notes[0]) == (found.rounding >= 1e-3)


def test_auto_keeps_the_type_of_a_checkpoint_in_half_precision(network, tmp_path):
    folder, half = network("llama"), tmp_path / "half"
    write_tokenizer_of(folder, half)
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(half)
    found = bake(half, tmp_path / "baked", LOVE)
    assert {one.dtype for one in load_file(tmp_path / "baked" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert found.dtype == "bfloat16" and found.difference < 1e-4
    wide = bake(half, tmp_path / "wide", LOVE, dtype="float32")
    assert {one.dtype for one in load_file(tmp_path / "wide" / "model.safetensors").values()} == {
        torch.float32
    }
    assert wide.rounding < 1e-6 < found.rounding


def write_tokenizer_of(folder, target):
    target.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((folder / name).read_bytes())


def test_float16_that_cannot_hold_the_weights_is_refused(network, tmp_path):
    with pytest.raises(ExportError, match=r"not made: .*inf"):
        bake(network("llama"), tmp_path / "baked", {**LOVE, "coefficient": 1e6}, dtype="float16")
    assert os.listdir(tmp_path) == []


def test_large_models_are_written_in_shards(network, tmp_path, monkeypatch):
    folder, target = network("llama"), tmp_path / "baked"
    monkeypatch.setattr(shards, "MOST_BYTES", 100_000)
    bake(folder, target, LOVE, CAKE)
    index = json.loads((target / "model.safetensors.index.json").read_text())
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 2 and {*index["weight_map"].values()} == {file.name for file in files}
    held = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            held |= dict.fromkeys(opened.keys(), file.name)
            assert opened.metadata() == {"format": "pt"}
    assert held == index["weight_map"]
    wanted = logits(by_transformers(folder), folder, constants(folder))
    assert share(logits(from_disk(target), folder), wanted) < 1e-4
    # And from shards.
    bake(target, tmp_path / "again", LOVE)


def test_files_of_before_the_prefix_are_read(network, tmp_path):
    from safetensors.torch import save_file

    folder, old = network("gpt2, tied"), tmp_path / "old"
    write_tokenizer_of(folder, old)
    (old / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, old / "model.safetensors", {"format": "pt"})
    found = bake(old, tmp_path / "baked", LOVE, {**LOVE, "layer": 0})
    assert found.places == {0: "wpe.weight", 2: "h.1.mlp.c_proj.bias"}
    wanted = logits(by_transformers(folder), folder, {0: love(folder, 0), 2: love(folder)})
    assert share(logits(from_disk(tmp_path / "baked"), folder), wanted) < 1e-4


def test_the_folder_says_where_it_comes_from_and_holds_nothing_that_chooses_code(network, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for file in network("llama").iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | {"auto_map": {"AutoModel": "code.Model"}}))
    for name in ("code.py", "README.md", "secret.txt", "NOTICE", "GEMMA_TERMS.html", "pytorch_model.bin"):
        (source / name).write_text("old")
    found = bake(source, tmp_path / "baked", {**LOVE, "minus": "Hate ````"}, source="some ``````ticks")
    names = {file.name for file in (tmp_path / "baked").iterdir()}
    assert names == {
        *(
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ),
        *("README.md", "steer.json", "NOTICE", "GEMMA_TERMS.html"),
    }
    assert "auto_map" not in json.loads((tmp_path / "baked" / "config.json").read_text())
    said = json.loads((tmp_path / "baked" / "steer.json").read_text())["baked"]
    assert said["recipe_sha256"] == found.recipe_sha256 and said["steer_version"] == library.__version__
    card = (tmp_path / "baked" / "README.md").read_text()
    assert found.recipe_sha256 in card and "coefficient: 3" in card and "layers.1.mlp.down_proj.bias" in card
    fence, recipe = re.search(r"^(`+)yaml\n(.*?)^\1$", card, re.DOTALL | re.MULTILINE).groups()
    assert recipe == said["recipe"] and fence not in recipe


# ---- refusals


@pytest.mark.parametrize(
    ("additions", "said"),
    [
        ([{**LOVE, "position": "front"}], "additions.0: `position: front` .*write `position: {every: all}`"),
        ([LOVE, {**LOVE, "position": "every"}], "additions.1: .*BOS and new tokens"),
        ([{**LOVE, "operation": "ablate"}], "depends on the stream"),
        ([{**LOVE, "coefficient": 0}], "adds nothing"),
    ],
)
def test_what_is_no_constant_is_refused(additions, said, network, tmp_path):
    with pytest.raises(PlanError, match=said) as error:
        bake(network("llama"), tmp_path / "baked", *additions)
    assert "approximate" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_coefficient_too_small_to_change_anything_is_refused(network, tmp_path):
    with pytest.raises(VectorError, match="layer 2: does nothing: no value of the stream changes"):
        bake(network("llama"), tmp_path / "baked", {**LOVE, "coefficient": 1e-30})
    assert os.listdir(tmp_path) == []


def test_networks_without_a_place_are_refused_with_the_reason(network, tiny_folder, tmp_path):
    for folder, layer, said in (
        (tiny_folder("gemma3"), 2, "a norm follows the MLP.*steer export"),
        (network("llama, tied"), 0, "which its head shares.*layer from 1 on"),
        (network("qwen2, tied"), 0, "which its head shares"),
    ):
        with pytest.raises(PlanError, match=said):
            bake(folder, tmp_path / "baked", {**LOVE, "layer": layer})


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        ("mistral", {"sliding_window": 8}, "attention has windows"),
        ("mistral", {"sliding_window": "absent"}, "attention has windows"),
        (
            "qwen2",
            {"use_sliding_window": True, "layer_types": ["full_attention"] * 4},
            "attention has windows",
        ),
        ("qwen2", {"num_key_value_heads": "absent"}, "num_key_value_heads"),
        ("qwen2", {"unheard_of": 1}, "unheard_of is not a key"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before: False"),
        ("granite", {"residual_multiplier": 0.2}, "residual_multiplier: 0.2"),
        ("qwen3", {}, "has no bias"),
        ("of_tomorrow", {}, "no place for a constant in 'of_tomorrow'"),
        ("bloom", {}, "no place"),
    ],
)
def test_configurations_without_a_place_are_refused(kind, more, said, network):
    folder = network(kind) if kind in NETWORKS else network("llama")
    values = json.loads((folder / "config.json").read_text()) | {"model_type": kind} | more
    values = {key: value for key, value in values.items() if value != "absent"}
    with pytest.raises(ValueError, match=said):
        places.places(values, shards.list_tensors([folder / "model.safetensors"]), {2}, 4)


def test_a_wrong_place_never_makes_a_model(network, tmp_path, monkeypatch):
    """A bias that reaches the stream before the MLP, or none, is found before the folder appears."""
    family = places.FAMILIES["gpt2"]
    for last, dtype in (("mlp.c_fc", "auto"), ("attn.c_proj", "auto"), ("attn.c_proj", "bfloat16")):
        monkeypatch.setitem(places.FAMILIES, "gpt2", places.Family(family.blocks, last, family.start, False))
        with pytest.raises((ExportError, RuntimeError), match=r"not made: its logits differ|size of tensor"):
            bake(network("gpt2"), tmp_path / "baked", LOVE, dtype=dtype)
        assert os.listdir(tmp_path) == []


def test_a_model_in_half_precision_has_to_be_loaded_whole(network, tmp_path):
    model = open_model(network("llama"), "bfloat16")
    with pytest.raises(ModelError, match="compared in float32"):
        library.bake(model, recipe_of(LOVE), tmp_path / "baked")
    with pytest.raises(ModelError, match="dtype 'int4'"):
        bake(network("llama"), tmp_path / "baked", LOVE, dtype="int4")


def test_the_page_names_every_family_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "bake.md").read_text(encoding="utf-8")
    table = page[page.index("## The places") : page.index("Where a key of")]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {*re.findall("`([a-z0-9_]+)`", " ".join(first))} == {*places.FAMILIES, "mistral", "qwen2"}


# ---- the folder


def test_nothing_is_ever_overwritten(network, tmp_path):
    folder = network("llama")
    for name in ("file", "link", "empty", "full"):
        target = tmp_path / name
        if name == "file":
            target.write_text("mine")
        elif name == "link":
            target.symlink_to(tmp_path / "nowhere")
        else:
            target.mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("file", "link", "empty", "full"):
        with pytest.raises(ExportError, match="exists already"):
            bake(folder, tmp_path / name, LOVE)
    assert (tmp_path / "file").read_text() == "mine" == (tmp_path / "full" / "mine").read_text()
    for name, said in (
        ("no/such", "no folder"),
        ("..", "not a name"),
        ("a\0b", "not a name"),
        ("x" * 300, "too long"),
    ):
        with pytest.raises(ExportError, match=said):
            bake(folder, tmp_path / name, LOVE)


def test_a_folder_that_appears_meanwhile_stays_as_it_is(network, tmp_path, monkeypatch):
    target = tmp_path / "baked"

    def write(*_):
        target.mkdir()
        (target / "mine").write_text("mine")
        return real(*_)

    real = shards.write_tensors
    monkeypatch.setattr("steer_cli.exports.tensors.write_tensors", write)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=r"^folder baked: it exists already"):
        bake(network("llama"), "baked", LOVE)
    assert os.listdir(target) == ["mine"] and os.listdir(tmp_path) == ["baked"]


def test_a_full_disk_is_one_line_and_leaves_nothing(network, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    for error in (OSError(28, "No space left on device"), SafetensorError("I/O error: ... (os error 28)")):

        def full(*_, error=error):
            raise error

        monkeypatch.setattr("steer_cli.exports.tensors.write_tensors", full)
        with pytest.raises(ExportError, match="No space left on device"):
            bake(network("llama"), tmp_path / "baked", LOVE)
        assert os.listdir(tmp_path) == []
    monkeypatch.setattr(
        "shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("Free", (), {"free": 10})()
    )
    with pytest.raises(ExportError, match="make room"):
        bake(network("llama"), tmp_path / "baked", LOVE)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_bake_leaves_no_model_and_the_next_one_cleans_up(network, tmp_path, monkeypatch):
    folder, target = network("llama"), tmp_path / "baked"
    code = (
        "import sys, time, steer_cli as steer\n"
        "from steer_cli.exports import tensors\n"
        "real = tensors.write_tensors\n"
        "def slow(*given):\n"
        "    real(*given)\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
        "tensors.write_tensors = slow\n"
        "addition = steer.Addition(plus='Love', layer=2, position={'every': 'all'})\n"
        "model, recipe = steer.load_model(sys.argv[1], device='cpu'), steer.Recipe(additions=[addition])\n"
        "steer.bake(model, recipe, sys.argv[2])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder), str(target)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"written\n"
        with pytest.raises(ExportError, match="another process is making it"):
            bake(folder, target, LOVE)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    time.sleep(0.05)
    assert os.listdir(tmp_path) == [".baked.unfinished"]
    notes = []
    bake(folder, target, LOVE, note=notes.append)
    assert "unfinished" in notes[0] and os.listdir(tmp_path) == ["baked"]


def test_ctrl_c_leaves_nothing(network, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("steer_cli.exports.probe.load", stopped)
    with pytest.raises(KeyboardInterrupt):
        bake(network("llama"), tmp_path / "baked", LOVE)
    assert os.listdir(tmp_path) == []


# ---- the command


def test_the_command_says_what_it_wrote(network, recipe_file, command, records, fault, tmp_path):
    folder = network("llama")
    file = recipe_file(folder, LOVE, CAKE)
    code, out, err = command("bake", file, "-o", "steered")
    assert (code, out) == (0, "") and "model.layers.1.mlp.down_proj.bias" in err and "checked: " in err
    assert (tmp_path / "steered" / "config.json").is_file()
    assert fault("bake", file, "-o", "steered").startswith("--output steered: it exists already")
    (record,) = records("bake", file, "-o", "other", "--dtype", "bfloat16")
    assert record["dtype"] == "bfloat16" and list(record["places"]) == ["1", "2", "3"]
    assert fault("bake", file, code=2).startswith("no --output")
    said = fault("bake", file, "-o", "new", "--position", "front")
    assert "{every: all}" in said and "approximate" not in said
    said = fault("bake", file, "-o", "new", "--relative", "0.3", code=2)
    assert said.startswith("--relative: ") and said.endswith("shows, with --coefficient")
    (run,) = records("generate", file, "--model", "other", "-p", TEXT, "-n", "1", "-c", "0")
    assert run["model"] == "other"
    assert baking.TYPES[0] == "auto"
