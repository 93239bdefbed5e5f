"""Other architectures: rows that can share a batch agree with the reference, the others are refused."""

import json
import shutil

import pytest
import torch
from reference import reference

from steer_cli.api import questions as api
from steer_cli.errors import ModelError
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.located import Located
from steer_cli.models.resolve import locate
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.families import FAMILIES
from steer_cli.recipe.load import load as load_recipe

torch.set_num_threads(1)

PROMPT = "The ship sailed to Rome with a cargo of salt, wine and stone, and"
SAMPLING = {"max_new_tokens": 10, "samples": 2, "temperature": 1.5, "top_p": 0.9, "seed": 3}
WIDE = {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"intermediate_size": 64, "max_position_embeddings": 128, "initializer_range": 0.3}
SHARED = {
    # A window smaller than the row, so that what a block sees moves along.
    "mistral": {**WIDE, **LARGE, "num_key_value_heads": 2, "sliding_window": 6},
    "qwen2": {**WIDE, **LARGE, "num_key_value_heads": 2},
    "qwen3": {**WIDE, **LARGE, "num_key_value_heads": 2, "head_dim": 8},
    "mixtral": {**WIDE, **LARGE, "num_key_value_heads": 2, "num_local_experts": 2},
    "phi": {**WIDE, **LARGE},
    "falcon": {**WIDE, "alibi": False, "initializer_range": 0.3},
    "opt": {
        **WIDE,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": 128,
        "init_std": 0.3,
    },
}
REFUSED = {
    "bloom": {"vocab_size": 512, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt_neo": {
        "vocab_size": 512,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
    },
    "falcon": {**WIDE, "alibi": True},
    "mamba": {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    # Windows in its configuration that its attention does not use.
    "moshi": {**WIDE, "sliding_window": 6, "max_position_embeddings": 128, "ffn_dim": 64},
    "xlm": {"n_words": 512, "emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "reformer": {"vocab_size": 512, "is_decoder": True, "attn_layers": ["local", "local"]},
}


@pytest.fixture
def folder_of(tiny_folder, tmp_path):
    """A folder with random weights of a configuration, and the tiny tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def make(kind: str, values: dict):
        torch.manual_seed(0)
        ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        network = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values, **ids))
        network.save_pretrained(tmp_path / kind)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_folder("gpt2") / file, tmp_path / kind / file)
        return tmp_path / kind

    return make


def opened(folder):
    return load(Located(folder.name, folder), Hardware(device="cpu"))


@pytest.mark.parametrize("way", ["plain", "adapted"])
@pytest.mark.parametrize("kind", SHARED)
def test_rows_of_a_batch_agree_with_the_reference(folder_of, tmp_path, kind, way):
    if way == "plain" and kind not in FAMILIES:
        pytest.skip("only transformers has it")
    folder = folder_of(kind, SHARED[kind])
    if way == "adapted":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "unknown_to_plain_networks": 1}))
    addition = {"plus": "Love", "minus": "Hate", "layer": 1, "coefficient": 2}
    file = tmp_path / "recipe.yaml"
    prompts = ["I hate you because", PROMPT]
    values = {"model": str(folder), "prompts": prompts, "additions": [addition], "sampling": SAMPLING}
    file.write_text(json.dumps(values))  # JSON is YAML
    model = load(locate(str(folder)), Hardware(device="cpu"))
    assert isinstance(model.network, Adapter) == (way == "adapted")
    *_, outcome = api.generate(model, load_recipe(str(file)))
    wanted = reference(folder, PROMPT, [addition], SAMPLING)
    for arm in ("unsteered", "steered"):
        got = [(completion.tokens, completion.finish) for completion in getattr(outcome, arm)]
        assert got == [(tuple(row["ids"]), row["finish"]) for row in wanted[arm]["samples"]]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_whose_past_cannot_be_batched_is_refused(folder_of, kind):
    folder = folder_of(kind, REFUSED[kind])
    with pytest.raises(ModelError, match=r"keeps its past in a way that steer cannot batch"):
        opened(folder)


def test_an_encoder_that_is_not_made_a_decoder_is_refused(folder_of):
    values = {**WIDE, "intermediate_size": 64, "max_position_embeddings": 128}
    opened(folder_of("bert", {**values, "is_decoder": True}))
    with pytest.raises(ModelError, match="its attention is not causal"):
        opened(folder_of("bert", {**values, "is_decoder": False}))


def test_the_mask_of_steps_is_the_window_that_the_network_uses(folder_of):
    # A Mistral slides in all blocks, whatever Qwen's key says.
    values = {**SHARED["mistral"], "use_sliding_window": False}
    network = opened(folder_of("mistral", values)).network
    assert network.windows == {"sliding_attention": 6}
    assert not hasattr(network.model.config, "use_sliding_window")
