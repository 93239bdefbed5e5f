"""`coefficient: {relative: 0.8}` in a recipe: read, written, described, and told where it is wrong."""

import json

import jsonschema
import pytest

from steer_cli.errors import RecipeError
from steer_cli.recipe.file_text import as_file
from steer_cli.recipe.load import load, schema, validate
from steer_cli.recipe.overrides import parse_override
from steer_cli.recipe.schema import Addition, Recipe
from steer_cli.recipe.yaml_source import Document, parse
from steer_cli.report.title import summary
from steer_cli.results.came_to import CameTo, over_texts
from steer_cli.sweeps.identity import digest_of

LOVE = {"plus": "Love", "minus": "Hate", "layer": "40%"}
WRONG = {
    "words": ({"relative": "much"}, "coefficient.relative: 'much' is not a finite number such as 0.8"),
    "truth": ({"relative": True}, "coefficient.relative: True is not a finite number"),
    "nothing": ({"relative": None}, "coefficient.relative: None is not a finite number"),
    "large": ({"relative": 1e7}, "up to 1e+06 in size"),
    "empty": ({}, "coefficient.relative: missing; write a finite number such as 0.8"),
    "key": ({"relativ": 1}, "coefficient.relativ: unknown key; did you mean relative?"),
    "both": ({"relative": 1, "times": 2}, "coefficient.times: unknown key; known keys: relative"),
    "list": ([1], "{relative: 0.8}"),
}


def addition_of(coefficient, **more):
    return {"prompt": "I", "additions": [{**LOVE, "coefficient": coefficient, **more}]}


@pytest.fixture(scope="module")
def by_schema():
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("strength", [0.8, -0.5, 0, 1, 1e6])
def test_it_is_read_and_written_and_the_schema_agrees(strength, by_schema):
    values = addition_of({"relative": strength})
    assert by_schema.is_valid(values)
    recipe = validate(Document("r.yaml", values))
    [addition] = recipe.additions
    assert (addition.strength, addition.adds_nothing) == (strength, strength == 0)
    text = as_file(recipe)
    assert f"coefficient: {{relative: {json.dumps(strength).removesuffix('.0')}}}\n" in text
    assert validate(parse(text, "r.yaml")) == recipe
    assert Addition(**LOVE, coefficient={"relative": strength}) == addition
    # Another recipe than that of the same number.
    plain = validate(Document("r.yaml", addition_of(strength)))
    assert plain != recipe and digest_of(plain, []) != digest_of(recipe, [])


@pytest.mark.parametrize("coefficient, said", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_in_one_line_and_the_schema_agrees(coefficient, said, by_schema):
    values = addition_of(coefficient)
    assert not by_schema.is_valid(values)
    with pytest.raises(RecipeError) as caught:
        validate(parse(json.dumps(values), "r.yaml"))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems
    assert all(problem.startswith("r.yaml:1: additions.0.") for problem in caught.value.problems)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
def test_a_number_that_is_not_finite_is_told(number):
    text = "{prompt: I, additions: [{plus: a, layer: 2, coefficient: {relative: NUMBER}}]}"
    with pytest.raises(RecipeError, match=r"additions\.0\.coefficient\.relative: .* is not a finite number"):
        validate(parse(text.replace("NUMBER", number), "r.yaml"))


def test_an_ablation_has_no_length(by_schema):
    values = addition_of({"relative": 1}, operation="ablate", position="every")
    assert not by_schema.is_valid(values) and by_schema.is_valid(
        addition_of(1, operation="ablate", position="every")
    )
    with pytest.raises(RecipeError, match="an ablation adds none; write the share"):
        validate(Document("r.yaml", values))


def test_a_change_makes_a_number_relative_and_back(tmp_path):
    file = tmp_path / "r.yaml"
    for written in (addition_of(2), addition_of({"relative": 2}), {"additions": [LOVE]}):
        file.write_text(json.dumps(written))
        changed = load(str(file), [parse_override("additions.0.coefficient.relative=0.5")])
        assert changed.additions[0].coefficient == Addition(**LOVE, coefficient={"relative": 0.5}).coefficient
        whole = load(str(file), [parse_override("additions.0.coefficient={relative: 0.5}")])
        assert whole.additions == changed.additions
        assert load(str(file), [parse_override("additions.0.coefficient=3")]).additions[0].coefficient == 3
    with pytest.raises(RecipeError, match="layer"):  # other numbers stay numbers
        load(str(file), [parse_override("additions.0.layer.relative=0.5")])


def test_the_title_says_so():
    made = Recipe(additions=[{**LOVE, "coefficient": {"relative": -0.5}}])
    assert summary(made.additions[0]) == "Love - Hate × relative -0.5, layer 40%, front"


def test_numbers_of_many_texts_are_their_mean_least_and_most():
    found = [(CameTo(0, 2, 0.8, number), CameTo(1, 3, 1, -number)) for number in (1.0, 2.0, 6.0)]
    assert over_texts(found) == (CameTo(0, 2, 0.8, 3, 1, 6), CameTo(1, 3, 1, -3, -6, -1))
    assert over_texts([]) == ()
