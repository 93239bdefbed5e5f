"""Files of vectors: what is in them, what each mistake says, and that damage is one line."""

import hashlib
import random
import struct

import numpy as np
import pytest
from vector_files import gguf, safetensors

from steer_cli.errors import VectorFileError
from steer_cli.exchange.producers import SUFFIXES
from steer_cli.exchange.steer_file import as_bytes, write_vectors
from steer_cli.exchange.stored import read_vectors

WIDTH = 8
OURS = {"format": "steer", "version": "1"}
LITE = {"cfg": '{"method": "mean_diff", "layers": [2], "coeff": 1.0}'}


def vector(seed=0, rows=None):
    shape = WIDTH if rows is None else (rows, WIDTH)
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def same(found, expected):
    assert list(found) == list(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], np.atleast_2d(values))


def fault(file, origin=None) -> str:
    with pytest.raises(VectorFileError) as caught:
        read_vectors(file, origin)
    said = str(caught.value)
    assert said.startswith(f"{file}: ") and len(said.splitlines()) == 1, said
    return said.removeprefix(f"{file}: ")


def test_what_is_written_is_read_and_written_again_to_the_byte(tmp_path):
    file = tmp_path / "a.safetensors"
    vectors = {(2, 0): vector(1, 3), (11, 0): vector(2, 3), (2, 1): vector(3)}
    about = {"model": "smollm2-135m", "recipe": "prompt: é\nadditions: []\n", "additions": "[]"}
    write_vectors(file, vectors, about)
    found = read_vectors(file)
    assert (found.origin, found.additions) == ("steer", (0, 1))
    assert found.metadata == {**about, **OURS}
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    same(found.of(0), {2: vectors[2, 0], 11: vectors[11, 0]})
    same(found.of(1), {2: vectors[2, 1]})
    assert as_bytes(found.vectors, found.metadata) == file.read_bytes()
    assert list(tmp_path.iterdir()) == [file]


def test_the_library_reads_our_file_too(tmp_path):
    from safetensors import safe_open

    file = tmp_path / "a.safetensors"
    write_vectors(file, {(2, 0): vector(1, 3), (2, 1): vector(2)}, {"model": "m"})
    with safe_open(file, framework="np") as opened:
        assert set(opened.keys()) == {"layer.2", "layer.2.addition.1"}
        np.testing.assert_array_equal(opened.get_tensor("layer.2"), vector(1, 3))
        assert opened.metadata() == {"model": "m", **OURS}


