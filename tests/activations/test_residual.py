"""Layer L is the stream that enters block L, only the span is changed, and undoing leaves no trace."""

from contextlib import contextmanager

import pytest
import torch
from conftest import ARCHITECTURES
from tiny import LOVE, PROMPT, SPANS, hidden_states, hooks, open_model, plain_logits, steer, watching

from steer_cli.activations.residual import inject, record
from steer_cli.decoding.engine import generate
from steer_cli.decoding.prefill import UNSTEERED, Job, prefill
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.schema import Sampling

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def ids_of(folder, text=PROMPT):
    return open_tokenizer(folder).prompt(text)


@every_architecture
def test_layer_l_is_what_enters_block_l(arch, tiny_folder):
    model, ids = open_model(tiny_folder(arch)), ids_of(tiny_folder(arch))
    expected = hidden_states(model, ids)
    assert len(expected) == 5
    recorded = record(model, torch.tensor([ids]), range(5))
    for layer in range(5):
        assert torch.equal(recorded[layer][0], expected[layer])
        # Stopping early, or not, is no difference.
        assert torch.equal(record(model, torch.tensor([ids]), [layer])[layer][0], expected[layer])


def test_layer_l_of_the_real_model(real_folder):
    model, ids = open_model(real_folder), ids_of(real_folder, "I hate you because")
    expected = hidden_states(model, ids)
    recorded = record(model, torch.tensor([ids]), range(30))
    assert sorted(recorded) == list(range(30))
    for layer in range(30):
        torch.testing.assert_close(recorded[layer][0], expected[layer])


@every_architecture
def test_recording_stops_at_the_deepest_layer_that_is_needed(arch, tiny_folder):
    model, ids = open_model(tiny_folder(arch)), torch.tensor([ids_of(tiny_folder(arch))])
    finished = []
    handles = [
        block.register_forward_hook(lambda *_, number=number: finished.append(number))
        for number, block in enumerate(model.blocks)
    ]
    for layers, blocks in (([0], []), ([2], [0, 1]), ([3, 1], [0, 1, 2])):
        finished.clear()
        assert sorted(record(model, ids, layers)) == sorted(layers)
        assert finished == blocks
    for handle in handles:
        handle.remove()


@every_architecture
@pytest.mark.parametrize(("position", "span"), SPANS)
def test_the_stream_is_before_plus_c_v_at_the_span_and_nowhere_else(arch, position, span, tiny_folder):
    one = steer(tiny_folder(arch), {**LOVE, "position": position})
    before = hidden_states(one.model, one.prompt)
    met = {}
    added = {layer: delta[None] for layer, delta in one.arm.prompt.items()}
    assert list(added) == [2]

    def keep(layer, stream, _):
        met[layer] = stream

    with inject(one.model, added, keep), watching(one.model) as after:
        record(one.model, torch.tensor([one.prompt]), [3])
    expected = before[2].clone()
    expected[slice(*span)] += 3 * one.vector
    torch.testing.assert_close(after[2][0], expected)
    assert not torch.allclose(after[2][0], before[2])
    outside = [position for position in range(len(one.prompt)) if position not in range(*span)]
    assert torch.equal(after[2][0, outside], before[2][outside])
    assert torch.equal(after[0][0], before[0]) and torch.equal(after[1][0], before[1])
    # The block before still owns the tensor that it handed over.
    assert torch.equal(met[2][0], before[2])


@every_architecture
def test_additions_at_two_layers_each_act_at_their_own(arch, tiny_folder):
    one = steer(tiny_folder(arch), {**LOVE, "layer": 1}, {**LOVE, "layer": 3, "position": "back"})
    with inject(one.model, {1: one.arm.prompt[1][None]}), watching(one.model) as first:
        record(one.model, torch.tensor([one.prompt]), [4])
    with inject(one.model, {k: v[None] for k, v in one.arm.prompt.items()}), watching(one.model) as both:
        record(one.model, torch.tensor([one.prompt]), [4])
    expected = first[3].clone()
    expected[0, 6:9] += 3 * one.vectors[1]
    for layer in range(3):
        assert torch.equal(both[layer], first[layer])
    torch.testing.assert_close(both[3], expected)


@every_architecture
def test_the_unsteered_row_of_a_batch_is_not_touched(arch, tiny_folder):
    one = steer(tiny_folder(arch), LOVE)
    with watching(one.model) as plain:
        (alone,) = prefill(one.model, [Job(one.prompt, (UNSTEERED, UNSTEERED))])
    with watching(one.model) as mixed:
        logits = one.prefilled().logits
    assert torch.equal(logits[0], alone.logits[0]) and not torch.allclose(logits[1], alone.logits[1])
    assert all(torch.equal(mixed[layer][0], plain[layer][0]) for layer in range(5))


class Stop(Exception):
    """Some failure inside the network."""


def stop(*_):
    raise Stop


def interrupt(*_):
    raise KeyboardInterrupt


