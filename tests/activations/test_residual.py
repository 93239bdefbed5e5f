"""Layer L is the stream entering block L, only the span is changed, and undoing leaves no trace."""

from contextlib import contextmanager

import pytest
import torch
from conftest import ARCHITECTURES
from tiny import (
    LOVE,
    PROMPT,
    SPANS,
    hidden_states,
    hooks,
    open_model,
    passing,
    steer,
    watching,
)

from steer_cli.activations.arms import UNSTEERED
from steer_cli.activations.residual import record
from steer_cli.decoding.engine import decode
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Request
from steer_cli.networks.adapter import Adapter
from steer_cli.networks.attention import Causal
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.sampling import Sampling

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)


def ids_of(folder, text=PROMPT):
    return open_tokenizer(folder).prompt(text)


def same_as_transformers(network, found, expected, cached=False):
    """To the bit where transformers computes it in the same way; a plain network may round otherwise."""
    if isinstance(network, Adapter) and not cached:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_architecture
def test_layer_l_is_what_enters_block_l(arch, tiny_folder):
    network, ids = open_model(tiny_folder(arch)).network, ids_of(tiny_folder(arch))
    expected = hidden_states(tiny_folder(arch), ids)
    assert len(expected) == 5
    recorded = record(network, torch.tensor([ids]), range(5))
    for layer in range(5):
        same_as_transformers(network, recorded[layer][0], expected[layer])
        # Stopping early, or not, is no difference.
        assert torch.equal(record(network, torch.tensor([ids]), [layer])[layer], recorded[layer])


def unsteered_streams(one):
    """Of a prefill of two rows: layer -> [rows, positions, width]."""
    with watching(one.network) as streams:
        prefill(one.network, [Request(one.prompt, (UNSTEERED, UNSTEERED))])
    return streams


def test_layer_l_of_the_real_model(real_folder):
    network, ids = open_model(real_folder).network, ids_of(real_folder, "I hate you because")
    expected = hidden_states(real_folder, ids)
    recorded = record(network, torch.tensor([ids]), range(30))
    assert sorted(recorded) == list(range(30))
    for layer in range(30):
        # A few values of this model's stream are in the thousands.
        torch.testing.assert_close(recorded[layer][0], expected[layer], rtol=1e-4, atol=2e-3)


@every_architecture
def test_recording_stops_at_the_deepest_layer_that_is_needed(arch, tiny_folder):
    network, ids = open_model(tiny_folder(arch)).network, torch.tensor([ids_of(tiny_folder(arch))])
    run = []
    for layers, blocks in (([0], []), ([2], [0, 1]), ([3, 1], [0, 1, 2])):
        run.clear()
        with every_block(network, run.append):
            assert sorted(record(network, ids, layers)) == sorted(layers)
        assert run == blocks


@contextmanager
def every_block(network, called, block=0):
    """`called` is called with the number of each block that runs."""
    if block == network.depth:
        yield
        return
    with passing(network, block, lambda: called(block)), every_block(network, called, block + 1):
        yield


@every_architecture
@pytest.mark.parametrize(("position", "span"), SPANS)
def test_the_stream_is_before_plus_c_v_at_the_span_and_nowhere_else(arch, position, span, tiny_folder):
    one = steer(tiny_folder(arch), {**LOVE, "position": position})
    before = unsteered_streams(one)
    same_as_transformers(one.network, before[2][1], hidden_states(one.folder, one.prompt)[2], cached=True)
    assert one.arm.layers == {2}
    with watching(one.network) as after:
        one.prefilled()
    expected = before[2][1].clone()
    expected[slice(*span)] += 3 * one.vector
    torch.testing.assert_close(after[2][1], expected)
    assert not torch.allclose(after[2][1], before[2][1])
    outside = [position for position in range(len(one.prompt)) if position not in range(*span)]
    assert torch.equal(after[2][1, outside], before[2][1, outside])
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])
    assert not torch.allclose(after[3][1], before[3][1])


