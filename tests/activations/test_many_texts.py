"""Many texts make one direction: means, sums and principal components, against float64 by hand."""

import pytest
import torch
from conftest import ARCHITECTURES
from tiny import embedding, hidden_states, open_model, passing, recipe_of, vectors_of

from steer_cli.activations import capture as captures
from steer_cli.activations import vectors as making
from steer_cli.activations.capture import Wanted, capture
from steer_cli.activations.vectors import principal
from steer_cli.errors import PlanError, VectorError
from steer_cli.planning.placement import align_additions
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.run_plan import vectors_of as with_agreement

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
close = torch.testing.assert_close
PAIRS = [
    ("Love", "Hate"),
    ("I talk about weddings", "I talk about ships constantly"),
    ("The bride ate the cake", "The groom sailed"),
    ("Thanks for asking", "I would not get a raise"),
    ("Love wins", "I hate you because you are late"),
]
GLAD = ["Love wins.", "I'm excited because I'm going to a wedding", "make people happy", "my friend"]
SAD = ["Yesterday my dog died", "you ate my cake", "the rain"]


def rows(folder, texts, layer, read):
    """One row of each text, by transformers, in float64: [texts, width]."""
    tokenizer = open_tokenizer(folder)
    found = []
    for text in texts:
        stream = hidden_states(folder, tokenizer.prompt(text))[layer].double()
        found.append(stream[-1] if read == "last" else stream[1:].mean(0))
    return torch.stack(found)


def addition(**keys):
    pairs = [{"plus": plus, "minus": minus} for plus, minus in PAIRS]
    return {"pairs": pairs, "layer": 3, "position": "every", **keys}


def differences(folder, read, layer=3):
    plus, minus = zip(*PAIRS, strict=True)
    return rows(folder, plus, layer, read) - rows(folder, minus, layer, read)


def by_svd(found):
    """The mean on the first right singular vector."""
    component = torch.linalg.svd(found, full_matrices=False)[2][0]
    return (found.mean(0) @ component) * component


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


COMBINED = {"mean": lambda found: found.mean(0), "sum": lambda found: found.sum(0), "pca": by_svd}


@every_architecture
@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("combine", COMBINED)
def test_pairs_are_combined_as_written_out_in_float64(arch, combine, read, tiny_folder):
    folder = tiny_folder(arch)
    [made] = vectors_of(folder, addition(combine=combine, read=read))
    expected = COMBINED[combine](differences(folder, read))
    close(made[0].double(), expected, atol=1e-4, rtol=1e-4)


@every_architecture
@pytest.mark.parametrize("read", ["last", "mean"])
def test_lists_are_the_difference_of_their_means(arch, read, tiny_folder):
    folder = tiny_folder(arch)
    [made] = vectors_of(
        folder, {"texts": {"plus": GLAD, "minus": SAD}, "read": read, "layer": 2, "position": "every"}
    )
    expected = rows(folder, GLAD, 2, read).mean(0) - rows(folder, SAD, 2, read).mean(0)
    close(made[0].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("combine", COMBINED)
def test_the_default_model_too(combine, real_folder):
    [made] = vectors_of(real_folder, addition(combine=combine, read="mean", layer=10))
    expected = COMBINED[combine](differences(real_folder, "mean", 10))
    close(made[0].double(), expected, atol=1e-3, rtol=1e-3)


@every_architecture
def test_read_last_is_what_every_does_by_itself(arch, tiny_folder):
    written, alone = vectors_of(tiny_folder(arch), addition(read="last"), addition())
    assert torch.equal(written, alone)


def test_one_pair_reads_the_mean_and_bos_is_not_in_it(tiny_folder):
    folder = tiny_folder("llama")
    love = {"plus": "Love wins", "minus": "Hate", "layer": 2, "position": "every", "read": "mean"}
    [made] = vectors_of(folder, love)
    expected = rows(folder, ["Love wins"], 2, "mean")[0] - rows(folder, ["Hate"], 2, "mean")[0]
    close(made[0].double(), expected, atol=1e-5, rtol=1e-5)
    [without] = vectors_of(folder, love, bos="none")
    ids = [open_tokenizer(folder, "none").prompt(text) for text in ("Love wins", "Hate")]
    plus, minus = (hidden_states(folder, each)[2].double().mean(0) for each in ids)
    close(without[0].double(), plus - minus, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 7), (5, 48), (60, 8)])
