"""The written out step of the Llama family is a pass of the network."""

import dataclasses

import pytest
import torch
from conftest import randomise

from steer_cli.decoding.kv_cache import Slots
from steer_cli.decoding.prefill import UNSTEERED, Job, prefill
from steer_cli.models.load import Model
from steer_cli.networks.lean import FAMILY, LeanStep, can_be_lean, readers
from steer_cli.networks.packed import packed

torch.set_num_threads(1)

SIZES = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "llama": ("Llama", {}),
    "biases, tied head": ("Llama", {"attention_bias": True, "tie_word_embeddings": True}),
    "stretched rotation": ("Llama", {"rope_parameters": ROPE}),
    "wide heads": ("Llama", {"head_dim": 20}),
    "one head of keys": ("Llama", {"num_key_value_heads": 1}),
    "mistral, sliding": ("Mistral", {"sliding_window": 5}),
    "qwen2": ("Qwen2", {}),
}


def made(kind: str, **more) -> Model:
    import transformers

    family, keys = KINDS[kind]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **keys, **more}, eos_token_id=1)
    network = getattr(transformers, f"{family}ForCausalLM")(config).float().eval().requires_grad_(False)
    randomise(network, seed=3)
    return Model(
        kind, network, network.model.layers, torch.device("cpu"), torch.float32, config.hidden_size, 64
    )


# Rows of different lengths, as they stand side by side in a batch.
HISTORIES = ((0, 5, 9, 13, 2, 40, 41), (0, 7, 7), (0, 60, 3, 33, 21), (0,), (0, 12, 8, 9, 50, 4, 3, 2, 63))
NEXT = (17, 4, 22, 31, 8)


def slots_of(model: Model) -> Slots:
    started = [prefill(model, [Job(history, (UNSTEERED,))])[0] for history in HISTORIES]
    slots = Slots(model, started[0].prefixes[0], len(HISTORIES), 16)
    for slot, (one, history) in enumerate(zip(started, HISTORIES, strict=True)):
        slots.fill(slice(slot, slot + 1), one.prefixes[0], len(history))
    return slots


def whole_passes(model: Model, deltas: dict[int, torch.Tensor]) -> torch.Tensor:
    """Logits behind each history and its next token, a row at a time without a cache, in float64."""
    exact = dataclasses.replace(model, network=model.network.double())
    rows = []
    for number, (history, token) in enumerate(zip(HISTORIES, NEXT, strict=True)):

        def add(layer, number=number):
            def hook(_, args, kwargs):
                stream = (args[0] if args else kwargs["hidden_states"]).clone()
                stream[:, -1] += deltas[layer][number].double()
                return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

            return hook

        layers = exact.network.model.layers
        handles = [layers[layer].register_forward_pre_hook(add(layer), with_kwargs=True) for layer in deltas]
        rows.append(exact.network(torch.tensor([[*history, token]]), use_cache=False).logits[0, -1])
        for handle in handles:
            handle.remove()
    model.network.float()
    return torch.stack(rows)


@pytest.mark.parametrize("steered", [False, True], ids=["unsteered", "steered"])
@pytest.mark.parametrize("products", ["plain", "packed"])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_it_gives_the_logits_of_a_whole_pass(kind, products, steered):
    model = made(kind)
    assert can_be_lean(model)
    noise = torch.randn(2, len(NEXT), model.width, generator=torch.Generator().manual_seed(1))
    deltas = {0: noise[0], 2: 3 * noise[1]} if steered else {}
    slots = slots_of(model)
    slots.begin_step(len(NEXT), max(map(len, HISTORIES)))
    quicker = packed(model, len(NEXT), readers(model)) if products == "packed" else {}
    step = LeanStep(model, slots, quicker)
    got = step(torch.tensor(NEXT), deltas)
    torch.testing.assert_close(got.double(), whole_passes(model, deltas), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_rows_of_one_length_need_no_mask(kind):
    model = made(kind)
    history = HISTORIES[0]
    (started,) = prefill(model, [Job(history, (UNSTEERED,))])
    results = []
    for level in (False, True):
        slots = Slots(model, started.prefixes[0], len(NEXT), 16)
        slots.fill(slice(0, len(NEXT)), started.prefixes[0], len(history))
        step = LeanStep(model, slots, {})
        for number in range(2):
            slots.begin_step(len(NEXT), len(history) + number, level)
            assert slots.hides_nothing == (level and kind != "mistral, sliding")
            logits = step(torch.tensor(NEXT), {})
            slots.end_step()
        results.append(logits)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_later_step_sees_what_an_earlier_one_wrote():
    model = made("llama")
    slots = slots_of(model)
    step = LeanStep(model, slots, {})
    longest = max(map(len, HISTORIES))
    for number in range(3):
        slots.begin_step(len(NEXT), longest + number)
        got = step(torch.tensor(NEXT), {})
        slots.end_step()
    for row, (history, token) in enumerate(zip(HISTORIES, NEXT, strict=True)):
        whole = model.network(torch.tensor([[*history, token, token, token]])).logits[0, -1]
        torch.testing.assert_close(got[row], whole, rtol=1e-4, atol=1e-4)


def test_networks_with_other_blocks_are_not_of_the_family(tiny_folder):
    from steer_cli.models.load import load

    lean = {
        arch: can_be_lean(load(tiny_folder(arch), arch, device="cpu")) for arch in ("llama", "gemma3", "gpt2")
    }
    assert lean == {"llama": True, "gemma3": False, "gpt2": False}
    half = load(tiny_folder("llama"), "llama", dtype="bfloat16", device="cpu")
    assert not can_be_lean(half)
    assert not can_be_lean(made("llama", hidden_act="gelu"))
    # Blocks of two kinds need two masks.
    mixed = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert not can_be_lean(made("qwen2", **mixed))


def test_every_network_of_the_family_is_tried_here():
    assert {f"{family}ForCausalLM" for family, _ in KINDS.values()} == FAMILY


@torch.inference_mode(False)
@torch.no_grad()
def test_a_product_of_several_layers_is_packed_anew_when_one_of_them_or_the_norm_changes():
    model = made("qwen2")
    block = model.network.model.layers[1]
    attention = block.self_attn
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    stream = torch.randn(16, model.width, generator=torch.Generator().manual_seed(1))
    for changed in (attention.k_proj.weight, attention.q_proj.bias, block.input_layernorm.weight):
        packed(model, 16, readers(model))
        changed.mul_(2).add_(1)
        normed = stream * block.input_layernorm.weight
        wanted = torch.cat([layer(normed) for layer in layers], -1)
        for rows in (16, 5):
            got = packed(model, 16, readers(model))[layers](stream[:rows])
            torch.testing.assert_close(got, wanted[:rows], rtol=1e-4, atol=1e-4)