def test_the_gguf_package_reads_what_these_tests_write(tmp_path):
    from gguf import GGUFReader, GGUFWriter

    file = gguf(tmp_path / "a.gguf", {"direction.1": vector(1), "direction.2": vector(2)})
    names = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    np.testing.assert_array_equal(names["direction.2"], vector(2))
    # And what the package writes is read here.
    writer = GGUFWriter(tmp_path / "b.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "llama")
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor("direction.4", vector(4))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    same(read_vectors(tmp_path / "b.gguf").of(0), {5: vector(4)})


@pytest.mark.parametrize("origin", [None, "llama.cpp", "repeng"])
def test_a_control_vector_acts_at_the_output_of_its_block(origin, tmp_path):
    file = gguf(tmp_path / "a.gguf", {"direction.10": vector(1), "direction.2": vector(2)})
    found = read_vectors(file, origin)
    assert found.origin == (origin or "llama.cpp")
    same(found.of(0), {3: vector(2), 11: vector(1)})


def test_a_recipe_can_name_every_producer():
    from typing import get_args

    from steer_cli.recipe.sources import Producer

    assert set(get_args(Producer)) == set(SUFFIXES)


def test_block_0_is_repengs_alone(tmp_path):
    file = gguf(tmp_path / "a.gguf", {"direction.0": vector(1)})
    assert "if repeng made it, write `from: repeng`" in fault(file)
    same(read_vectors(file, "repeng").of(0), {1: vector(1)})


def test_a_file_of_steering_lite_acts_at_the_output_of_its_block(tmp_path):
    tensors = {"layer2.v": vector(2), "layer10.v": vector(1)}
    for name, metadata, origin in (("a", LITE, None), ("b", None, "steering-lite")):
        found = read_vectors(safetensors(tmp_path / f"{name}.safetensors", tensors, metadata), origin)
        assert found.origin == "steering-lite"
        same(found.of(0), {3: vector(2), 11: vector(1)})


def test_one_direction_of_any_name_has_no_layer(tmp_path):
    found = read_vectors(safetensors(tmp_path / "a.safetensors", {"refusal": vector(1)}))
    assert found.origin is None
    same(found.of(0), {None: vector(1)})


@pytest.mark.parametrize("write, name", [(safetensors, "layer.3"), (gguf, "direction.2")])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
def test_other_types_become_float32(write, name, dtype, tmp_path):
    values = np.array([1.5, -0.25, 1024, 0.0078125, 0, 3, -2, 0.5], "f4")  # exact in each of them
    suffix = "gguf" if write is gguf else "safetensors"
    file = write(tmp_path / f"a.{suffix}", {name: values}, dtype=dtype)
    found = read_vectors(file, "steer" if write is safetensors else None).of(0)
    assert found[3].dtype == np.float32
    same(found, {3: values})


def test_a_changed_file_is_read_again(tmp_path):
    file = safetensors(tmp_path / "a.safetensors", {"v": vector(1)})
    first = read_vectors(file)
    safetensors(file, {"v": vector(2), "w": vector(3)}, {})
    assert "does not say what made it" in fault(file)
    safetensors(file, {"v": vector(2)})
    assert read_vectors(file).sha256 != first.sha256


NAN = np.array([1, np.nan] * 4, "f4")
MISTAKES = {
    "no such file": (None, "a.safetensors", None, "No such file or directory; give a file"),
    "pickle": (b"\x80\x02", "a.pt", None, "pickles are not read, since they can run any code"),
    "another pickle": (b"\x80\x02", "a.pkl", None, "save its tensors with safetensors.torch.save_file"),
    "another suffix": (b"{}", "a.json", None, "give one that ends in .safetensors or .gguf"),
    "no suffix": (b"{}", "vector", None, "not a file of vectors"),
    "empty safetensors": (b"", "a.safetensors", None, "header too small; fetch or make it again"),
    "empty gguf": (b"", "a.gguf", None, "it starts with b'', not with b'GGUF'; fetch or make it again"),
    "text": (b"hello, this is text\n", "a.safetensors", None, "not readable as safetensors"),
    "text as gguf": (b"hello, this is text\n", "a.gguf", None, "it starts with b'hell'"),
    "old gguf": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "a.gguf", None, "version 1 of the format"),
    "endless gguf": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "a.gguf", None, "entries of a kind"),
    "no tensors": ({}, "a.safetensors", None, "no tensors in it"),
    "no directions": ({}, "a.gguf", None, "no tensors in it"),
    "not said": ({"a": vector(), "b": vector()}, "a.safetensors", None, "does not say what made it"),
    "likely": ({"layer3.v": vector()}, "a.safetensors", None, "write `from: steering-lite`"),
    "likely ours": ({"layer.3": vector()}, "a.safetensors", None, "write `from: steer`"),
    "other names": ({"b": vector()}, "a.safetensors", "steer", "'b' is none of steer's, which are named"),
    "a model": ({"token_embd.weight": vector(0, 3)}, "a.gguf", None, "none of llama.cpp's, which are named"),
    "from another": ({"layer3.v": vector()}, "a.safetensors", "repeng", "repeng writes .gguf files"),
    "from a third": ({"direction.3": vector()}, "a.gguf", "steer", "from: steer writes .safetensors files"),
    "NaN": ({"v": NAN}, "a.safetensors", None, "'v' holds NaN or infinity"),
    "infinity": ({"direction.3": NAN * np.inf}, "a.gguf", None, "holds NaN or infinity"),
    "zeros": ({"v": vector() * 0}, "a.safetensors", None, "all zeros; make the vectors again"),
    "2-D": ({"direction.3": vector(0, 2)}, "a.gguf", None, "the shape [2, 8]; a vector has [width]"),
    "3-D": ({"v": vector(0, 2)[None]}, "a.safetensors", None, "a vector has [width] or [positions, width]"),
    "0-D": ({"v": np.float32(3)}, "a.safetensors", None, "has the shape []"),
    "no width": ({"v": vector()[:0]}, "a.safetensors", None, "has the shape [0]"),
    "widths": ({"direction.3": vector(), "direction.4": vector()[:6]}, "a.gguf", None, "widths, 6 and 8"),
    "positions": (
        {"layer.3": vector(0, 2), "layer.4": vector(0, 3)},
        "a.safetensors",
        "steer",
        "vectors of 2 and of 3 positions in one addition",
    ),
    "twice": (
        {"layer.3": vector(), "layer.3.addition.0": vector()},
        "a.safetensors",
        "steer",
        "two tensors for layer 3, addition 0",
    ),
    "leading zero": ({"layer.03": vector(), "layer.3": vector()}, "a.safetensors", "steer", "'layer.03' is"),
}