def test_a_principal_component_is_that_of_a_singular_value_decomposition(shape):
    generator = torch.Generator().manual_seed(shape[0])
    found = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3
    made = principal(found)[0]
    close(made, by_svd(found))
    # Signed like the mean, and as long as the mean's projection on it.
    assert made @ found.mean(0) > 0
    assert float(made.norm()) == pytest.approx(abs(float(found.mean(0) @ made)) / float(made.norm()))
    close(principal(found.flip(0))[0], made)
    close(principal(-found)[0], -made)


def test_pairs_that_cancel_do_nothing_and_say_so(tiny_folder):
    both = [{"plus": "Love", "minus": "Hate"}, {"plus": "Hate", "minus": "Love"}]
    for combine in COMBINED:
        with pytest.raises(VectorError, match="does nothing: the vector is all zeros"):
            vectors_of(tiny_folder("gpt2"), addition(pairs=both, combine=combine, source_layer=0))


@every_architecture
def test_how_far_pairs_agree(arch, tiny_folder):
    folder = tiny_folder(arch)
    for combine, read in (("mean", "last"), ("sum", "mean"), ("pca", "mean")):
        found = differences(folder, read)
        vector, first, second = (COMBINED[combine](part) for part in (found, found[::2], found[1::2]))
        agreement = agreement_of(folder, addition(combine=combine, read=read))
        assert agreement.mean_cosine == pytest.approx(sum(cosine(d, vector) for d in found) / 5, abs=1e-4)
        assert agreement.halves_cosine == pytest.approx(cosine(first, second), abs=1e-4)
        assert (agreement.pairs, agreement.plus, agreement.minus) == (5, 5, 5)
        assert list(agreement.record()) == ["mean_cosine", "halves_cosine", "pairs", "plus", "minus"]


def agreement_of(folder, *additions, note=lambda _: None):
    network = open_model(folder).network
    alignments = align_additions(recipe_of(*additions), open_tokenizer(folder), network.depth)
    return with_agreement(network, alignments, note=note).agreements[0]


def test_how_far_lists_and_vectors_of_several_positions_agree(tiny_folder):
    folder = tiny_folder("llama")
    lists = {"texts": {"plus": GLAD, "minus": SAD}, "layer": 2, "position": "every"}
    found = agreement_of(folder, lists)
    glad, sad = rows(folder, GLAD, 2, "last"), rows(folder, SAD, 2, "last")
    halves = [glad[half::2].mean(0) - sad[half::2].mean(0) for half in (0, 1)]
    assert found.halves_cosine == pytest.approx(cosine(*halves), abs=1e-4)
    assert found.mean_cosine is None and (found.pairs, found.plus, found.minus) == (0, 4, 3)
    # Several positions are compared as one long vector.
    pairs = [{"plus": "Love", "minus": "Hate"}, {"plus": "Love wins", "minus": "I hate you"}]
    [one, other] = vectors_of(folder, *({**pair, "layer": 2} for pair in pairs))
    length = max(len(one), len(other))
    flat = [
        torch.cat([each, torch.zeros(length - len(each), each.shape[1])]).flatten().double()
        for each in (one, other)
    ]
    found = agreement_of(folder, {"pairs": pairs, "layer": 2})
    assert found.halves_cosine == pytest.approx(cosine(*flat), abs=1e-5)
    mean = sum(flat) / 2
    assert found.mean_cosine == pytest.approx(sum(cosine(each, mean) for each in flat) / 2, abs=1e-5)


def test_one_pair_noise_and_single_texts_have_no_agreement(tiny_folder):
    folder = tiny_folder("gpt2")
    one = {"plus": ["Love"], "minus": SAD}
    for alone in (
        {"plus": "Love", "minus": "Hate", "layer": 2},
        addition(random={"seed": 1}),
        {"texts": one, "layer": 2, "position": "every"},
    ):
        assert agreement_of(folder, alone) is None


