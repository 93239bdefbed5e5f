"""Each plain network against transformers, on tiny random models of every variant that it claims."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_cli.decoding.kv_cache import KVCache
from steer_cli.networks.attention import AfterPrefix, Causal
from steer_cli.networks.families import FAMILIES, build, why_not

SMALL = {
    "vocab_size": 128,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
GPT2 = {
    "vocab_size": 128,
    "n_embd": 48,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
WINDOW = 7
LENGTH = 23  # of a row, several windows
GEMMA = {
    **SMALL,
    "head_dim": 16,
    "query_pre_attn_scalar": 20,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
}
BOTH_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
VARIANTS = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "llama, biases, tied, wide heads": lambda: transformers.LlamaConfig(
        **SMALL, attention_bias=True, mlp_bias=True, tie_word_embeddings=True, head_dim=16
    ),
    "llama, all heads their own": lambda: transformers.LlamaConfig(**{**SMALL, "num_key_value_heads": 4}),
    "llama 3 rope": lambda: transformers.LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "linear rope": lambda: transformers.LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    ),
    "mistral, window": lambda: transformers.MistralConfig(**SMALL, sliding_window=WINDOW),
    "mistral, no window": lambda: transformers.MistralConfig(**SMALL, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL),
    "qwen2, some windows": lambda: transformers.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=16),
    "qwen3, tied": lambda: transformers.Qwen3Config(**SMALL, head_dim=16, tie_word_embeddings=True),
    "gpt2": lambda: transformers.GPT2Config(**GPT2),
    "gpt2, scales by layer": lambda: transformers.GPT2Config(
        **GPT2, scale_attn_by_inverse_layer_idx=True, n_inner=100
    ),
    "gpt2, unscaled, untied": lambda: transformers.GPT2Config(
        **GPT2, scale_attn_weights=False, tie_word_embeddings=False
    ),
    "gemma 3": lambda: transformers.Gemma3TextConfig(**GEMMA),
    "gemma 3, two ropes": lambda: transformers.Gemma3TextConfig(**GEMMA, rope_parameters=BOTH_ROPES),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function: name of a variant -> its folder; its weights are large enough that every block counts."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            model = transformers.AutoModelForCausalLM.from_config(VARIANTS[name]()).float()
            generator = torch.Generator().manual_seed(len(made))
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data = parameter.data + 0.1 * noise if parameter.ndim == 1 else 0.2 * noise
            model.save_pretrained(made.setdefault(name, tmp_path_factory.mktemp("variant")))
        return made[name]

    return folder_of


def values_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def plain(folder: Path, dtype: torch.dtype = torch.float32):
    return build(values_of(folder), [folder / "model.safetensors"], dtype, torch.device("cpu"))


def by_transformers(folder: Path, dtype: torch.dtype = torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def some_ids(rows: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, 128, (rows, length), generator=torch.Generator().manual_seed(5))


def whole_pass(network, ids: torch.Tensor, changes=None):
    """Logits and the stream that enters each block."""
    attention = Causal(ids.shape[1])
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int):
        def change(stream: torch.Tensor) -> torch.Tensor:
            seen[layer] = changes[layer](stream) if changes and layer in changes else stream
            return seen[layer]

        return change

    start = network.embed(ids, attention.positions)
    last = network.run(start, 0, network.depth, attention, {n: keep(n) for n in range(network.depth)})
    return network.unembed(last), seen, last


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


pytestmark = pytest.mark.parametrize("variant", VARIANTS)


@torch.inference_mode()
def test_logits_and_streams_are_those_of_transformers(folders, variant):
    folder, ids = folders(variant), some_ids()
    assert why_not(values_of(folder)) is None
    wanted = by_transformers(folder)(ids, output_hidden_states=True, use_cache=False)
    logits, seen, _ = whole_pass(plain(folder), ids)
    assert close(logits, wanted.logits)
    assert all(close(seen[layer], wanted.hidden_states[layer]) for layer in seen)
    assert len(seen) == 4


@torch.inference_mode()
def test_adding_at_each_layer_is_what_a_hook_does(folders, variant):
    folder, ids = folders(variant), some_ids()
    network, model = plain(folder), by_transformers(folder)
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)
    added = torch.randn(LENGTH, network.width, generator=torch.Generator().manual_seed(6))
    for layer in range(network.depth):
        hook = blocks[layer].register_forward_pre_hook(lambda _, args: (args[0] + added, *args[1:]))
        wanted = model(ids, use_cache=False).logits
        hook.remove()
        assert close(whole_pass(network, ids, {layer: lambda stream: stream + added})[0], wanted)


@torch.inference_mode()
def test_a_pass_goes_on_from_any_layer(folders, variant):
    network, ids = plain(folders(variant)), some_ids()
    _, seen, last = whole_pass(network, ids)
    attention = Causal(LENGTH)
    for start in range(network.depth):
        for stop in range(start, network.depth):
            assert torch.equal(network.run(seen[start], start, stop, attention), seen[stop])
        assert torch.equal(network.run(seen[start], start, network.depth, attention), last)


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(9, 9, 9), (3, 9, 5), (1, 12, 7)])
def test_decoding_beyond_windows_agrees_with_a_full_pass(folders, variant, lengths):
    network, ids = plain(folders(variant)), some_ids()
    wanted = whole_pass(network, ids)[0]
    attention = Causal(max(lengths), keep=True)
    ends = torch.tensor(lengths) - 1
    first = network.next_logits(ids[:, : max(lengths)], attention, ends=ends)
    cache = KVCache(attention.prefix, rows=3, capacity=LENGTH)
    for row, length in enumerate(lengths):
        cache.fill(slice(row, row + 1), attention.prefix.row(row, length), length)
        assert close(first[row], wanted[row, length - 1])
    for step in range(LENGTH - max(lengths)):
        places = [length + step for length in lengths]
        cache.begin_step(3, max(places), level=len(set(places)) == 1)
        logits = network.next_logits(
            torch.stack([ids[row, at, None] for row, at in enumerate(places)]), cache
        )
        cache.end_step()
        for row, at in enumerate(places):
            assert close(logits[row], wanted[row, at])


@torch.inference_mode()
def test_rows_go_on_after_one_prompt(folders, variant):
    network, ids = plain(folders(variant)), some_ids()
    ids[:, :9] = ids[0, :9]
    wanted = whole_pass(network, ids)[0]
    prompt = Causal(9, keep=True)
    network.next_logits(ids[:1, :9], prompt)
    after = AfterPrefix(prompt.prefix, 3, LENGTH - 9)
    stream = network.embed(ids[:, 9:], after.positions)
    assert close(network.unembed(network.run(stream, 0, network.depth, after)), wanted[:, 9:])


@torch.inference_mode()
def test_bfloat16_is_as_near_as_that_of_transformers(folders, variant):
    folder, ids = folders(variant), some_ids()
    exact = whole_pass(plain(folder), ids)[0]
    theirs = by_transformers(folder, torch.bfloat16)(ids, use_cache=False).logits.float()
    ours = whole_pass(plain(folder, torch.bfloat16), ids)[0].float()
    assert (ours - exact).square().mean() <= 2 * (theirs - exact).square().mean()


@settings(max_examples=30, deadline=None)
@given(key=st.from_regex(r"[a-z_]{3,20}", fullmatch=True), value=st.sampled_from([1, 0.5, True, "x", [1]]))
def test_an_unknown_key_goes_to_transformers(folders, variant, key, value):
    values = values_of(folders(variant))
    if key not in values and key not in known_keys():
        assert why_not(values | {key: value}) is not None


def known_keys() -> frozenset[str]:
    from steer_cli.networks import gemma3, gpt2, llama

    return frozenset().union(*(keys.known for keys in (*llama.KEYS.values(), gpt2.KEYS, gemma3.KEYS)))


@torch.inference_mode()
def test_a_known_key_with_an_unknown_value_goes_to_transformers(folders, variant):
    values = values_of(folders(variant))
    for key in ("hidden_act", "activation_function", "hidden_activation"):
        if key in values:
            assert "relu" in why_not(values | {key: "relu"})
    for kind in ("dynamic", "longrope", "yarn", "new"):
        if "rope_parameters" in values:
            rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
            assert kind in why_not(values | {"rope_parameters": rope})
    assert why_not(values | {"model_type": "of tomorrow"}) is not None
    assert values["model_type"] in FAMILIES
