"""Stored vectors steer as plain transformers does when the direction is added to that block's output."""

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from reference import blocks
from tiny import PROMPT, by_transformers, open_model, plain_logits, recipe_of, steer, vectors_of
from vector_files import gguf, safetensors

import steer_cli as library
from steer_cli.errors import PlanError, RecipeError, VectorError
from steer_cli.exchange.steer_file import write_vectors
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.schema import Addition, Recipe

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
close = torch.testing.assert_close
LITE = {"cfg": '{"method": "pca"}'}


def width_of(folder):
    return open_model(folder).network.width


def direction(folder, seed=0):
    return np.random.default_rng(seed).standard_normal(width_of(folder)).astype("f4")


def added_at_outputs(folder, ids, directions, coefficient):
    """The last logits of transformers with directions added to blocks' outputs, but not at BOS."""
    model, handles = by_transformers(folder), []

    def adding(values):
        def add(_, __, output):
            stream = (output[0] if isinstance(output, tuple) else output).clone()
            stream[:, 1:] += coefficient * torch.tensor(values)
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return add

    for block, values in directions.items():
        handles.append(blocks(model)[block].register_forward_hook(adding(values)))
    try:
        return plain_logits(folder, ids)[-1]
    finally:
        for handle in handles:
            handle.remove()


def last_logits(folder, **addition):
    one = steer(folder, {"position": "every", **addition})
    return one.prompt, one.prefilled().logits[1]


@every_architecture
@pytest.mark.parametrize("kind", ["llama.cpp", "repeng", "steering-lite"])
def test_other_tools_vectors_act_at_the_output_of_their_block(arch, kind, tiny_folder, tmp_path):
    folder = tiny_folder(arch)
    directions = {1: direction(folder, 1), 3: direction(folder, 2)}
    if kind == "steering-lite":
        names = {f"layer{block}.v": values for block, values in directions.items()}
        file = safetensors(tmp_path / "v.safetensors", names, LITE)
    else:
        file = gguf(tmp_path / "v.gguf", {f"direction.{n}": values for n, values in directions.items()})
    ids, found = last_logits(folder, vector=str(file), coefficient=2, **{"from": kind})
    close(found, added_at_outputs(folder, ids, directions, 2), atol=1e-3, rtol=1e-3)
    # Of its layers the recipe may take one.
    ids, found = last_logits(folder, vector=str(file), coefficient=2, layer=4, **{"from": kind})
    close(found, added_at_outputs(folder, ids, {3: directions[3]}, 2), atol=1e-3, rtol=1e-3)


def test_the_default_model_too(real_folder, tmp_path):
    values = 20 * direction(real_folder) / width_of(real_folder) ** 0.5
    file = gguf(tmp_path / "v.gguf", {"direction.9": values})
    ids, found = last_logits(real_folder, vector=str(file))
    close(found, added_at_outputs(real_folder, ids, {9: values}, 1), atol=5e-3, rtol=5e-3)


@every_architecture
def test_steers_own_file_acts_as_the_vector_that_it_holds(arch, tiny_folder, tmp_path):
    folder = tiny_folder(arch)
    for made in (
        {"plus": "Love", "minus": "Hate", "position": "back"},
        {"plus": "Love", "minus": "Hate", "position": "every"},
    ):
        layers = {**made, "layer": [1, 3], "coefficient": 2}
        vectors = vectors_of(folder, layers)
        file = tmp_path / "v.safetensors"
        write_vectors(file, {(1, 0): vectors[0].numpy(), (3, 0): vectors[1].numpy()}, {})
        stored = {"vector": str(file), "coefficient": 2, "position": made["position"]}
        assert all(
            torch.equal(one, other) for one, other in zip(vectors, vectors_of(folder, stored), strict=True)
        )
        one, other = steer(folder, layers), steer(folder, stored)
        assert torch.equal(one.prefilled().logits, other.prefilled().logits)
        assert [row.ids for arm in one.rows(2, max_new_tokens=4) for row in arm] == [
            row.ids for arm in other.rows(2, max_new_tokens=4) for row in arm
        ]


