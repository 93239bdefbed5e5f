"""Which direction, and how many of them: differences of passes, rescaled, cut, summed."""

import pytest
import torch
from conftest import ARCHITECTURES
from tiny import (
    LOVE,
    PROMPT,
    embedding,
    hidden_states,
    open_model,
    passing,
    steer,
    vectors_of,
    watching,
)

from steer_cli.activations.arms import UNSTEERED
from steer_cli.activations.capture import Wanted, capture
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Request
from steer_cli.errors import VectorError
from steer_cli.planning.tokens import open_tokenizer

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
close = torch.testing.assert_close
SHIPS = {
    "plus": "I talk about weddings constantly",
    "minus": "I talk about ships",
    "layer": 3,
    "coefficient": 1,
}


def streams_of(folder, *texts):
    """By transformers, a pass for each text: a list of what enters each block."""
    tokenizer = open_tokenizer(folder)
    return [hidden_states(folder, tokenizer.prompt(text)) for text in texts]


def vector_of(folder, addition, **keys):
    (vector,) = vectors_of(folder, addition, **keys)
    return vector


@every_architecture
def test_a_vector_is_plus_less_minus_of_two_passes(arch, tiny_folder):
    folder = tiny_folder(arch)
    plus, minus = streams_of(folder, "Love ", "Hate")  # "Love" and a pad are the tokens of "Love "
    made = vectors_of(folder, *({**LOVE, "layer": layer} for layer in range(5)))
    for layer in range(5):
        close(made[layer], plus[layer] - minus[layer], atol=1e-4, rtol=1e-4)


def test_a_vector_of_the_real_model(real_folder):
    plus, minus = streams_of(real_folder, "Anger", "Calm and")
    assert len(plus[0]) < len(minus[0])
    made = vector_of(real_folder, {"plus": "Anger", "minus": "Calm and", "layer": 16, "pad": "none"})
    minus[16][: len(plus[16])] -= plus[16]
    expected = -minus[16]
    expected[0] = 0
    close(made, expected, atol=1e-3, rtol=1e-3)


@every_architecture
def test_without_minus_it_is_plus_and_bos_too(arch, tiny_folder):
    folder = tiny_folder(arch)
    (plus,) = streams_of(folder, "Love")
    made = vector_of(folder, {"plus": "Love", "layer": 3})
    close(made, plus[3], atol=1e-5, rtol=1e-5)
    assert made[0].any()


@every_architecture
def test_without_pads_each_side_has_its_own_length(arch, tiny_folder):
    folder = tiny_folder(arch)
    love, hate = streams_of(folder, "Love", "Hate")
    expected = -hate[2]
    expected[:2] += love[2]
    expected[0] = 0
    close(vector_of(folder, {**LOVE, "pad": "none"}), expected, atol=1e-5, rtol=1e-5)