@pytest.mark.parametrize("content, name, origin, said", MISTAKES.values(), ids=MISTAKES)
def test_each_mistake_is_one_line(content, name, origin, said, tmp_path):
    file = tmp_path / name
    if isinstance(content, dict):
        (gguf if name.endswith("gguf") else safetensors)(file, content)
    elif content is not None:
        file.write_bytes(content)
    assert said in fault(file, origin)


def test_more_mistakes(tmp_path):
    folder = tmp_path / "folder.gguf"
    folder.mkdir()
    assert fault(folder) == "a folder; give a .gguf file of vectors"
    other = {"cfg": '{"method": "spherical"}'}
    file = safetensors(tmp_path / "a.safetensors", {"layer2.v": vector()}, other)
    assert "steering-lite's method 'spherical', which does not add one vector" in fault(file)
    file = safetensors(tmp_path / "b.safetensors", {"layer.2": vector()}, OURS)
    assert "the file says that steer made it" in fault(file, "steering-lite")
    file = gguf(tmp_path / "q.gguf", {"direction.1": vector()}, kind=2)
    assert "is of type 2; F64, F32, F16, BF16 are read" in fault(file)
    import torch
    from safetensors.torch import save_file

    save_file({"v": torch.arange(8)}, tmp_path / "i.safetensors")
    assert "'v' is of I64; F64, F32" in fault(tmp_path / "i.safetensors")


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("steer_cli.exchange.stored.MOST_BYTES", 100)
    file = safetensors(tmp_path / "a.safetensors", {"v": vector(0, 9)})
    assert "more than 100 bytes, too many for vectors; is it a model?" in fault(file)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["gguf", "steer", "steering-lite"])
def test_damage_is_one_line_or_finite_vectors(kind, seed, tmp_path):
    chance = random.Random(f"{kind} {seed}")
    if kind == "gguf":
        file = gguf(tmp_path / "a.gguf", {f"direction.{n}": vector(n) for n in (1, 2, 3)})
    elif kind == "steer":
        file = tmp_path / "a.safetensors"
        write_vectors(file, {(2, 0): vector(1, 3), (3, 0): vector(2, 3), (2, 1): vector(3)}, {"model": "m"})
    else:
        file = safetensors(tmp_path / "a.safetensors", {"layer2.v": vector(2)}, LITE)
    whole, faults = file.read_bytes(), 0
    head = len(whole) - 3 * WIDTH * 4
    for number in range(60):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            way, at = chance.randrange(5), chance.randrange(chance.choice((head, len(whole))))
            at = min(at, len(content) - 1)
            if way == 0:
                content[at] = chance.randrange(256)
            elif way == 1:
                del content[max(1, at) :]
            elif way == 2:
                content[at : at + 8] = struct.pack("<Q", chance.choice((0, 1, 2**31, 2**63, 2**64 - 1)))
            elif way == 3:
                content[at:at] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 9)))
            else:
                del content[at : at + chance.randint(1, 9)]
        damaged = file.with_name(f"{number}{file.suffix}")
        damaged.write_bytes(content)
        try:
            found = read_vectors(damaged)
        except VectorFileError as error:
            faults += 1
            assert str(error).startswith(f"{damaged}: ") and str(error).isprintable(), str(error)
        else:
            assert all(np.isfinite(values).all() for values in found.vectors.values())
    assert faults > 20
