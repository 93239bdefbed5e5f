"""Exported files hold what a plain computation through transformers gives, and act as the recipe does."""

import json

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from gguf import GGUFReader
from reference import blocks
from safetensors import safe_open
from tiny import by_transformers, hidden_states, open_model, plain_logits, recipe_of, steer

import steer_cli as library
from steer_cli.errors import ExportError, PlanError, VectorError
from steer_cli.exchange.stored import read_vectors
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.version import __version__

every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES)
close = torch.testing.assert_close
ALL = {"every": "all"}
LOVE = {"plus": "Love", "minus": "Hate", "layer": 2, "coefficient": 3, "position": ALL}
CAKE = {"plus": " wedding", "layer": [2, 4], "coefficient": -1.5, "position": ALL}


def export(folder, file, *additions, approximate=False, note=lambda _: None, **keys):
    recipe = recipe_of(*additions, name="love", **keys)
    return library.export(open_model(folder), recipe, file, approximate, note)


def directions(file):
    """The directions of a .gguf file by their numbers, as the gguf package reads them."""
    return {
        int(tensor.name.removeprefix("direction.")): np.array(tensor.data)
        for tensor in GGUFReader(file).tensors
    }


def keys(file):
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def last_row(folder, text, layer):
    """What enters a block at a text's last token, by transformers."""
    ids = open_tokenizer(folder).prompt(text)
    return hidden_states(folder, ids)[layer][-1]


# ---- .gguf


@every_architecture
def test_a_direction_is_the_coefficient_times_the_difference_of_two_texts(arch, tiny_folder, tmp_path):
    folder, file = tiny_folder(arch), tmp_path / "love.gguf"
    found = export(folder, file, LOVE, CAKE)
    assert found.layers == (2, 4)
    love = last_row(folder, "Love", 2) - last_row(folder, "Hate", 2)
    held = directions(file)
    # Layer L is what block L - 1 puts out.
    assert list(held) == [1, 3]
    close(torch.tensor(held[1]), 3 * love - 1.5 * last_row(folder, " wedding", 2), atol=2e-4, rtol=1e-4)
    close(torch.tensor(held[3]), -1.5 * last_row(folder, " wedding", 4), atol=2e-4, rtol=1e-4)


@every_architecture
def test_added_to_the_outputs_of_blocks_they_give_the_logits_of_the_recipe(arch, tiny_folder, tmp_path):
    """What llama.cpp does, on plain transformers: at every position, BOS included."""
    folder, file = tiny_folder(arch), tmp_path / "love.gguf"
    export(folder, file, LOVE, CAKE)
    model, handles = by_transformers(folder), []

    def adding(values):
        def add(_, __, output):
            stream = (output[0] if isinstance(output, tuple) else output) + torch.tensor(values)
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        return add

    steered = steer(folder, LOVE, CAKE)
    for block, values in directions(file).items():
        handles.append(blocks(model)[block].register_forward_hook(adding(values)))
    try:
        expected = plain_logits(folder, steered.prompt)[-1]
    finally:
        for handle in handles:
            handle.remove()
    close(steered.prefilled().logits[1], expected, atol=2e-3, rtol=1e-3)
    assert (expected - plain_logits(folder, steered.prompt)[-1]).abs().max() > 0.1


def test_the_default_model_too(real_folder, tmp_path):
    file = tmp_path / "love.gguf"
    export(real_folder, file, {**LOVE, "layer": 6})
    expected = 3 * (last_row(real_folder, "Love", 6) - last_row(real_folder, "Hate", 6))
    [(number, values)] = directions(file).items()
    assert number == 5 and keys(file)["controlvector.model_hint"] == "llama"
    close(torch.tensor(values), expected, atol=1e-3, rtol=1e-3)