def all_hooks(network):
    return [list(module._forward_pre_hooks) + list(module._forward_hooks) for module in network.modules()]


@contextmanager
def left_as_it_was(one):
    """After the block, the model has no hooks and the logits and streams that it had, to the bit."""
    logits, streams = plain_logits(one.model, one.prompt), hidden_states(one.model, one.prompt)
    # transformers hangs hooks of its own on the modules when it is first asked for hidden states.
    before = all_hooks(one.model.network)
    yield
    assert hooks(one.model) == [0] * one.model.depth
    assert all_hooks(one.model.network) == before
    assert torch.equal(plain_logits(one.model, one.prompt), logits)
    after = hidden_states(one.model, one.prompt)
    assert all(torch.equal(now, before) for now, before in zip(after, streams, strict=True))


@contextmanager
def calling(block, called):
    """`called` is called whenever the block has run."""
    handle = block.register_forward_hook(called)
    try:
        yield
    finally:
        handle.remove()


def everywhere(folder):
    """Hooks in the prefill and in every step of decoding."""
    return steer(folder, {**LOVE, "layer": [0, 2, 4]}, {**LOVE, "position": "every"})


@every_architecture
def test_a_run_leaves_no_trace(arch, tiny_folder):
    one = everywhere(tiny_folder(arch))
    with left_as_it_was(one):
        rows = one.rows(samples=2, max_new_tokens=4, eos=())
    assert [len(row.ids) for arm in rows for row in arm] == [4] * 4


@pytest.fixture
def passed_by_network(monkeypatch):
    """Steps are passes of the network also where one is written out, which has no hooks."""
    monkeypatch.setattr("steer_cli.decoding.step.can_be_lean", lambda _: False)


@every_architecture
@pytest.mark.parametrize(("failure", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("at", [1, 2, 4])  # the prefill, the first and the third step
def test_a_failure_in_the_network_leaves_no_trace(arch, at, failure, error, tiny_folder, passed_by_network):
    one, passes = everywhere(tiny_folder(arch)), []

    def fail(*_):
        passes.append(hooks(one.model))
        if len(passes) == at:
            failure()

    with left_as_it_was(one), calling(one.model.blocks[3], fail), pytest.raises(error):
        one.rows(samples=2, max_new_tokens=6, eos=())
    # It failed while hooks were there to be left behind.
    assert passes == [[1, 0, 1, 0, 1], *[[0, 0, 1, 0, 0]] * (at - 1)]


@every_architecture
@pytest.mark.parametrize(("failure", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
def test_a_failure_while_recording_leaves_no_trace(arch, failure, error, tiny_folder):
    one = everywhere(tiny_folder(arch))
    with left_as_it_was(one), calling(one.model.blocks[3], failure), pytest.raises(error):
        record(one.model, torch.tensor([one.prompt]), [4])


@every_architecture
def test_an_interrupt_between_steps_leaves_no_trace(arch, tiny_folder):
    one = everywhere(tiny_folder(arch))
    sampling = Sampling(max_new_tokens=4, samples=2)
    with left_as_it_was(one), pytest.raises(KeyboardInterrupt):
        list(generate(one.model, [one.job], sampling, (), len(one.prompt), ended=interrupt))


@every_architecture
def test_a_run_that_is_given_up_leaves_no_trace(arch, tiny_folder):
    """As when the reader of a pipe goes away: later prompts are never asked for."""
    one = everywhere(tiny_folder(arch))
    sampling = Sampling(max_new_tokens=4, samples=2)
    with left_as_it_was(one):
        runs = generate(one.model, [one.job] * 5, sampling, (), len(one.prompt), batch_rows=2)
        first = next(runs)
        assert hooks(one.model) == [0] * 5  # whoever takes the results may run the model too
        runs.close()
    assert len(first.rows[1]) == 2


@every_architecture
@pytest.mark.parametrize(("position", "left"), [("front", 0), ("back", 0), ({"at": 2}, 0), ("every", 1)])
def test_only_every_costs_a_hook_once_the_prompt_is_done(
    arch, position, left, tiny_folder, passed_by_network
):
    one, passes = steer(tiny_folder(arch), {**LOVE, "position": position}), []
    with calling(one.model.blocks[3], lambda *_: passes.append(hooks(one.model))):
        one.rows(samples=2, max_new_tokens=4, eos=())
    assert passes == [[0, 0, 1, 0, 0]] + [[0, 0, left, 0, 0]] * 3


def test_the_real_model_is_left_as_it_was(real_folder):
    one = steer(real_folder, {**LOVE, "layer": 4}, {**LOVE, "layer": 16, "position": "every"})
    with left_as_it_was(one):
        one.rows(samples=1, max_new_tokens=2, eos=())
    with left_as_it_was(one), calling(one.model.blocks[20], interrupt), pytest.raises(KeyboardInterrupt):
        one.rows(samples=1, max_new_tokens=2, eos=())
