"""A recipe made in Python: its faults are told as those of a file, with the class as the place."""

import json

import pytest
from pydantic import ValidationError

from steer_cli.errors import RecipeError, SteerError
from steer_cli.recipe.load import load
from steer_cli.recipe.schema import Addition, Pair, Random, Recipe, Sampling

LOVE = {"plus": "Love", "minus": "Hate", "layer": 6}

# What is wrong in an addition, and how its line goes on after the path to the addition.
FAULTS = [
    ({"layer": -1}, "layer: -1 is not a block such as 6"),
    ({"layer": [6, "half"]}, "layer: [6, 'half'] is not a block such as 6"),
    ({"coefficient": "3"}, "coefficient: '3' is not a finite number such as 5"),
    ({"coefficient": 1e300}, "coefficient: 1e+300 is not a finite number such as 5"),
    ({"position": {"at": -2}}, "position: {'at': -2} is not front, middle, back"),
    ({"plus": 3}, "plus: 3 is not text; quote it"),
    ({"combine": "max"}, "combine: 'max' is not mean, sum or pca"),
    ({"random": {"sede": 1}}, "random.sede: unknown key; did you mean seed?"),
    ({"coeficient": 2}, "coeficient: unknown key; did you mean coefficient?"),
    ({"pairs": [{"plus": "a"}]}, "needs either plus (and minus), or pairs"),
    ({"layer": [6, 6]}, "layer needs at least one block, each listed once"),
]


def problems(make, **values) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        make(**values)
    assert all(len(problem.splitlines()) == 1 for problem in caught.value.problems)
    return caught.value.problems


def in_a_file(folder, values) -> tuple[str, ...]:
    """The lines of the same fault in a file, without the place."""
    file = folder / "r.yaml"
    file.write_text(json.dumps(values))
    return tuple(problem.removeprefix(f"{file}:1: ") for problem in problems(load, name=str(file)))


@pytest.mark.parametrize("fault, said", FAULTS, ids=[str(fault) for fault, _ in FAULTS])
def test_a_fault_is_told_as_in_a_file(fault, said, tmp_path):
    addition = LOVE | fault
    [alone] = problems(Addition, **addition)
    assert alone.startswith(f"Addition: {said}")
    [within] = problems(Recipe, prompt="I", additions=[addition])
    assert within == f"Recipe: additions.0{'.' if ': ' in said else ': '}{alone.removeprefix('Addition: ')}"
    [of_file] = in_a_file(tmp_path, {"prompt": "I", "additions": [addition]})
    # A file has the text of the value too, which is the one to quote.
    assert of_file.removesuffix(': "3"') == within.removeprefix("Recipe: ")


def test_all_faults_are_told_and_the_message_is_the_first():
    with pytest.raises(RecipeError) as caught:
        Recipe(prompt=["I"], additions=({"plus": "a"}, LOVE | {"layer": -1}), sampling={"top_p": 2})
    paths = [problem.split(": ")[:2] for problem in caught.value.problems]
    assert paths == [
        ["Recipe", path] for path in ("prompt", "additions.0.layer", "additions.1.layer", "sampling.top_p")
    ]
    first = caught.value.problems[0]
    assert str(caught.value) == f"{first} (and 3 more: see `problems`)"


def test_faults_beyond_the_limit_are_counted():
    with pytest.raises(RecipeError, match=r"\(and 49 more: see `problems`\)$") as caught:
        Recipe(additions=[LOVE | {"layer": -1}] * 50)
    assert (len(caught.value.problems), caught.value.unsaid) == (20, 30)


@pytest.mark.parametrize(
    "make, values, said",
    [
        (Recipe, {}, "Recipe: additions: missing; write a list of at least one addition"),
        (Recipe, {"additions": []}, "Recipe: additions: [] is not a list of at least one addition"),
        (Recipe, {"additions": Addition(**LOVE)}, "Recipe: additions: Addition(plus='Love'"),
        (Recipe, {"additions": ["Love"]}, "Recipe: additions.0: 'Love' is not a mapping of keys"),
        (
            Recipe,
            {"additions": [LOVE], "prompt": "a", "prompts": ["b"]},
            "Recipe: give prompt or prompts, not both",
        ),
        (Recipe, {"additions": [LOVE], "promt": "a"}, "Recipe: promt: unknown key; did you mean prompt?"),
        (Addition, {"plus": "Love"}, "Addition: layer: missing; write a block such as 6"),
        (Pair, {}, "Pair: plus: missing; write it"),
        (Random, {"seed": -1}, "Random: seed: -1 is not a whole number, 0 or more"),
        (Sampling, {"samples": 0}, "Sampling: samples: 0 is not a whole number from 1"),
        (Sampling, {"sample": 1}, "Sampling: sample: unknown key; did you mean samples?"),
    ],
)
def test_the_place_is_the_class(make, values, said):
    [problem] = problems(make, **values)
    assert problem.startswith(said)


def test_a_value_of_many_lines_is_told_on_one():
    class Matrix:
        def __repr__(self):
            return "Matrix([[1, 2],\n        [3, 4]])"

    [problem] = problems(Addition, **LOVE, coefficient=Matrix())
    assert problem.startswith("Addition: coefficient: Matrix([[1, 2], [3, 4]]) is not a finite number")


def test_changed_sampling_is_checked_in_the_same_way():
    recipe = Recipe(prompt="I", additions=[LOVE])
    assert recipe.with_sampling(samples=8, seed=None).sampling.samples == 8
    with pytest.raises(SteerError, match=r"^Sampling: samples: 0 is not a whole number from 1"):
        recipe.with_sampling(samples=0)
    with pytest.raises(SteerError, match=r"^Sampling: sample: unknown key"):
        recipe.with_sampling(sample=1)


def test_pydantic_validates_parts_inside_a_file_without_making_them_one_by_one():
    """Else the first fault of a part would end the validation of the whole."""
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate({"additions": [LOVE | {"layer": -1}, LOVE | {"coefficient": "3"}]})
    assert {error["loc"][:2] for error in caught.value.errors()} >= {("additions", 0), ("additions", 1)}


def test_what_is_made_in_python_equals_what_a_file_says(tmp_path):
    values = {"prompt": "I", "additions": [LOVE | {"position": {"at": 1}}], "sampling": {"samples": 2}}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r"} | values))
    made = Recipe(
        name="r",
        prompt="I",
        additions=[Addition(**LOVE, position={"at": 1})],
        sampling=Sampling(samples=2),
    )
    assert made.model_dump() == load(str(tmp_path / "r.yaml")).model_dump()
    assert made == Recipe(name="r", **values)
