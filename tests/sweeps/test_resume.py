"""Going on from a recorded stream is a whole pass, for every layer and architecture."""

import pytest
from conftest import ARCHITECTURES


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request, tiny_folder):
    from steer_cli.models.load import load

    return load(tiny_folder(request.param), request.param)


@pytest.fixture(scope="module")
def ids():
    import torch

    return torch.randint(512, (3, 11), generator=torch.Generator().manual_seed(0))


def noise(layer, width):
    import torch

    return torch.randn(3, 11, width, generator=torch.Generator().manual_seed(layer)) * 0.5


def resume(model, start, stream, deltas):
    """Logits of a pass that goes on from a recorded stream and adds on its way."""
    from steer_cli.activations.residual import advance, read_out

    last = advance(model, start, stream, model.depth, {layer: lambda d=d: d for layer, d in deltas.items()})
    return read_out(model, last.flatten(0, 1)).unflatten(0, last.shape[:2])


def test_prefix_reuse_is_a_full_pass_at_every_layer(model, ids):
    import torch

    from steer_cli.activations.residual import inject, record

    for layer in range(model.depth):
        deltas = {at: noise(at, model.width) for at in range(layer, model.depth, 2)}
        with torch.inference_mode(), inject(model, deltas):
            whole = model.network(input_ids=ids, use_cache=False).logits
        stream = record(model, ids, [layer])[layer]
        torch.testing.assert_close(resume(model, layer, stream, deltas), whole, atol=1e-5, rtol=1e-5)


def test_positions_are_read_out_by_themselves(model, ids):
    """More of them than some of the models take in one row, of any texts and in any order."""
    import torch

    from steer_cli.activations.residual import advance, read_out, record

    with torch.inference_mode():
        whole = model.network(input_ids=ids, use_cache=False).logits.flatten(0, 1)
    last = advance(model, 0, record(model, ids, [0])[0], model.depth).flatten(0, 1)
    order = torch.randint(len(last), (1000,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(read_out(model, last[order]), whole[order], atol=1e-5, rtol=1e-5)


def test_a_stream_moves_up_as_if_it_had_been_recorded_there(model, ids):
    import torch

    from steer_cli.activations.residual import advance, record

    streams = record(model, ids, range(model.depth))
    for start in range(model.depth):
        for stop in range(start, model.depth):
            reached = advance(model, start, streams[start], stop)
            torch.testing.assert_close(reached, streams[stop], atol=1e-6, rtol=1e-6)


def test_nothing_stays_behind_even_after_an_exception(model, ids):
    import torch

    from steer_cli.activations.residual import record

    with torch.inference_mode():
        before = model.network(input_ids=ids, use_cache=False).logits
        stream = record(model, ids, [3])[3]
        resume(model, 3, stream, {3: noise(3, model.width)})
        with pytest.raises(RuntimeError):
            resume(model, 3, stream, {4: torch.zeros(3, 5, model.width)})  # of a wrong length
        after = model.network(input_ids=ids, use_cache=False).logits
    assert torch.equal(before, after)
    assert not any("forward" in vars(block) for block in model.blocks)


def test_a_forward_of_the_instance_comes_back(model, ids):
    """A device map hangs one on every block."""
    from steer_cli.activations.residual import record

    block = model.blocks[0]
    own = type(block).forward.__get__(block)
    block.forward = own
    try:
        resume(model, 2, record(model, ids, [2])[2], {})
        assert vars(block)["forward"] is own
    finally:
        del block.forward


def test_an_embedding_of_another_width_than_the_stream(ids, tmp_path):
    import torch
    from conftest import randomise
    from transformers import OPTConfig, OPTForCausalLM

    from steer_cli.activations.residual import advance, inject, record
    from steer_cli.models.load import load

    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64, "do_layer_norm_before": False}
    config = OPTConfig(vocab_size=512, num_hidden_layers=3, num_attention_heads=4, **sizes)
    network = OPTForCausalLM(config).float()
    randomise(network, seed=0)
    network.save_pretrained(tmp_path)
    model = load(tmp_path, "opt", device="cpu")
    streams = record(model, ids, range(3))
    for layer in range(3):
        deltas = {layer: noise(layer, 32)}
        with torch.inference_mode(), inject(model, deltas):
            whole = model.network(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(resume(model, layer, streams[layer], deltas), whole, atol=1e-4, rtol=1e-5)
        reached = advance(model, layer, streams[layer], 2)
        torch.testing.assert_close(reached, streams[2], atol=1e-5, rtol=1e-5)