def test_the_file_is_as_llama_cpp_and_repeng_want_it(tiny_folder, tmp_path):
    folder, file = tiny_folder("gpt2"), tmp_path / "love.gguf"
    export(folder, file, LOVE, CAKE)
    tensors = GGUFReader(file).tensors
    assert [(tensor.name, tensor.tensor_type.name, list(tensor.shape)) for tensor in tensors] == [
        ("direction.1", "F32", [48]),
        ("direction.3", "F32", [48]),
    ]
    found = keys(file)
    assert found["general.architecture"] == "controlvector"
    assert (found["controlvector.model_hint"], found["controlvector.layer_count"]) == ("gpt2", 2)


def test_the_keys_say_where_the_file_comes_from(tiny_folder, tmp_path):
    folder, file = tiny_folder("gpt2"), tmp_path / "love.gguf"
    found = export(folder, file, LOVE)
    ours = {key: text for key, text in keys(file).items() if key.startswith("steer.")}
    assert ours == {
        "steer.version": __version__,
        "steer.model": folder.name,
        "steer.dtype": "float32",
        "steer.recipe": ours["steer.recipe"],
        "steer.recipe_sha256": found.recipe_sha256,
    }
    again = tmp_path / "again.yaml"
    again.write_text(ours["steer.recipe"], encoding="utf-8")
    recipe = library.load_recipe(str(again), {"model": str(folder)})
    assert recipe.additions == recipe_of(LOVE).additions
    # The recipe in the file makes the same vectors again.
    library.export(open_model(folder), recipe, tmp_path / "again.gguf")
    np.testing.assert_array_equal(directions(tmp_path / "again.gguf")[1], directions(file)[1])


def test_the_commit_of_a_model_from_the_hub_is_named(tiny_folder, tmp_path):
    import shutil

    commit = "0123456789abcdef" * 2 + "01234567"
    folder = shutil.copytree(tiny_folder("gpt2"), tmp_path / "models--a--b" / "snapshots" / commit)
    file = tmp_path / "love.gguf"
    assert export(folder, file, LOVE).revision == keys(file)["steer.revision"] == commit


