"""A step over rows of any length is a full pass over each of them, plain or by transformers."""

import pytest
import torch
from conftest import randomise
from tiny import watching

from steer_cli.activations.arms import UNSTEERED
from steer_cli.activations.change import Change
from steer_cli.decoding.kv_cache import KVCache
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Request
from steer_cli.decoding.step import decode_step
from steer_cli.models.hardware import Hardware
from steer_cli.models.load import load
from steer_cli.models.located import Located
from steer_cli.networks.adapter import Adapter

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
WINDOW = 5
MIXED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
GEMMA = {
    "head_dim": 12,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
}
KINDS = {
    "llama": ("Llama", {}),
    "biases, tied head": ("Llama", {"attention_bias": True, "tie_word_embeddings": True}),
    "stretched rotation": ("Llama", {"rope_parameters": ROPE}),
    "wide heads": ("Llama", {"head_dim": 20}),
    "one head of keys": ("Llama", {"num_key_value_heads": 1}),
    "mistral, sliding": ("Mistral", {"sliding_window": WINDOW}),
    "qwen2": ("Qwen2", {}),
    "qwen2, some windows": ("Qwen2", MIXED),
    "gemma 3": ("Gemma3Text", {**GEMMA, "model_class": "Gemma3ForCausalLM"}),
}
SLIDING = [kind for kind, (_, keys) in KINDS.items() if "sliding_window" in keys]