@every_architecture
def test_the_tensor_that_a_block_hands_over_is_not_written_to(arch, tiny_folder):
    """The block before still owns it."""
    one, met = steer(tiny_folder(arch), LOVE), []
    attention = Causal(len(one.prompt))
    ids = torch.tensor([one.prompt])

    def change(stream):
        met.append((stream, stream.clone()))
        return stream + one.added(2)

    stream = one.network.embed(ids, attention.positions)
    one.network.run(stream, 0, 5, attention, {2: change})
    with watching(one.network) as streams:
        one.prefilled()
    ((handed_over, copy),) = met
    assert torch.equal(handed_over, copy)
    assert torch.equal(streams[1], unsteered_streams(one)[1])


@every_architecture
def test_additions_at_two_layers_each_act_at_their_own(arch, tiny_folder):
    lower, upper = {**LOVE, "layer": 1}, {**LOVE, "layer": 3, "position": "back"}
    one, alone = steer(tiny_folder(arch), lower, upper), steer(tiny_folder(arch), lower)
    with watching(one.network) as first:
        alone.prefilled()
    with watching(one.network) as both:
        one.prefilled()
    expected = first[3].clone()
    expected[1, 6:9] += 3 * one.vectors[1]
    for layer in range(3):
        assert torch.equal(both[layer], first[layer])
    torch.testing.assert_close(both[3], expected)


@every_architecture
def test_the_unsteered_row_of_a_batch_is_not_touched(arch, tiny_folder):
    one = steer(tiny_folder(arch), LOVE)
    (alone,) = prefill(one.network, [Request(one.prompt, (UNSTEERED, UNSTEERED))])
    plain = unsteered_streams(one)
    with watching(one.network) as mixed:
        logits = one.prefilled().logits
    assert torch.equal(logits[0], alone.logits[0]) and not torch.allclose(logits[1], alone.logits[1])
    assert all(torch.equal(mixed[layer][0], plain[layer][0]) for layer in range(5))


class Stop(Exception):
    """Some failure inside the network."""


def stop(*_):
    raise Stop


def interrupt(*_):
    raise KeyboardInterrupt


def marks(network):
    """All that may be left behind on the modules of a transformers model: hooks and forwards of their own."""
    modules = network.model.modules() if isinstance(network, Adapter) else ()
    return [
        (list(each._forward_pre_hooks), list(each._forward_hooks), vars(each).get("forward"))
        for each in modules
    ]


@torch.inference_mode()
def logits_of(one):
    ids = torch.tensor([one.prompt])
    return one.network.next_logits(ids, Causal(len(one.prompt)))


@contextmanager
def left_as_it_was(one):
    """After the block, the network has no hooks and the logits and streams that it had, to the bit."""
    ids = torch.tensor([one.prompt])
    logits, streams = logits_of(one), record(one.network, ids, range(one.network.depth))
    before = marks(one.network)
    yield
    assert hooks(one.network) == [0] * one.network.depth
    assert marks(one.network) == before
    assert torch.equal(logits_of(one), logits)
    after = record(one.network, ids, range(one.network.depth))
    assert all(torch.equal(after[layer], streams[layer]) for layer in streams)


def everywhere(folder):
    """Changes in the prefill and in every step of decoding."""
    return steer(folder, {**LOVE, "layer": [0, 2, 4]}, {**LOVE, "position": "every"})


@every_architecture
def test_a_run_leaves_no_trace(arch, tiny_folder):
    one = everywhere(tiny_folder(arch))
    with left_as_it_was(one):
        rows = one.rows(samples=2, max_new_tokens=4, eos=())
    assert [len(row.ids) for arm in rows for row in arm] == [4] * 4


