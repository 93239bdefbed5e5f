"""A relative coefficient: how long is what is added, against streams recorded by transformers."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import ARCHITECTURES, KINDS
from reference import complete, front_ids, injected, load, placements, record, tokens
from tiny import LOVE, PROMPT, SPANS, hidden_states, open_model, recipe_of, steer

import steer_cli
from steer_cli.errors import PlanError, VectorError
from steer_cli.recipe.load import from_values

OTHER = "The wedding of my friend was late because of the rain and"
RELATIVE = {"relative": 0.8}
SAMPLING = {"max_new_tokens": 10, "samples": 1, "temperature": 0, "frequency_penalty": 0}
# What changes the vector's rows or which of them land on the prompt.
SHAPES = (
    {},
    {"minus": None},  # BOS has a row of its own
    {"dims": 0.5},
    {"random": {"seed": 3}},
    {"match_norm": True, "source_layer": 4},
    {"position": {"at": 7}, "overflow": "clip"},  # two of three rows
    {"pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": "I", "minus": "a wedding"}], "combine": "sum"},
)


def with_coefficient(addition, **more):
    if "pairs" in more:
        addition = {key: value for key, value in addition.items() if key not in ("plus", "minus")}
    return addition | {"coefficient": RELATIVE} | more


def ratio_of_means(added, stream):
    """Mean length of the rows that are not zero, over that of the stream at the same positions."""
    lengths = added.double().norm(dim=-1)
    acting = lengths > 0
    return float(lengths[acting].mean() / stream.double().norm(dim=-1)[acting].mean())


# ---- on one prompt


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("position", [position for position, _ in SPANS], ids=str)
def test_what_is_added_has_the_wanted_mean_length(arch, position, tiny_folder):
    made = steer(tiny_folder(arch), with_coefficient(LOVE, position=position))
    stream, added = hidden_states(made.folder, made.prompt)[2], made.added(2)
    if position == {"every": "all"}:  # acts on BOS, whose stream is not measured
        assert added[0].any()
        stream, added = stream[1:], added[1:]
    assert ratio_of_means(added, stream) == pytest.approx(0.8, rel=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_whatever_the_vector_is_made_of(shape, tiny_folder):
    made = steer(tiny_folder("llama"), with_coefficient(LOVE, **shape))
    assert ratio_of_means(made.added(2), hidden_states(made.folder, made.prompt)[2]) == pytest.approx(0.8)


@pytest.mark.parametrize("arch", KINDS)
def test_all_ways_of_every_come_to_one_number(arch, tiny_folder):
    numbers = [
        steer(tiny_folder(arch), with_coefficient(LOVE, position={"every": way})).placements[0].coefficient
        for way in ("prompt", "new", "both", "all")
    ]
    assert numbers == [numbers[0]] * 4


def test_without_bos_the_first_position_counts(tiny_folder):
    for position in ("every", {"every": "new"}):
        made = steer(tiny_folder("gpt2"), with_coefficient(LOVE, position=position), bos="none")
        stream = hidden_states(made.folder, made.prompt)[2].norm(dim=-1)
        added = made.arm.on_new_tokens[2].added.norm()
        assert float(added / stream.mean()) == pytest.approx(0.8, rel=1e-4)


@pytest.mark.parametrize("arch", ["gpt2", "gemma3"])
def test_every_layer_and_addition_is_measured_on_the_unsteered_stream(arch, tiny_folder):
    first = with_coefficient(LOVE, layer=[0, 1, 3], position="every")
    made = steer(tiny_folder(arch), first, with_coefficient(LOVE, layer=3, position="back"))
    streams = hidden_states(made.folder, made.prompt)
    for placement, vector in zip(made.placements, made.vectors, strict=True):
        # One at a time: what a layer's additions add is their sum.
        alone = replace(made, arm=replace(made.arm, placements=(placement,), vectors=(vector,)))
        layer = placement.layer
        assert ratio_of_means(alone.added(layer), streams[layer]) == pytest.approx(0.8, rel=1e-4)


def test_a_vector_twice_as_long_adds_the_same(tiny_folder):
    pair = {"plus": "Love", "minus": "Hate"}
    once, twice = (
        steer(tiny_folder("llama"), with_coefficient(LOVE, pairs=[pair] * count, combine="sum"))
        for count in (1, 2)
    )
    torch.testing.assert_close(twice.vector, 2 * once.vector)
    torch.testing.assert_close(twice.added(2), once.added(2))
    torch.testing.assert_close(twice.prefilled().logits, once.prefilled().logits)


def test_a_number_and_its_negative_cancel_and_0_adds_nothing(tiny_folder):
    against = with_coefficient(LOVE, coefficient={"relative": -0.8})
    made = steer(tiny_folder("gpt2"), with_coefficient(LOVE), against)
    assert made.placements[0].coefficient == -made.placements[1].coefficient > 0
    assert not made.added(2).any()
    with pytest.raises(VectorError, match="cancel"):
        made.prefilled()
    nothing = steer(tiny_folder("gpt2"), with_coefficient(LOVE, coefficient={"relative": 0}))
    logits = nothing.prefilled().logits
    assert torch.equal(logits[0], logits[1])


# ---- whole runs, against a plain model


def measured(model, prompt_ids, placed, front):
    """The reference's placements, with the numbers that {relative: 0.8} comes to in place of that."""
    found = []
    for one in placed:
        start, end = one["span"]
        # What acts on new tokens alone is measured where `every` would act.
        start, end = (len(front), len(prompt_ids)) if start == len(prompt_ids) else (start, end)
        stream = record(model, prompt_ids, one["layer"])[start:end]
        rows = one["vector"].expand(len(stream), -1) if len(one["vector"]) == 1 else one["vector"]
        found.append({**one, "coefficient": 0.8 / ratio_of_means(rows, stream)})
    return found