# Rows of different lengths, as they stand side by side in a batch.
HISTORIES = ((0, 5, 9, 13, 2, 40, 41), (0, 7, 7), (0, 60, 3, 33, 21), (0,), (0, 12, 8, 9, 50, 4, 3, 2, 63))
NEXT = (17, 4, 22, 31, 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function: kind, whether adapted -> the network, and the oracle in float64."""
    folders = {}

    def make(kind, adapted):
        import json

        import transformers

        family, keys = KINDS[kind]
        keys = dict(keys)
        name = keys.pop("model_class", f"{family}ForCausalLM")
        if kind not in folders:
            config = getattr(transformers, f"{family}Config")(**{**SIZES, **keys}, eos_token_id=1)
            network = getattr(transformers, name)(config).float().eval()
            randomise(network, seed=3)
            folders[kind] = tmp_path_factory.mktemp("step")
            network.save_pretrained(folders[kind])
        file = folders[kind] / "config.json"
        values = json.loads(file.read_text(encoding="utf-8"))
        values.pop("unknown_to_plain_networks", None)
        more = {"unknown_to_plain_networks": 1} if adapted else {}
        file.write_text(json.dumps({**values, **more}), encoding="utf-8")
        network = load(Located(kind, folders[kind]), Hardware(device="cpu")).network
        assert isinstance(network, Adapter) == adapted
        oracle = getattr(transformers, name).from_pretrained(folders[kind], dtype=torch.float64).eval()
        return network, oracle

    return make


@pytest.fixture(params=[False, True], ids=["plain", "adapted"])
def adapted(request):
    return request.param


def filled(network, histories, room=16):
    """A cache that holds a history per slot."""
    started = prefill(network, [Request(history, (UNSTEERED,)) for history in histories])
    cache = KVCache(started[0].prefixes[0], len(histories), max(map(len, histories)) + room)
    for slot, (one, history) in enumerate(zip(started, histories, strict=True)):
        cache.fill(slice(slot, slot + 1), one.prefixes[0], len(history))
    return cache


def whole_passes(oracle, histories, deltas):
    """Logits after each history, a row at a time without a cache, in float64; deltas on its last token."""
    rows = []
    for number, history in enumerate(histories):

        def add(layer, number=number):
            def hook(_, args, kwargs):
                stream = (args[0] if args else kwargs["hidden_states"]).clone()
                stream[:, -1] += deltas[layer][number].double()
                return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

            return hook

        layers = oracle.model.layers
        handles = [layers[layer].register_forward_pre_hook(add(layer), with_kwargs=True) for layer in deltas]
        rows.append(oracle(torch.tensor([history]), use_cache=False).logits[0, -1])
        for handle in handles:
            handle.remove()
    return torch.stack(rows)


@pytest.mark.parametrize("steered", [False, True], ids=["unsteered", "steered"])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_it_gives_the_logits_of_a_whole_pass(kind, steered, adapted, made):
    network, oracle = made(kind, adapted)
    noise = torch.randn(2, len(NEXT), network.width, generator=torch.Generator().manual_seed(1))
    deltas = {0: noise[0], 2: 3 * noise[1]} if steered else {}
    cache = filled(network, HISTORIES)
    cache.begin_step(len(NEXT), max(map(len, HISTORIES)))
    changes = {layer: Change(delta) for layer, delta in deltas.items()}
    got = decode_step(network, cache)(torch.tensor(NEXT), changes)
    longer = [(*history, token) for history, token in zip(HISTORIES, NEXT, strict=True)]
    torch.testing.assert_close(got.double(), whole_passes(oracle, longer, deltas), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_rows_of_one_length_need_no_mask_until_they_outgrow_a_window(kind, adapted, made):
    """From less than a window to more than two of them, so that every length about it is met."""
    network, oracle = made(kind, adapted)
    rows = [[first, 5, 9] for first in NEXT]
    caches = [filled(network, list(map(tuple, rows))) for _ in range(2)]
    steps = [decode_step(network, cache) for cache in caches]
    for number in range(10):
        tokens = torch.tensor([(11 * number + 7 * row) % 64 for row in range(len(rows))])
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.append(token)
        results = []
        for cache, step, level in zip(caches, steps, (False, True), strict=True):
            cache.begin_step(len(rows), 3 + number, level)
            hides = len(rows[0]) > WINDOW
            assert (cache.mask(None, torch.float32) is None) == level
            assert (cache.mask(WINDOW, torch.float32) is None) == (level and not hides)
            results.append(step(tokens, {}))
            cache.end_step()
        wanted = whole_passes(oracle, rows, {})
        for got in results:
            torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", *SLIDING])
@torch.inference_mode()
def test_a_later_step_sees_what_an_earlier_one_wrote(kind, adapted, made):
    network, oracle = made(kind, adapted)
    cache = filled(network, HISTORIES)
    step, longest = decode_step(network, cache), max(map(len, HISTORIES))
    for number in range(3):
        cache.begin_step(len(NEXT), longest + number)
        got = step(torch.tensor(NEXT), {})
        cache.end_step()
    longer = [(*history, *[token] * 3) for history, token in zip(HISTORIES, NEXT, strict=True)]
    torch.testing.assert_close(got.double(), whole_passes(oracle, longer, {}), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", [5, 8])
@torch.inference_mode()
def test_free_slots_that_run_too_change_nothing_and_are_not_filled(run, adapted, made):
    network, _ = made("mistral, sliding", adapted)
    histories, results = [*HISTORIES, (0, 1), (0, 2, 3), (0,)], []
    for more in (0, run):
        cache = filled(network, histories)
        step = decode_step(network, cache)
        for number in range(2):
            cache.begin_step(3, max(map(len, HISTORIES)) + number, run=more)
            with watching(network) as streams:
                results.append(step(torch.tensor(NEXT[:3]), {})[:3])
            assert len(streams[0]) == max(3, more)
            cache.end_step()
        assert cache.lengths.tolist() == [len(h) + 2 for h in histories[:3]] + [len(h) for h in histories[3:]]
    torch.testing.assert_close(results[0], results[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[1], results[3], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_copied_slots_go_on_as_their_origins(adapted, made):
    network, oracle = made("llama", adapted)
    cache = filled(network, HISTORIES)
    cache.copy(torch.tensor([0, 4]), torch.tensor([3, 1]), max(map(len, HISTORIES)))
    copied = [HISTORIES[origin] for origin in (0, 4, 2, 0, 4)]
    assert cache.lengths.tolist() == list(map(len, copied))
    cache.begin_step(5, max(map(len, copied)))
    got = decode_step(network, cache)(torch.tensor(NEXT), {})
    longer = [(*history, token) for history, token in zip(copied, NEXT, strict=True)]
    torch.testing.assert_close(got.double(), whole_passes(oracle, longer, {}), rtol=1e-4, atol=1e-4)