@every_architecture
@pytest.mark.parametrize(("failure", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
@pytest.mark.parametrize("number", [1, 2, 4])  # the prefill, the first and the third step
def test_a_failure_in_the_network_leaves_no_trace(arch, number, failure, error, tiny_folder):
    one, passes = everywhere(tiny_folder(arch)), []

    def fail():
        passes.append(hooks(one.network))
        if len(passes) == number:
            failure()

    with left_as_it_was(one), passing(one.network, 3, fail), pytest.raises(error):
        one.rows(samples=2, max_new_tokens=6, eos=())
    # It failed while hooks were there to be left behind.
    if isinstance(one.network, Adapter):
        assert passes == [[1, 0, 1, 0, 1], *[[0, 0, 1, 0, 0]] * (number - 1)]
    assert len(passes) == number


@every_architecture
@pytest.mark.parametrize(("failure", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
def test_a_failure_while_recording_leaves_no_trace(arch, failure, error, tiny_folder):
    one = everywhere(tiny_folder(arch))
    with left_as_it_was(one), passing(one.network, 3, failure), pytest.raises(error):
        record(one.network, torch.tensor([one.prompt]), [4])


@every_architecture
@pytest.mark.parametrize(("failure", "error"), [(stop, Stop), (interrupt, KeyboardInterrupt)])
def test_a_failure_after_skipped_blocks_leaves_no_trace(arch, failure, error, tiny_folder):
    one = everywhere(tiny_folder(arch))
    attention = Causal(len(one.prompt))
    stream = record(one.network, torch.tensor([one.prompt]), [2])[2]
    with left_as_it_was(one), passing(one.network, 3, failure), pytest.raises(error):
        one.network.run(stream, 2, 5, attention, {4: lambda stream: stream})
    with left_as_it_was(one):
        one.network.unembed(one.network.run(stream, 2, 5, attention))


@every_architecture
def test_a_failure_of_a_change_leaves_no_trace(arch, tiny_folder):
    one = everywhere(tiny_folder(arch))
    ids, attention = torch.tensor([one.prompt]), Causal(len(one.prompt))
    with left_as_it_was(one), pytest.raises(Stop):
        one.network.next_logits(ids, attention, {1: stop})


@every_architecture
def test_an_interrupt_between_steps_leaves_no_trace(arch, tiny_folder):
    one = everywhere(tiny_folder(arch))
    sampling = Sampling(max_new_tokens=4, samples=2)
    with left_as_it_was(one), pytest.raises(KeyboardInterrupt):
        list(decode(one.network, [one.request], sampling, (), len(one.prompt), ended=interrupt))


@every_architecture
def test_a_run_that_is_given_up_leaves_no_trace(arch, tiny_folder):
    """As when the reader of a pipe goes away: later prompts are never asked for."""
    one = everywhere(tiny_folder(arch))
    sampling = Sampling(max_new_tokens=4, samples=2)
    with left_as_it_was(one):
        runs = decode(one.network, [one.request] * 5, sampling, (), len(one.prompt), batch_rows=2)
        first = next(runs)
        assert hooks(one.network) == [0] * 5  # whoever takes the results may run the model too
        runs.close()
    assert len(first.arms[1]) == 2


@every_architecture
@pytest.mark.parametrize(("position", "left"), [("front", 0), ("back", 0), ({"at": 2}, 0), ("every", 1)])
def test_only_every_costs_anything_once_the_prompt_is_done(arch, position, left, tiny_folder, monkeypatch):
    one, changed, passes = steer(tiny_folder(arch), {**LOVE, "position": position}), [], []
    next_logits = one.network.next_logits

    def asked(ids, attention, changes, ends=None):
        changed.append(list(changes))
        return next_logits(ids, attention, changes, ends)

    monkeypatch.setattr(one.network, "next_logits", asked)
    with passing(one.network, 3, lambda: passes.append(hooks(one.network))):
        one.rows(samples=2, max_new_tokens=4, eos=())
    assert changed == [[2]] + [[2] * left] * 3
    if isinstance(one.network, Adapter):
        assert passes == [[0, 0, 1, 0, 0]] + [[0, 0, left, 0, 0]] * 3


def test_the_real_model_is_left_as_it_was(real_folder):
    one = steer(real_folder, {**LOVE, "layer": 4}, {**LOVE, "layer": 16, "position": "every"})
    with left_as_it_was(one):
        one.rows(samples=1, max_new_tokens=2, eos=())
    with left_as_it_was(one), passing(one.network, 20, interrupt), pytest.raises(KeyboardInterrupt):
        one.rows(samples=1, max_new_tokens=2, eos=())
