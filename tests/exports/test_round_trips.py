"""What is exported is read back, and exported again to the byte; what is damaged is one line."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import open_model, recipe_of, steer, vectors_of

import steer_cli as library
from steer_cli.errors import ExportError, VectorFileError
from steer_cli.exchange.stored import read_vectors
from steer_cli.exchange.whole_file import write_whole

ALL = {"every": "all"}
LOVE = {"plus": "Love", "minus": "Hate", "layer": [2, 4], "coefficient": 3, "position": ALL}
FRONT = {"plus": "Love", "minus": "Hate", "layer": [1, 3], "coefficient": 2, "position": "front"}


@pytest.fixture(scope="module")
def folder(tiny_folder):
    return tiny_folder("llama")


def export(folder, file, *additions, note=lambda _: None, **keys):
    return library.export(open_model(folder), recipe_of(*additions, **keys), file, note=note)


def stored(file, index=None, **more):
    named = str(file) if index is None else {"file": str(file), "addition": index}
    return {"vector": named, **more}


# ---- round trips


def test_a_control_vector_acts_as_the_recipe_and_is_exported_again_to_the_byte(folder, tmp_path):
    first, second, third = (tmp_path / f"{name}.gguf" for name in ("first", "second", "third"))
    notes = []
    export(folder, first, LOVE, {**LOVE, "plus": " wedding", "layer": 4, "coefficient": -1}, name="love")
    export(folder, second, stored(first, position=ALL), name="again", note=notes.append)
    export(folder, third, stored(second, position=ALL, layer=[4, 2]), prompt="I hate you")
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    assert len(notes) == 1 and "so second.gguf says of them what that does" in notes[0]
    both = steer(folder, LOVE, {**LOVE, "plus": " wedding", "layer": 4, "coefficient": -1})
    again = steer(folder, stored(first, position=ALL))
    assert (both.prefilled().logits == again.prefilled().logits).all()


def test_steers_own_file_gives_the_same_vectors_and_the_same_file(folder, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    cake = {"plus": " wedding", "layer": 2, "coefficient": -1.5, "position": ALL, "operation": "ablate"}
    export(folder, first, FRONT, cake, name="love")
    uses = [
        {key: value for key, value in made.items() if key not in ("plus", "minus", "layer")}
        for made in (FRONT, cake)
    ]
    again = [stored(first, index, **use) for index, use in enumerate(uses)]
    export(folder, second, *again)
    assert first.read_bytes() == second.read_bytes()
    for one, other in zip(vectors_of(folder, FRONT, cake), vectors_of(folder, *again), strict=True):
        assert one.numpy().tobytes() == other.numpy().tobytes()


MORE = {
    "coefficient": ({"coefficient": 2}, {"coefficient": 2.5}),
    "layer": ({"layer": 4}, {"layer": 3}),
    "dims": ({"dims": 0.5}, {"dims": 0.5}),
    "random": ({"random": {"seed": 1}}, {"random": {"seed": 1}}),
    "position": ({}, {"position": "back"}),
}


# A control vector knows one position.
CASES = [
    (suffix, name)
    for suffix in ("gguf", "safetensors")
    for name in MORE
    if (suffix, name) != ("gguf", "position")
]


@pytest.mark.parametrize("suffix, name", CASES)
def test_a_recipe_that_says_more_than_the_file_is_named_in_its_place(suffix, name, folder, tmp_path):
    changed = MORE[name][suffix == "safetensors"]
    made = LOVE if suffix == "gguf" else FRONT
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    export(folder, first, made, name="love")
    use = {"position": made["position"]} | ({} if suffix == "gguf" else {"coefficient": 2})
    export(folder, second, stored(first, **{**use, **changed}), name="again")
    key = "steer.recipe" if suffix == "gguf" else "recipe"
    assert read_vectors(second).metadata[key].startswith("name: again\n")
    # And that is then what later ones keep.
    third = tmp_path / f"third.{suffix}"
    use = {**use, **({"position": "back"} if name == "position" else {})}
    use |= {"coefficient": 2.5} if (name, suffix) == ("coefficient", "safetensors") else {}
    export(folder, third, stored(second, **use), name="third")
    assert second.read_bytes() == third.read_bytes()


def test_a_file_of_another_tool_or_of_another_model_is_not_taken_for_our_own(folder, tmp_path):
    from vector_files import gguf

    values = np.arange(1, 49, dtype="f4")
    theirs = gguf(tmp_path / "theirs.gguf", {"direction.1": values})
    export(folder, tmp_path / "a.gguf", stored(theirs, position=ALL), name="a")
    found = read_vectors(tmp_path / "a.gguf")
    assert found.metadata["steer.recipe"].startswith("name: a\n")
    np.testing.assert_array_equal(found.of(0)[2], values[None])
    # A copy of the model has another name.
    other = tmp_path / "other"
    other.symlink_to(folder)
    export(other, tmp_path / "b.gguf", stored(tmp_path / "a.gguf", position=ALL), name="b")
    assert read_vectors(tmp_path / "b.gguf").metadata["steer.model"] == "other"


def test_an_approximation_is_not_taken_for_what_it_approximates(folder, tmp_path):
    first = tmp_path / "first.gguf"
    export(folder, first, LOVE, name="love")
    recipe = recipe_of(stored(first, position="every"), name="again")
    library.export(open_model(folder), recipe, tmp_path / "second.gguf", approximate=True)
    found = read_vectors(tmp_path / "second.gguf").metadata
    assert found["steer.recipe"].startswith("name: again\n") and "BOS" in found["steer.approximations"]
    # What was approximated once stays said.
    export(folder, tmp_path / "third.gguf", stored(tmp_path / "second.gguf", position=ALL))
    assert (tmp_path / "third.gguf").read_bytes() == (tmp_path / "second.gguf").read_bytes()


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_texts_of_any_kind_in_a_recipe_survive(suffix, folder, tmp_path):
    odd = "é漢字 \u202e \u2028 'quoted' \"twice\" 😀\n\tend "
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    export(folder, first, {**LOVE, "plus": odd}, name=odd, prompt=odd)
    export(folder, second, stored(first, position=ALL, coefficient=1 if suffix == "gguf" else 3))
    assert first.read_bytes() == second.read_bytes()
    written = tmp_path / "again.yaml"
    text = read_vectors(first).metadata["steer.recipe" if suffix == "gguf" else "recipe"]
    written.write_bytes(text.encode())
    assert library.load_recipe(str(written)).additions[0].plus == odd


# ---- two at once


@pytest.mark.parametrize("suffix", ["gguf", "safetensors"])
def test_of_two_exports_to_one_file_one_is_written_and_the_other_says_why_not(suffix, folder, tmp_path):
    model, file, together = open_model(folder), tmp_path / f"love.{suffix}", Barrier(2)
    recipes = [recipe_of({**LOVE, "coefficient": number}) for number in (2, 3)]

    def one(recipe):
        together.wait()
        try:
            return library.export(model, recipe, file)
        except ExportError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(one, recipes))
    [said] = [text for text in found if isinstance(text, str)]
    [kept] = [result for result in found if not isinstance(result, str)]
    assert said.endswith("the file already exists; choose another name, or remove it first")
    assert read_vectors(file).sha256 == kept.sha256 and list(tmp_path.iterdir()) == [file]


def test_a_file_is_written_over_only_where_that_is_asked_for(tmp_path):
    file, together = tmp_path / "a.bin", Barrier(8)

    def one(number):
        together.wait()
        try:
            write_whole(file, bytes([number]) * 100_000)
            return number
        except FileExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        [winner] = [number for number in pool.map(one, range(8)) if number is not None]
    assert file.read_bytes() == bytes([winner]) * 100_000 and list(tmp_path.iterdir()) == [file]
    write_whole(file, b"new", replace=True)
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]


# ---- damage


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("whole")
    export(folder, made / "love.gguf", LOVE)
    export(folder, made / "love.safetensors", FRONT, {**LOVE, "layer": 2})
    return {file.suffix: file.read_bytes() for file in made.iterdir()}


changes = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
        st.tuples(st.just("set"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("delete"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, change) -> bytes:
    way, share, values = change
    # Half of the changes fall on the head, which is a small part of the file.
    start = int(share * 2 * 1500) if share < 0.5 else int((share - 0.5) * 2 * len(content))
    start = min(start, len(content))
    if way == "cut":
        return content[:start]
    if way == "set":
        return content[:start] + values + content[start + len(values) :]
    if way == "insert":
        return content[:start] + values + content[start:]
    return content[:start] + content[start + len(values) :]


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_damaged_file_is_one_line_or_finite_vectors(suffix, whole, tmp_path):
    outcomes = []

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changes)
    def check(found):
        content = whole[suffix]
        for change in found:
            content = damaged(content, change)
        file = tmp_path / f"{len(outcomes)}{suffix}"
        file.write_bytes(content)
        try:
            vectors = read_vectors(file).vectors
        except VectorFileError as error:
            outcomes.append(str(error))
            assert str(error).startswith(f"{file}: ") and len(str(error).splitlines()) == 1
            assert str(error).isprintable()
        else:
            outcomes.append(None)
            assert vectors and all(np.isfinite(rows).all() for rows in vectors.values())

    check()
    assert None in outcomes and len({re.sub(r"\d+", "", text or "") for text in outcomes}) > 5


@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_file_that_is_cut_anywhere_is_one_line_of_the_command(suffix, whole, folder, fault, tmp_path):
    content = whole[suffix]
    use = {"position": ALL} if suffix == ".gguf" else {"position": "front"}
    for share in (0, 0.001, 0.02, 0.1, 0.3, 0.6, 0.9, 0.999):
        file = tmp_path / f"cut{suffix}"
        file.write_bytes(content[: int(share * len(content))])
        recipe = tmp_path / "r.yaml"
        recipe.write_text(json.dumps({"model": str(folder), "additions": [stored("cut" + suffix, 0, **use)]}))
        said = fault("export", recipe, "-o", f"new{suffix}")
        assert f"cut{suffix}: " in said and not (tmp_path / f"new{suffix}").exists()