@every_architecture
def test_the_beginning_that_both_sides_share_is_exactly_zero(arch, tiny_folder):
    folder = tiny_folder(arch)
    ids = [open_tokenizer(folder).prompt(SHIPS[side]) for side in ("plus", "minus")]
    shared = next(index for index, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    assert shared >= 4
    # Texts of other lengths go through in the same pass.
    for vector in (vector_of(folder, SHIPS), vectors_of(folder, LOVE, SHIPS, {**SHIPS, "minus": "I"})[1]):
        assert not vector[:shared].any() and vector[shared:].any(-1).all()


@every_architecture
def test_sides_from_passes_of_different_shapes_still_share_their_beginning(arch, tiny_folder, monkeypatch):
    monkeypatch.setattr("steer_cli.activations.capture.CAPTURE_POSITIONS", 1)  # a pass for each text
    folder = tiny_folder(arch)
    shared = "I talk about weddings because my friend was late"
    pair = {**SHIPS, "plus": shared + " and the cake" * 20, "minus": shared + ".", "pad": "none"}
    same = len(open_tokenizer(folder).prompt(shared))
    vector = vector_of(folder, pair)
    assert not vector[:same].any() and vector[same:].any(-1).all()


@every_architecture
def test_pairs_are_summed_or_averaged_from_their_first_token(arch, tiny_folder):
    folder = tiny_folder(arch)
    pairs = [{"plus": "Love", "minus": "Hate"}, {"plus": " wedding"}, {"plus": "I", "minus": "I talk about"}]
    each = vectors_of(folder, *({"layer": 2, **pair} for pair in pairs))
    assert len({len(one) for one in each}) == 3
    total = torch.zeros(max(map(len, each)), each[0].shape[1])
    for one in each:
        total[: len(one)] += one
    close(vector_of(folder, {"layer": 2, "pairs": pairs, "combine": "sum"}), total)
    close(vector_of(folder, {"layer": 2, "pairs": pairs, "combine": "mean"}), total / 3)
    close(vector_of(folder, {"layer": 2, "pairs": pairs[:1]}), each[0])


@every_architecture
def test_every_reads_each_text_at_its_own_last_token(arch, tiny_folder):
    folder = tiny_folder(arch)
    pairs = [{"plus": "Love", "minus": "Hate"}, {"plus": "I", "minus": "I talk about"}]
    love, hate, i, talk = streams_of(folder, "Love", "Hate", "I", "I talk about")
    assert len(love[2]) < len(hate[2]) and len(i[2]) < len(talk[2])
    expected = love[2][-1:] - hate[2][-1:] + i[2][-1:] - talk[2][-1:]
    for pad in ("space", "none", "eos"):  # no pad is read, whichever it is
        summed = {"layer": 2, "pairs": pairs, "combine": "sum", "position": "every", "pad": pad}
        close(vector_of(folder, summed), expected, atol=1e-5, rtol=1e-5)


@every_architecture
def test_every_subtracts_bos_for_an_empty_minus_and_nothing_where_there_is_no_bos(arch, tiny_folder):
    folder = tiny_folder(arch)
    love, bos = streams_of(folder, "Love", "")
    alone = hidden_states(folder, open_tokenizer(folder, "none").prompt("Love"))
    empty = {"plus": "Love", "minus": "", "layer": 3, "position": "every"}
    close(vector_of(folder, empty), love[3][-1:] - bos[3], atol=1e-5, rtol=1e-5)
    close(vector_of(folder, empty, bos="none"), alone[3][-1:], atol=1e-5, rtol=1e-5)


@every_architecture
def test_source_layer_is_where_it_is_recorded(arch, tiny_folder):
    folder = tiny_folder(arch)
    at_1, at_3 = vectors_of(folder, {**LOVE, "layer": 1}, {**LOVE, "layer": 3})
    assert torch.equal(vector_of(folder, {**LOVE, "layer": 3, "source_layer": 1}), at_1)
    assert not torch.allclose(at_1, at_3)
    moved = vector_of(folder, {**LOVE, "layer": 3, "source_layer": 1, "match_norm": True})
    close(moved.norm(dim=-1), at_3.norm(dim=-1))
    close(torch.cosine_similarity(moved, at_1, dim=-1), torch.tensor([0.0, 1.0, 1.0]))


@every_architecture
def test_random_has_the_norms_of_the_pair_and_a_direction_of_its_own(arch, tiny_folder):
    folder = tiny_folder(arch)
    pair = vector_of(folder, LOVE)
    made = [vector_of(folder, {**LOVE, "random": {"seed": seed}}) for seed in (0, 0, 1)]
    for one in made:
        close(one.norm(dim=-1), pair.norm(dim=-1))
        assert not one[0].any()
    assert torch.equal(made[0], made[1])
    cosines = [torch.cosine_similarity(a, b, dim=-1)[1:] for a, b in ((made[0], made[2]), (made[0], pair))]
    # Two directions of 32 or 48 dimensions at random: the standard deviation is 0.18.
    assert torch.stack(cosines).abs().max() < 0.6
    assert abs(torch.cosine_similarity(made[0][1], made[0][2], dim=0)) < 0.6


@every_architecture
def test_each_addition_has_noise_of_its_own(arch, tiny_folder):
    noisy = {**LOVE, "random": {"seed": 7}}
    first, second = vectors_of(tiny_folder(arch), noisy, noisy)
    assert torch.equal(first, vector_of(tiny_folder(arch), noisy))
    close(first.norm(dim=-1), second.norm(dim=-1))
    assert torch.cosine_similarity(first, second, dim=-1)[1:].abs().max() < 0.6


def test_random_values_are_gaussian(tiny_folder):
    from scipy import stats

    long = {"plus": "the wedding of my friend " * 20, "minus": "", "layer": 2, "random": {"seed": 3}}
    made = vector_of(tiny_folder("gpt2"), long)[1:]
    scaled = (made / made.norm(dim=-1, keepdim=True) * made.shape[1] ** 0.5).flatten()
    assert len(scaled) > 3000
    assert stats.kstest(scaled.numpy(), "norm").pvalue > 1e-4


@every_architecture
@pytest.mark.parametrize("dims", [0.7, 0.01, 1.0, 0.5])
def test_dims_keeps_the_leading_share_of_the_width(arch, dims, tiny_folder):
    folder = tiny_folder(arch)
    whole = vector_of(folder, LOVE)
    kept = round(dims * whole.shape[1])
    if kept == 0:
        with pytest.raises(VectorError, match="does nothing"):
            vector_of(folder, {**LOVE, "dims": dims})
        return
    cut = vector_of(folder, {**LOVE, "dims": dims})
    assert torch.equal(cut[:, :kept], whole[:, :kept]) and not cut[:, kept:].any()
    # The control is cut as well: its norm is that of the pair before the cut.
    noise = vector_of(folder, {**LOVE, "dims": dims, "random": {}})
    assert not noise[:, kept:].any()
    assert torch.equal(noise[:, :kept], vector_of(folder, {**LOVE, "random": {}})[:, :kept])


@every_architecture
@pytest.mark.parametrize("position", ["front", "back", "every"])
def test_an_addition_and_its_opposite_cancel(arch, position, tiny_folder):
    both = [{**LOVE, "position": position, "coefficient": c} for c in (3.7, -3.7)]
    one = steer(tiny_folder(arch), *both)
    assert not one.added(2).any() and all(not each.added.any() for each in one.arm.on_new_tokens.values())
    assert (position == "every") == bool(one.arm.on_new_tokens)
    with watching(one.network) as plain:
        prefill(one.network, [Request(one.prompt, (UNSTEERED, UNSTEERED))])
    told = pytest.raises(VectorError, match=r"does nothing: no value of the stream .* layer 2.* they cancel")
    # It is told after the pass, which is that of an unsteered row to the bit.
    with told, watching(one.network) as cancelled:
        one.prefilled()
    assert all(torch.equal(cancelled[layer], plain[layer]) for layer in range(5))


@every_architecture
def test_many_additions_of_a_layer_are_one_tensor_one_change_and_one_pass(arch, tiny_folder, monkeypatch):
    texts = [f"{a}{b}" for a in ("love", "hate", "cake", "ship", "wine", "rain", "calm") for b in "abcdefgh"]
    many = [{"plus": text, "minus": " ", "layer": 2, "coefficient": 3 / 56} for text in texts]
    folder = tiny_folder(arch)
    network, passes, changed = open_model(folder).network, [], []
    assert len(set(texts)) == 56
    next_logits = network.next_logits

    def asked(ids, attention, changes, ends=None):
        changed.append(list(changes))
        return next_logits(ids, attention, changes, ends)

    monkeypatch.setattr(network, "next_logits", asked)
    with passing(network, 0, lambda: passes.append(1)):
        one = steer(folder, *many, prompt=PROMPT * 3)
        captures = len(passes)
        one.prefilled()
    assert captures == 1 and len(passes) == 2
    assert changed == [[2]]
    assert one.arm.layers == {2} and not one.arm.on_new_tokens
    expected = torch.zeros(len(one.prompt), network.width)
    for text in texts:
        vector = vector_of(folder, {"plus": text, "minus": " ", "layer": 2})
        expected[: len(vector)] += 3 / 56 * vector
    close(one.added(2), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("arch", ["llama", "llama_adapted"])
def test_texts_beyond_one_pass_are_captured_all_the_same(arch, tiny_folder):
    # 80 texts of up to 200 positions are more than a pass holds.
    folder = tiny_folder(arch)
    many = [
        {"plus": "wine " * n + "salt", "minus": " ", "layer": 1, "position": "every"} for n in range(1, 81)
    ]
    passes = []
    with passing(open_model(folder).network, 0, lambda: passes.append(1)):
        made = vectors_of(folder, *many)
    assert 1 < len(passes) < 8
    for n in (1, 2, 40, 79, 80):
        close(made[n - 1], vector_of(folder, many[n - 1]), atol=1e-4, rtol=1e-4)


@every_architecture
def test_a_text_that_another_begins_with_is_read_in_it(arch, tiny_folder):
    folder = tiny_folder(arch)
    network = open_model(folder).network
    texts = [(0, 5), (0, 5, 9), (0, 5, 9, 9), (0, 5, 8), (0, 7), (7,)]
    with embedding(network) as shapes:
        streams = capture(network, {Wanted(ids, layer) for ids in texts for layer in (1, 2)})
    assert shapes == [(4, 4)], "a row for each text that no other begins with"
    for ids in texts:
        states = hidden_states(folder, ids)
        for layer in (1, 2):
            torch.testing.assert_close(streams[Wanted(ids, layer)], states[layer], rtol=1e-5, atol=1e-5)


@every_architecture
def test_the_receipt_is_measured_where_the_vector_met_the_stream(arch, tiny_folder):
    """At the deeper of two layers the stream is steered already."""
    folder = tiny_folder(arch)
    lower = {**LOVE, "layer": 1}
    one = steer(folder, {**LOVE, "layer": 3, "position": "every"}, lower, {**lower, "position": "back"})
    (started,) = prefill(one.network, [Request(one.prompt, (UNSTEERED, one.arm), receipts=True)])
    unsteered, steered = started.receipts
    assert unsteered.receipts == unsteered.sums == ()
    with watching(one.network) as plain:
        prefill(one.network, [Request(one.prompt, (UNSTEERED, UNSTEERED))])
    with watching(one.network) as alone:
        steer(folder, lower, {**lower, "position": "back"}).prefilled()
    met = {1: plain[1][1], 3: alone[3][1]}
    spans = [(3, 1, 9), (1, 0, 3), (1, 6, 9)]
    for receipt, vector, (layer, start, end) in zip(steered.receipts, one.vectors, spans, strict=True):
        vector = vector.expand(end - start, -1)
        stream = met[layer][start:end]
        assert receipt.placement.alignment.layer == layer
        close(torch.tensor(receipt.vector), vector.norm(dim=-1))
        close(torch.tensor(receipt.stream), stream.norm(dim=-1))
        close(torch.tensor(receipt.ratio), vector.norm(dim=-1) / stream.norm(dim=-1))
        dots = (vector * stream).sum(-1) / (vector.norm(dim=-1) * stream.norm(dim=-1)).clamp(min=1e-9)
        close(torch.tensor(receipt.cosine), dots, atol=1e-5, rtol=1e-4)


def test_what_is_left_after_clipping_must_not_be_zeros(tiny_folder):
    clipped = {**LOVE, "position": {"at": 8}, "overflow": "clip"}
    with pytest.raises(VectorError, match=r"does nothing: the part on \[8, 9\) is all zeros"):
        steer(tiny_folder("gpt2"), clipped).prefilled()
    steer(tiny_folder("gpt2"), {**clipped, "coefficient": 0}).prefilled()
    steer(tiny_folder("gpt2"), {**clipped, "position": {"at": 7}}).prefilled()


def test_vectors_of_zeros_do_nothing_and_say_so(tiny_folder):
    folder = tiny_folder("gpt2")
    same_end = {"plus": "a calm", "minus": "I calm", "layer": 2, "source_layer": 0, "position": "every"}
    for zeros in (same_end, {**LOVE, "dims": 0}):
        with pytest.raises(VectorError, match="does nothing: the vector is all zeros"):
            vectors_of(folder, zeros)
        assert not vector_of(folder, {**zeros, "coefficient": 0}).any()


@pytest.mark.parametrize("coefficient", [1e38, -1e300])
@pytest.mark.parametrize("position", ["front", "back", "every"])
@every_architecture
def test_a_coefficient_beyond_all_numbers_is_an_error(arch, position, coefficient, tiny_folder):
    one = steer(tiny_folder(arch), {**LOVE, "position": position, "coefficient": coefficient})
    with pytest.raises(VectorError, match=r"no longer finite.* smaller coefficient"):
        one.rows(2, max_new_tokens=2)


@every_architecture
def test_a_coefficient_beyond_all_numbers_is_an_error_in_decoding_too(arch, tiny_folder):
    """On a prompt of BOS alone, `every` acts on generated tokens only: the prefill is still sane."""
    huge = {**LOVE, "position": "every", "coefficient": 1e300}
    one = steer(tiny_folder(arch), huge, prompt="")
    with pytest.raises(VectorError, match="no longer finite"):
        one.rows(2, max_new_tokens=3)


def test_a_pair_without_tokens_adds_nothing_to_every(tiny_folder):
    pairs = [{"plus": "", "minus": ""}, {"plus": "Love", "minus": "Hate"}]
    empty = {"pairs": pairs, "combine": "sum", "layer": 2, "position": "every"}
    alone = vector_of(tiny_folder("gpt2"), {**empty, "pairs": pairs[1:]}, bos="none")
    close(vector_of(tiny_folder("gpt2"), empty, bos="none"), alone)


def test_each_layer_of_a_list_draws_noise_of_its_own(tiny_folder):
    """Equal noises would add up in the stream, which keeps what earlier blocks were given."""
    import torch

    folder, seed = tiny_folder("gpt2"), {"random": {"seed": 4}}
    alone = vector_of(folder, {**LOVE, **seed, "layer": 1})
    listed = vectors_of(folder, {**LOVE, **seed, "layer": [1, 3]})
    norms = [vector_of(folder, {**LOVE, "layer": layer}).norm(dim=-1) for layer in (1, 3)]
    assert torch.equal(listed[0], alone)
    for vector, norm in zip(listed, norms, strict=True):
        torch.testing.assert_close(vector.norm(dim=-1), norm)
    cosine = torch.nn.functional.cosine_similarity(listed[0][1:], listed[1][1:], dim=-1)
    assert cosine.abs().max() < 0.6
