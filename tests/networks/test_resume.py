"""Going on from a recorded stream is a whole pass, for every layer and architecture."""

from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, randomise
from tiny import by_transformers, open_model

from steer_cli.activations.residual import record
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.attention import Causal

POSITIONS = 11


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request, tiny_folder) -> Path:
    return tiny_folder(request.param)


@pytest.fixture(scope="module")
def network(folder):
    return open_model(folder).network


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(512, (3, POSITIONS), generator=torch.Generator().manual_seed(0))


def adding(layers, width):
    """layer -> what adds noise of its own."""

    def add(layer):
        noise = torch.randn(3, POSITIONS, width, generator=torch.Generator().manual_seed(layer)) * 0.5
        return lambda stream: stream + noise

    return {layer: add(layer) for layer in layers}


def resume(network, start, stream, changes):
    """Logits of a pass that goes on from a recorded stream."""
    return network.unembed(network.run(stream, start, network.depth, Causal(POSITIONS), changes))


@torch.inference_mode()
def steered_by_hooks(folder, ids, changes) -> torch.Tensor:
    """Logits of transformers' own model, with a hook of our own on each block."""
    model = by_transformers(folder)
    depth = model.config.get_text_config().num_hidden_layers
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth)

    def hook(change):
        return lambda _, args: (change(args[0]), *args[1:])

    handles = [blocks[layer].register_forward_pre_hook(hook(change)) for layer, change in changes.items()]
    try:
        return model(input_ids=ids, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def test_prefix_reuse_is_a_full_pass_at_every_layer(folder, network, ids):
    for layer in range(network.depth):
        changes = adding(range(layer, network.depth, 2), network.width)
        stream = record(network, ids, [layer])[layer]
        whole = steered_by_hooks(folder, ids, changes)
        torch.testing.assert_close(resume(network, layer, stream, changes), whole, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_positions_are_read_out_by_themselves(folder, network, ids):
    """More of them than some of the models take in one row, of any texts and in any order."""
    whole = steered_by_hooks(folder, ids, {}).flatten(0, 1)
    stream = record(network, ids, [0])[0]
    last = network.run(stream, 0, network.depth, Causal(POSITIONS)).flatten(0, 1)
    order = torch.randint(len(last), (1000,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.unembed(last[order]), whole[order], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_stream_moves_up_as_if_it_had_been_recorded_there(network, ids):
    streams = record(network, ids, range(network.depth))
    for start in range(network.depth):
        for stop in range(start, network.depth):
            reached = network.run(streams[start], start, stop, Causal(POSITIONS))
            torch.testing.assert_close(reached, streams[stop], atol=1e-6, rtol=1e-6)


@torch.inference_mode()
def test_nothing_stays_behind_even_after_an_exception(network, ids):
    stream = record(network, ids, [3])[3]
    before = resume(network, 0, record(network, ids, [0])[0], {})
    resume(network, 3, stream, adding([3], network.width))
    with pytest.raises(RuntimeError):
        resume(network, 3, stream, {4: lambda stream: stream + torch.zeros(3, 5, network.width)})
    assert torch.equal(before, resume(network, 0, record(network, ids, [0])[0], {}))
    if isinstance(network, Adapter):
        assert not any("forward" in vars(block) for block in network.blocks)


@torch.inference_mode()
def test_a_forward_of_the_instance_comes_back(network, ids):
    """A device map hangs one on every block."""
    if not isinstance(network, Adapter):
        pytest.skip("a plain network has no modules")
    block = network.blocks[0]
    bound = type(block).forward.__get__(block)
    block.forward = bound
    try:
        resume(network, 2, record(network, ids, [2])[2], {})
        assert vars(block)["forward"] is bound
    finally:
        del block.forward


@torch.inference_mode()
def test_an_embedding_of_another_width_than_the_stream(ids, tmp_path):
    from transformers import OPTConfig, OPTForCausalLM

    from steer_cli.models.pretrained import new_cache

    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64, "do_layer_norm_before": False}
    config = OPTConfig(vocab_size=512, num_hidden_layers=3, num_attention_heads=4, **sizes)
    model = OPTForCausalLM(config).float().eval()
    randomise(model, seed=0)
    model.save_pretrained(tmp_path)
    network = Adapter(model, model.model.decoder.layers, new_cache)
    streams = record(network, ids, range(3))
    for layer in range(3):
        changes = adding([layer], 32)
        whole = steered_by_hooks(tmp_path, ids, changes)
        torch.testing.assert_close(
            resume(network, layer, streams[layer], changes), whole, atol=1e-4, rtol=1e-4
        )
        reached = network.run(streams[layer], layer, 2, Causal(POSITIONS))
        torch.testing.assert_close(reached, streams[2], atol=1e-5, rtol=1e-5)