def test_texts_that_do_not_agree_are_noted_once(tiny_folder):
    folder, notes = tiny_folder("gpt2"), []
    # Each pair but the last has its opposite.
    pairs = [{"plus": plus, "minus": minus} for a, b in PAIRS[:3] for plus, minus in ((a, b), (b, a))] + [
        {"plus": "Love wins", "minus": "Hate"}
    ]
    agreement = agreement_of(folder, addition(pairs=pairs, layer=[2, 3]), note=notes.append)
    assert agreement.is_low and len(notes) == 1
    assert notes[0].startswith("the texts do not agree: 'Love' - 'Hate' and 6 more pairs, layer 2: ")
    same = [{"plus": "Love", "minus": "Hate"}] * 2
    assert agreement_of(folder, addition(pairs=same), note=notes.append).mean_cosine == pytest.approx(1)
    assert len(notes) == 1


# ---- passes and memory


def many(count):
    return [f"Love number {number} and the wedding of my friend" for number in range(count)]


def test_hundreds_of_texts_take_few_passes_that_stop_at_the_deepest_layer(tiny_folder):
    folder = tiny_folder("llama")
    network = open_model(folder).network
    lists = {"plus": many(300), "minus": [f"{text} Hate" for text in many(250)]}
    ran, deep, told = [], [], []
    alignments = align_additions(
        recipe_of({"texts": lists, "layer": [1, 3], "position": "every"}), open_tokenizer(folder), 5
    )
    with (
        embedding(network) as shapes,
        passing(network, 2, lambda: ran.append(1)),
        passing(network, 3, lambda: deep.append(1)),
    ):
        made = with_agreement(network, alignments, progress=lambda *state: told.append(state))
    assert len(made.vectors) == 2 and not deep
    positions = sum(rows * length for rows, length in shapes)
    assert len(shapes) == len(ran) <= positions / captures.CAPTURE_POSITIONS + 2
    # 300 of the texts begin another.
    assert sum(rows for rows, _ in shapes) == 300
    assert told[-1] == ("read texts", 300, 300) and len(told) == len(shapes)


def test_what_is_kept_of_a_text_is_one_row(tiny_folder):
    folder = tiny_folder("gpt2")
    tokenizer = open_tokenizer(folder)
    ids = tokenizer.prompt("I talk about weddings constantly")
    wanted = {Wanted(ids, 2, (1, len(ids))), Wanted(ids, 3, (len(ids) - 1, len(ids))), Wanted(ids, 1)}
    streams = capture(open_model(folder).network, wanted)
    assert {each: tuple(stream.shape) for each, stream in streams.items()} == {
        each: (each.positions, 48) for each in wanted
    }
    # None of them holds the batch that it was taken from.
    assert all(stream.untyped_storage().nbytes() == stream.numel() * 4 for stream in streams.values())


def test_streams_beyond_the_limit_are_captured_one_after_the_other(tiny_folder, monkeypatch):
    folder = tiny_folder("llama")
    layers = addition(layer=[0, 1, 2, 3], read="mean")
    whole = vectors_of(folder, layers)
    asked = []
    monkeypatch.setattr(making, "HELD_VALUES", 1)
    monkeypatch.setattr(making, "capture", lambda *given: asked.append(given[1]) or capture(*given))
    parts = vectors_of(folder, layers)
    assert len(asked) == 4 and all(len({each.layer for each in wanted}) == 1 for wanted in asked)
    for one, other in zip(whole, parts, strict=True):
        close(one, other)


# ---- mistakes


@pytest.mark.parametrize(
    "changed, bos, said",
    [
        ({"texts": {"plus": ["a", ""], "minus": ["b"]}}, "none", "the text '' has no token to read; write a"),
        ({"texts": {"plus": ["a", "Love"], "minus": ["Love", "a"]}}, "auto", "change one of the lists"),
        ({"pairs": [{"plus": "a", "minus": ""}], "read": "mean"}, "auto", "the text '' has no token to read"),
        ({"pairs": [{"plus": "a", "minus": ""}], "read": "last"}, "none", "leave `bos` at auto"),
        ({"texts": {"plus": [""], "minus": [""]}}, "none", "no tokens at all"),
    ],
)
def test_texts_without_tokens_or_difference_are_one_line(changed, bos, said, tiny_folder):
    with pytest.raises(PlanError, match=r"recipe: additions\.0: ") as caught:
        vectors_of(tiny_folder("gpt2"), {"layer": 2, "position": "every", **changed}, bos=bos)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1