def test_every_way_to_make_a_direction_can_be_exported(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    texts = {"texts": {"plus": ["Love", "Love wins"], "minus": ["Hate", "I hate"]}, "layer": 3}
    ways = [
        {**texts, "position": ALL, "coefficient": 2},
        {"pairs": [{"plus": "Love", "minus": "Hate"}, {"plus": "calm"}], "layer": "40%", "position": ALL},
        {**LOVE, "random": {"seed": 3}},
        {**LOVE, "dims": 0.5, "match_norm": True, "source_layer": 1},
    ]
    for number, way in enumerate(ways):
        file = tmp_path / f"{number}.gguf"
        export(folder, file, way)
        [vector] = library.vectors(open_model(folder), recipe_of(way))
        [values] = directions(file).values()
        np.testing.assert_array_equal(values, way.get("coefficient", 1) * vector[0].numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_written_as_float32(dtype, tiny_folder, tmp_path):
    model = open_model(tiny_folder("llama"), dtype)
    found = library.export(model, recipe_of(LOVE), tmp_path / "love.gguf")
    library.export(model, recipe_of(LOVE), tmp_path / "love.safetensors")
    assert found.dtype == dtype == keys(tmp_path / "love.gguf")["steer.dtype"]
    [tensor] = GGUFReader(tmp_path / "love.gguf").tensors
    [rows] = read_vectors(tmp_path / "love.safetensors").vectors.values()
    assert tensor.tensor_type.name == "F32"
    np.testing.assert_array_equal(tensor.data, 3 * rows[0])


# ---- what a control vector cannot say

REFUSED = {
    "front": (
        {"position": "front"},
        "`position: front` is not every position; write `position: {every: all}`",
    ),
    "back": ({"position": "back"}, "which is what llama.cpp does, or use `approximate`"),
    "at": ({"position": {"at": 2}}, "`position: {at: 2}` is not every position"),
    "token": ({"position": {"token": " friend"}}, "{token: ' friend'}` is not every position"),
    "every": ({"position": "every"}, "`position: every` is not every position"),
    "both": ({"position": {"every": "both"}}, "{every: both}` is not every position"),
    "prompt": ({"position": {"every": "prompt"}}, "{every: prompt}` is not every position"),
    "new": ({"position": {"every": "new"}}, "{every: new}` is not every position"),
    "ablation": ({"operation": "ablate"}, "`operation: ablate` depends on the stream"),
    "layer 0": ({"layer": 0}, "layer 0: llama.cpp adds nothing before layer 2; choose deeper layers"),
    "layer 1": ({"layer": [1]}, "layer 1: llama.cpp adds nothing before layer 2; choose deeper layers"),
    "share": ({"layer": "30%"}, "layer 1: llama.cpp adds nothing before layer 2"),
    "a list": ({"layer": [3, 1]}, "leave out this one with `approximate`"),
    "all": (
        {"layer": "all"},
        "layer 0: llama.cpp adds nothing before layer 2; choose deeper layers, or leave",
    ),
    "nothing": ({"coefficient": 0}, "adds nothing: every coefficient or `dims` is 0; change one"),
    "no width": ({"dims": 0}, "adds nothing: every coefficient or `dims` is 0"),
}


@pytest.mark.parametrize("changed, said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_said_is_refused_before_anything_is_computed(changed, said, tiny_folder, tmp_path):
    file = tmp_path / "love.gguf"
    model, recipe = open_model(tiny_folder("gpt2")), recipe_of({**LOVE, **changed}, name="love")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steer_cli.activations.vectors.capture", lambda *_: pytest.fail("it has computed"))
        with pytest.raises(PlanError) as caught:
            library.export(model, recipe, file)
    assert said in str(caught.value) and str(caught.value).startswith("love: ")
    assert len(str(caught.value).splitlines()) == 1 and not file.exists()


def test_a_second_addition_is_looked_at_too(tiny_folder, tmp_path):
    with pytest.raises(PlanError, match=r"additions\.1: `position: front`"):
        export(tiny_folder("gpt2"), tmp_path / "love.gguf", LOVE, {**CAKE, "position": "front"})
    # One that adds nothing may stand anywhere.
    found = export(
        tiny_folder("gpt2"), tmp_path / "a.gguf", LOVE, {**CAKE, "coefficient": 0, "position": "front"}
    )
    assert (found.additions, found.layers) == ((0,), (2,))


def test_additions_that_cancel_are_an_error(tiny_folder, tmp_path):
    file = tmp_path / "love.gguf"
    with pytest.raises(VectorError, match=r"^love: layer 2: its additions sum to zeros; change a coeff"):
        export(tiny_folder("llama"), file, LOVE, {**LOVE, "coefficient": -3})
    assert not file.exists()


def test_values_that_float32_cannot_hold_are_an_error(tiny_folder, tmp_path):
    with pytest.raises(VectorError, match="layer 2: too large for float32; lower a coefficient"):
        export(tiny_folder("llama"), tmp_path / "love.gguf", {**LOVE, "coefficient": 1e39})


# ---- approximate

DIFFERS = {
    "every": ("every", "the recipe leaves BOS alone"),
    "prompt": ({"every": "prompt"}, "the recipe steers neither BOS nor new tokens"),
    "new": ({"every": "new"}, "the recipe steers new tokens alone"),
    "front": ("front", "the recipe adds each of its rows once, at front"),
    "at": ({"at": 2}, "the recipe adds each of its rows once, at {at: 2}"),
}


@pytest.mark.parametrize("position, differs", DIFFERS.values(), ids=DIFFERS)
def test_approximate_takes_the_last_row_and_says_what_differs(position, differs, tiny_folder, tmp_path):
    folder, file, notes = tiny_folder("llama"), tmp_path / "love.gguf", []
    # Two texts of the same length, so that neither ends in a pad.
    pair = {"plus": "I love you", "minus": "I hate you", "layer": 2, "coefficient": 2, "position": position}
    ids = [open_tokenizer(folder).prompt(text) for text in (pair["plus"], pair["minus"])]
    assert len(ids[0]) == len(ids[1])
    found = export(folder, file, pair, approximate=True, note=notes.append)
    expected = 2 * (hidden_states(folder, ids[0])[2][-1] - hidden_states(folder, ids[1])[2][-1])
    close(torch.tensor(directions(file)[1]), expected, atol=2e-4, rtol=1e-4)
    said = f"additions.0: its last row acts at every position, BOS too; {differs}"
    assert found.approximations == (said,) and keys(file)["steer.approximations"] == said
    assert notes == [f"approximate: {said}"]


def test_approximate_leaves_out_the_first_two_layers_and_says_so(tiny_folder, tmp_path):
    folder, whole, some = tiny_folder("llama"), tmp_path / "all.gguf", tmp_path / "some.gguf"
    export(folder, some, {**CAKE, "layer": [2, 3, 4]})
    found = export(folder, whole, {**CAKE, "layer": "all"}, approximate=True)
    assert found.layers == (2, 3, 4)
    assert (
        found.approximations
        == ("layers 0 and 1 are left out: llama.cpp adds nothing before layer 2",)
        == (keys(whole)["steer.approximations"],)
    )
    for number, values in directions(some).items():
        np.testing.assert_array_equal(directions(whole)[number], values)
    found = export(
        folder, tmp_path / "b.gguf", {**CAKE, "layer": [1, 4], "position": "every"}, approximate=True
    )
    assert len(found.approximations) == 2 and found.approximations[1].startswith("layer 1 is left out")
    assert keys(tmp_path / "b.gguf")["steer.approximations"] == "\n".join(found.approximations)


@pytest.mark.parametrize("changed", [{"operation": "ablate"}, {"layer": [0, 1]}, {"coefficient": 0}])
def test_of_some_things_there_is_no_approximation(changed, tiny_folder, tmp_path):
    with pytest.raises(PlanError):
        export(tiny_folder("llama"), tmp_path / "a.gguf", {**LOVE, **changed}, approximate=True)


def test_where_nothing_has_to_be_approximated_a_note_says_so(tiny_folder, tmp_path):
    folder, notes = tiny_folder("llama"), []
    export(folder, tmp_path / "a.gguf", LOVE)
    for name in ("b.gguf", "b.safetensors"):
        found = export(folder, tmp_path / name, LOVE, approximate=True, note=notes.append)
        assert found.approximations == ()
    assert notes == [
        f"`approximate` changes nothing: {name} holds exactly what the recipe says"
        for name in ("b.gguf", "b.safetensors")
    ]
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


# ---- .safetensors


@every_architecture
def test_all_positions_are_kept_unscaled(arch, tiny_folder, tmp_path):
    folder, file = tiny_folder(arch), tmp_path / "love.safetensors"
    front = {"plus": "I love you", "minus": "I hate you", "layer": [0, 3], "coefficient": 7}
    found = export(folder, file, front, {**CAKE, "operation": "ablate"})
    ids = [open_tokenizer(folder).prompt(text) for text in ("I love you", "I hate you", " wedding")]
    streams = [hidden_states(folder, row) for row in ids]
    with safe_open(file, framework="pt") as opened:
        assert sorted(opened.keys()) == ["layer.0", "layer.2.addition.1", "layer.3", "layer.4.addition.1"]
        for layer in (0, 3):
            rows = opened.get_tensor(f"layer.{layer}")
            assert rows.dtype == torch.float32
            close(rows, streams[0][layer] - streams[1][layer], atol=2e-4, rtol=1e-4)
        for layer in (2, 4):
            close(
                opened.get_tensor(f"layer.{layer}.addition.1"), streams[2][layer][-1:], atol=2e-4, rtol=1e-4
            )
        said = opened.metadata()
    assert (found.layers, found.additions, found.format) == ((0, 2, 3, 4), (0, 1), "safetensors")
    assert json.loads(said["additions"]) == [
        {"position": "front", "coefficient": 7, "operation": "add"},
        {"position": ALL, "coefficient": -1.5, "operation": "ablate"},
    ]
    assert said["format"] == "steer" and said["version"] == "1" and said["steer_version"] == __version__
    assert (said["model"], said["dtype"], said["recipe_sha256"]) == (
        folder.name,
        "float32",
        found.recipe_sha256,
    )


def test_a_file_of_zeros_is_not_written(tiny_folder, tmp_path):
    file = tmp_path / "love.safetensors"
    with pytest.raises(VectorError, match="all vectors are zeros"):
        export(tiny_folder("llama"), file, {**LOVE, "dims": 0, "coefficient": 0})
    assert not file.exists()


# ---- the file as such


def test_a_result_is_frozen_and_gives_one_record(tiny_folder, tmp_path):
    import dataclasses
    import hashlib

    folder, file = tiny_folder("llama"), tmp_path / "love.gguf"
    found = export(folder, file, LOVE, CAKE)
    [record] = found.records()
    assert record == {
        "recipe": "love",
        "recipe_sha256": found.recipe_sha256,
        "file": str(file),
        "format": "gguf",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "additions": (0, 1),
        "layers": (2, 4),
        "width": 48,
        "model": folder.name,
        "revision": None,
        "dtype": "float32",
        "version": __version__,
        "approximations": (),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.width = 3


@pytest.mark.parametrize(
    "name, said",
    [
        (
            "love.txt",
            "ends in .gguf (a control vector for llama.cpp) or .safetensors (all positions, for steer)",
        ),
        ("love", "write a name that ends in .gguf"),
        ("", "write a name that ends in .gguf"),
        ("nowhere/love.gguf", "there is no folder "),
        ("taken.gguf", "the file already exists; choose another name, or remove it first"),
        ("link.gguf", "the file already exists"),
        ("folder.gguf", "is a folder; write the name of a file in it"),
        ("a\0.gguf", "holds no NUL"),
        ("n" * 300 + ".gguf", "File name too long; choose another place"),
    ],
)
def test_a_name_that_cannot_be_written_is_one_line(name, said, tiny_folder, tmp_path):
    (tmp_path / "taken.gguf").write_bytes(b"mine")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "nothing.gguf")
    (tmp_path / "folder.gguf").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ExportError) as caught:
        export(tiny_folder("gpt2"), f"{tmp_path}/{name}", LOVE)
    assert said in str(caught.value) and caught.value.parameter == "file"
    assert str(caught.value).startswith("file ")
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "taken.gguf").read_bytes() == b"mine"


@pytest.mark.parametrize("coefficient", [1e-30, 1e-44])
def test_a_coefficient_too_small_to_change_anything_is_an_error(coefficient, tiny_folder, tmp_path):
    with pytest.raises(VectorError, match="layer 2: does nothing: no value of the stream changes"):
        export(tiny_folder("llama"), tmp_path / "small.gguf", LOVE | {"coefficient": coefficient})
    assert not list(tmp_path.glob("small*"))


def test_of_a_layer_that_is_left_out_no_vector_is_needed(tiny_folder, tmp_path):
    # Both texts end in the same token, so at layer 0 their last rows are equal.
    pair = {"plus": "the wedding of my friend", "minus": "the ship of my friend", "layer": "all"}
    file = tmp_path / "deep.gguf"
    found = export(tiny_folder("llama"), file, pair | {"position": ALL}, approximate=True)
    assert found.layers[0] == 2 and min(directions(file)) == 1
    assert found.approximations == ("layers 0 and 1 are left out: llama.cpp adds nothing before layer 2",)