def test_one_of_several_additions_and_one_direction_for_any_layer(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    file, one = tmp_path / "two.safetensors", tmp_path / "one.safetensors"
    write_vectors(file, {(1, 0): direction(folder, 1), (2, 1): direction(folder, 2)}, {})
    [made] = vectors_of(folder, {"vector": {"file": str(file), "addition": 1}, "position": "every"})
    close(made[0], torch.tensor(direction(folder, 2)))
    safetensors(one, {"refusal": direction(folder, 3)})
    made = vectors_of(folder, {"vector": str(one), "layer": [1, 4], "position": "every"})
    assert len(made) == 2 and torch.equal(made[0], made[1])


def test_dims_and_random_compose(tiny_folder, tmp_path):
    folder = tiny_folder("gpt2")
    file = gguf(tmp_path / "v.gguf", {"direction.2": direction(folder)})
    stored = {"vector": str(file), "position": "every"}
    whole, cut, noise = vectors_of(folder, stored, {**stored, "dims": 0.5}, {**stored, "random": {"seed": 3}})
    kept = width_of(folder) // 2
    assert torch.equal(cut[:, :kept], whole[:, :kept]) and not cut[:, kept:].any()
    close(noise.norm(), whole.norm())
    assert abs(torch.cosine_similarity(noise[0], whole[0], dim=0)) < 0.6


def test_the_library_takes_a_stored_vector(tiny_folder, tmp_path, monkeypatch):
    folder = tiny_folder("llama")
    monkeypatch.chdir(tmp_path)
    gguf(tmp_path / "v.gguf", {"direction.2": direction(folder)})
    model = library.load_model(str(folder))
    recipe = Recipe(
        prompt=PROMPT,
        additions=[Addition(vector="v.gguf", origin="repeng", coefficient=2, position="every")],
    )
    [vector] = library.vectors(model, recipe)
    close(vector[0], torch.tensor(direction(folder)))
    for control in (None, "random", "shuffled"):
        [run] = library.generate(model, recipe, samples=1, control=control)
        [record] = run.records()
        files = record["additions"][0]["files"]
        assert files["vector"]["file"] == "v.gguf" and len(files["vector"]["sha256"]) == 64
        assert record["additions"][0]["agreement"] is None
    assert library.shift(model, recipe).kl > 0
    assert [norms.layer for norms in library.norms(model, recipe)] == [3]
    points = library.sweep(model, recipe, layers="3", coefficients="0,2")
    assert [point.coordinates.coefficient for point in points] == [0, 2]
    assert points[1].kl[0].kl == pytest.approx(library.shift(model, recipe).kl, rel=1e-4)
    hugging = by_transformers(folder)
    from transformers import AutoTokenizer

    with library.steering(hugging, recipe, AutoTokenizer.from_pretrained(folder)):
        ids = torch.tensor([list(open_tokenizer(folder).prompt(PROMPT))])
        steered = hugging(input_ids=ids).logits[0, -1]
    close(
        steered,
        added_at_outputs(folder, ids[0].tolist(), {2: direction(folder)}, 2),
        atol=1e-3,
        rtol=1e-3,
    )


def test_controls_that_need_texts_say_so(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    file = gguf(tmp_path / "v.gguf", {"direction.2": direction(folder)})
    model = library.load_model(str(folder))
    recipe = Recipe(prompt=PROMPT, additions=[Addition(vector=str(file), position="every")])
    for control, said in (("embedding", "needs texts"), ("prompt", "has no text to put in front")):
        with pytest.raises(PlanError, match=said):
            library.generate(model, recipe, control=control)
    library.generate(model, recipe, control="prompt=I love you", samples=1)


def mistake(folder, file, error=PlanError, **addition):
    with pytest.raises(error) as caught:
        vectors_of(folder, {"vector": str(file), "position": "every", **addition})
    said = str(caught.value)
    assert file.name in said and len(said.splitlines()) == 1
    return said


def test_what_does_not_fit_is_one_line(tiny_folder, tmp_path):
    folder = tiny_folder("gpt2")
    values = direction(folder)
    whole = gguf(tmp_path / "all.gguf", {f"direction.{n}": values for n in range(1, 5)})
    said = mistake(folder, whole)
    assert "layers up to 5 (after the last block)" in said
    assert said.endswith("has blocks 0 to 4; choose with `layer: [2, 3, 4]`")
    assert "no vector for layer 1; choose with `layer: [2, 3, 4, 5]`" in mistake(folder, whole, layer=1)
    assert "layer 5 is too deep" in mistake_without_name(folder, whole, layer=5)
    assert "has one row, which is for every position" in mistake(folder, whole, layer=2, position="front")
    rows = tmp_path / "rows.safetensors"
    write_vectors(rows, {(2, 0): np.stack([values] * 3)}, {})
    assert "has 3 positions, and `position: every` takes one row" in mistake(folder, rows)
    write_vectors(rows, {(2, 0): values, (2, 1): values}, {})
    assert "holds the vectors of additions 0, 1; choose one, as in {file: rows" in mistake(folder, rows)
    three = {"file": str(rows), "addition": 3}
    with pytest.raises(PlanError, match=r"no addition 3 in it; it has 0, 1"):
        vectors_of(folder, {"vector": three, "position": "every"})
    narrow = gguf(tmp_path / "narrow.gguf", {"direction.2": values[:30]})
    assert "have 30 values, and the model's stream has 48" in mistake(folder, narrow, VectorError)
    one = safetensors(tmp_path / "one.safetensors", {"v": values})
    assert "does not say its layer; write `layer: ...`" in mistake(folder, one)
    some = gguf(tmp_path / "some.gguf", {"direction.1": values * 0, "direction.2": values})
    assert "the vector of layer 2 is all zeros; choose with `layer: [3]`" in mistake(folder, some)
    assert len(vectors_of(folder, {"vector": str(some), "position": "every", "coefficient": 0})) == 2


def mistake_without_name(folder, file, **addition):
    with pytest.raises(PlanError) as caught:
        vectors_of(folder, {"vector": str(file), "position": "every", **addition})
    return str(caught.value)


@pytest.mark.parametrize(
    "changed", [{"match_norm": True}, {"source_layer": 1}, {"combine": "sum"}, {"read": "mean"}]
)
def test_what_needs_texts_says_so(changed):
    [key] = changed
    with pytest.raises(RecipeError, match=f"{key}: needs texts, and a stored vector has none; remove it"):
        recipe_of({"vector": "v.gguf", "position": "every", **changed})