def expected(folder, prompt, addition):
    model, tokenizer, names = load(folder)
    front = front_ids(tokenizer, names, "auto")
    ids = tokens(tokenizer, front, prompt)
    placed = measured(model, ids, placements(model, tokenizer, names, front, ids, [addition]), front)
    eos = tokenizer.token_to_id(names["eos_token"])
    with injected(model, placed):
        text = complete(model, ids, eos, SAMPLING | {"seed": 0}, 0)["ids"]
    return text, [one["coefficient"] for one in placed]


@pytest.mark.parametrize(
    ("arch", "position"),
    [
        *(("gpt2", position) for position in ("front", "back", "every", {"every": "new"})),
        *((arch, "every") for arch in ("llama", "gemma3", "gpt_neox")),
    ],
    ids=str,
)
def test_texts_and_numbers_are_those_of_a_plain_model_in_any_batch(arch, position, tiny_folder):
    addition = with_coefficient(LOVE, layer=[1, 3], position=position)
    recipe = recipe_of(addition, prompt=None, prompts=[PROMPT, OTHER], sampling=SAMPLING)
    model = open_model(tiny_folder(arch))
    runs = steer_cli.generate(model, recipe, control="random")
    for prompt, run in zip((PROMPT, OTHER), runs, strict=True):
        text, numbers = expected(tiny_folder(arch), prompt, addition)
        assert list(run.steered[0].tokens) == text != list(run.unsteered[0].tokens)
        record_of = next(run.records())["additions"]
        assert [one["coefficient"] for one in record_of] == pytest.approx(numbers, rel=1e-4)
        assert [one["relative"] for one in record_of] == [0.8, 0.8]
        [alone] = steer_cli.generate(model, recipe, [prompt], control="random")
        assert alone.steered[0].tokens == run.steered[0].tokens
        assert alone.control[0].tokens == run.control[0].tokens
        for one, other in zip(alone.receipts, run.receipts, strict=True):
            assert one.placement.coefficient == pytest.approx(other.placement.coefficient, rel=1e-5)


@pytest.mark.parametrize("position", ["front", "every"])
def test_the_number_in_the_receipt_does_the_same_as_a_plain_coefficient(position, tiny_folder):
    model = open_model(tiny_folder("gpt2"))
    relative = recipe_of(with_coefficient(LOVE, position=position), sampling=SAMPLING)
    [run] = steer_cli.generate(model, relative, control="shuffled")
    [receipt] = run.receipts
    plain = recipe_of({**LOVE, "position": position, "coefficient": receipt.placement.coefficient})
    [same] = steer_cli.generate(
        model, plain.model_copy(update={"sampling": relative.sampling}), control="shuffled"
    )
    assert same.steered[0].tokens == run.steered[0].tokens
    assert same.control[0].tokens == run.control[0].tokens
    means = [sum(values) for values in (receipt.change, receipt.ratio)]
    assert means[0] / means[1] == pytest.approx(receipt.placement.coefficient)
    # With a plain recipe nothing is said of relative coefficients.
    assert "relative" not in json.dumps(list(same.records()))
    one, other = (next(steer_cli.shift(model, recipe).records()) for recipe in (relative, plain))
    [came_to] = one.pop("coefficients")
    assert came_to == {
        "addition": 0,
        "layer": 2,
        "relative": 0.8,
        "coefficient": pytest.approx(came_to["coefficient"]),
    }
    assert came_to["coefficient"] == pytest.approx(receipt.placement.coefficient)
    assert one["kl"] == pytest.approx(other["kl"], rel=1e-4)


def test_norms_say_what_it_comes_to_at_every_layer(tiny_folder):
    model, recipe = open_model(tiny_folder("gpt2")), recipe_of(with_coefficient(LOVE))
    for centre in (False, True):  # which changes what is shown, not what is added
        for at_layer in steer_cli.norms(model, recipe, centre):
            [written] = at_layer.records()
            [placement] = steer(tiny_folder("gpt2"), with_coefficient(LOVE, layer=at_layer.layer)).placements
            assert written["relative"] == 0.8
            assert written["coefficient"] == pytest.approx(placement.coefficient, rel=1e-5)


# ---- errors


def test_a_prompt_without_a_position_to_measure_is_an_error(tiny_folder):
    for position in ("every", {"every": "new"}):
        with pytest.raises(PlanError, match="no position but BOS"):
            steer(tiny_folder("gpt2"), with_coefficient(LOVE, position=position), prompt="")


def test_a_vector_too_short_for_any_number_is_an_error(tiny_folder, tmp_path):
    from safetensors.torch import save_file

    model = open_model(tiny_folder("gpt2"))
    file = tmp_path / "short.safetensors"
    save_file(
        {"layer.2": torch.full((1, model.network.width), 1e-20)}, file, {"format": "steer", "version": "1"}
    )
    addition = {"vector": str(file), "layer": 2, "coefficient": RELATIVE, "position": "every"}
    recipe = from_values({"prompt": PROMPT, "additions": [addition]}, [])
    with pytest.raises(VectorError, match=r"relative coefficient 0\.8 comes to .* too short"):
        steer_cli.shift(model, recipe)


def test_only_a_zero_row_on_the_text_is_an_error(tiny_folder):
    made = steer(
        tiny_folder("gpt2"), with_coefficient(LOVE, position={"at": 8}, overflow="clip")
    )  # the row of BOS
    with pytest.raises(VectorError, match="all zeros"):
        made.prefilled()
