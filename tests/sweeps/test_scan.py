"""A scan is `generate` at every setting, in one batch: token for token, with the same dice and scores."""

import json
from dataclasses import FrozenInstanceError
from functools import cache
from itertools import product
from unittest.mock import patch

import pytest
from conftest import ARCHITECTURES
from tiny import LOVE, PROMPT, open_model

import steer_cli as steer
from steer_cli.activations import capture
from steer_cli.errors import PlanError, SweepError, VectorError
from steer_cli.measure import scan as measure
from steer_cli.planning.scan import MOST_SETTINGS
from steer_cli.recipe.load import validate
from steer_cli.recipe.yaml_source import Document
from steer_cli.results import steering_cost

PROMPTS = (PROMPT, "The ship sailed to Rome because")
SHIP = {"plus": " ship", "minus": " ", "layer": [1, 3], "coefficient": -2, "position": "back"}
SAMPLING = {"samples": 3, "max_new_tokens": 10, "top_p": 0.9, "seed": 7}
COUNT = {"any": ["a", "the", "e", "wedding"]}


def recipe(*additions, **more):
    keys = {"prompts": list(PROMPTS), "sampling": SAMPLING, "count": COUNT} | more
    return validate(Document("r.yaml", {"additions": list(additions), **keys}))


def at(base, **values):
    """The recipe with values of its first addition changed."""
    first, *others = base.additions
    return base.model_copy(update={"additions": (first.model_copy(update=values), *others)})


def drawn(completions):
    return [(made.text, made.tokens, made.finish, made.counted) for made in completions]


def logprobs(completions):
    return [made.mean_logprob for made in completions]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("position", ["front", "every", {"at": 2}])
def test_every_point_is_generate_with_its_values(arch, position, tiny_folder):
    model, base = open_model(tiny_folder(arch)), recipe(LOVE | {"position": position}, SHIP)
    scans = steer.scan(model, base, coefficients="-2:4:2", layers="4,1")

    @cache
    def generated(layer, coefficient):
        return steer.generate(model, at(base, layer=layer, coefficient=coefficient))

    assert [scan.prompt for scan in scans] == list(PROMPTS)
    for index, scan in enumerate(scans):
        unsteered, *points = scan.points
        assert (unsteered.arm, unsteered.layer, unsteered.coefficient) == ("unsteered", None, None)
        # With the second addition, a coefficient of 0 is steered too.
        assert [(point.layer, point.coefficient) for point in points] == [*product((1, 4), (-2, 0, 2, 4))]
        for point in points:
            expected = generated(point.layer, point.coefficient)[index]
            assert drawn(point.completions) == drawn(expected.steered)
            assert drawn(point.unsteered) == drawn(expected.unsteered) == drawn(unsteered.completions)
            assert logprobs(point.completions) == pytest.approx(logprobs(expected.steered), abs=1e-4)
            costs = steering_cost([logprobs(expected.unsteered)], [logprobs(expected.steered)])
            assert point.cost.cost == pytest.approx(costs.cost, abs=1e-4)
            assert point.cost.cost_stderr == pytest.approx(costs.cost_stderr, abs=1e-4)


def test_the_default_model_writes_what_generate_does(real_folder):
    model, base = steer.load_model("smollm2-135m"), steer.load_recipe("love-hate")
    base = base.with_sampling(samples=2, max_new_tokens=8)
    [scan] = steer.scan(model, base, coefficients="-2:4:2", layers="2,16")
    assert [point.coefficient for point in scan.points] == [0, -2, 2, 4, -2, 2, 4]
    for point in scan.points[1::2]:  # some at each layer
        [expected] = steer.generate(model, at(base, layer=point.layer, coefficient=point.coefficient))
        assert drawn(point.completions) == drawn(expected.steered)
        assert logprobs(point.completions) == pytest.approx(logprobs(expected.steered), abs=1e-4)


def test_where_nothing_is_added_stands_the_unsteered_row_which_is_decoded_once(tiny_folder):
    model, base = open_model(tiny_folder("llama")), recipe(LOVE)
    with patch.object(measure, "decode", wraps=measure.decode) as decode:
        first, second = steer.scan(model, base, coefficients="-1:1:1")
    [asked] = decode.call_args_list
    assert [len(request.arms) for request in asked.kwargs["requests"]] == [1] * 6
    for scan in (first, second):
        assert [point.coefficient for point in scan.points] == [-1, 0, 1]
        assert [point.arm for point in scan.points] == ["steered", "unsteered", "steered"]
        assert scan.points[1].cost is None
        assert drawn(scan.points[1].completions) == drawn(scan.points[0].unsteered)
    # It belongs to no layer.
    for coefficients, expected in (("0,2", [0, 2, 2]), ("2", [None, 2, 2]), (None, [None, 3, 3])):
        scan = steer.scan(model, base, coefficients, layers="1:3", prompts=[PROMPT])[0]
        assert [point.coefficient for point in scan.points] == expected
        assert [point.layer for point in scan.points] == [None, 1, 2]


@pytest.mark.parametrize("layer", [[1, 3], 2, "40%"])
def test_without_a_range_of_layers_the_recipes_own_stay(layer, tiny_folder):
    [scan] = steer.scan(
        open_model(tiny_folder("gpt2")), recipe(LOVE | {"layer": layer}, prompts=["I am"]), "2"
    )
    [record] = [record for record in scan.records() if record["arm"] == "steered" and record["sample"] == 0]
    assert record["layer"] == (layer if layer != "40%" else 2)


def test_vectors_are_read_in_one_pass(tiny_folder):
    model = open_model(tiny_folder("llama"))
    with patch.object(capture, "visit", wraps=capture.visit) as visit:
        steer.scan(model, recipe(LOVE, SHIP), coefficients="1:4", layers="0:5")
    [call] = visit.call_args_list
    assert sorted(call.args[2]) == [0, 1, 2, 3, 4]


def test_figures_are_means_over_samples(tiny_folder):
    scan = steer.scan(open_model(tiny_folder("gpt2")), recipe(LOVE), coefficients="8", samples=2)[0]
    point = scan.points[1]
    uses = [made.counts["any"] for made in point.completions]
    mean, error = point.counts["any"]
    assert mean == sum(uses) / 2 and error == pytest.approx(abs(uses[0] - uses[1]) / 2)
    single = steer.scan(open_model(tiny_folder("gpt2")), recipe(LOVE), coefficients="8", samples=1)[0]
    assert single.points[1].counts["any"] == (uses[0], None) and single.points[1].cost.cost_stderr is None
    assert drawn(single.points[1].completions) == drawn(point.completions[:1])
    with pytest.raises(FrozenInstanceError):
        point.layer = 3


KEYS = [
    *("recipe", "recipe_sha256", "model", "prompt", "seed", "arm", "layer", "coefficient", "sample"),
    *("text", "tokens", "finish", "mean_logprob", "counts", "cost", "error"),
]


def test_a_record_is_complete_by_itself(tiny_folder):
    scans = steer.scan(open_model(tiny_folder("llama")), recipe(LOVE), coefficients="1e-30,2,0")
    found = json.loads(json.dumps([record for scan in scans for record in scan.records()]))
    assert all(list(record) == KEYS for record in found)
    assert [(record["prompt"], record["coefficient"], record["sample"]) for record in found] == [
        (prompt, *point)
        for prompt in PROMPTS
        for point in [(1e-30, None), *((2, n) for n in range(3)), *((0, n) for n in range(3))]
    ]
    for tiny, *steered, plain0, plain1, plain2 in (found[:7], found[7:]):
        assert "does nothing" in tiny["error"] and tiny["text"] is tiny["cost"] is tiny["counts"] is None
        for plain, record in zip((plain0, plain1, plain2), steered, strict=True):
            assert plain["cost"] == 0 and plain["layer"] is None and plain["error"] is None
            assert record["cost"] == pytest.approx(plain["mean_logprob"] - record["mean_logprob"])


def test_a_point_that_cannot_be_run_leaves_the_others_as_they_are(tiny_folder):
    model, base = open_model(tiny_folder("llama")), recipe(LOVE)
    whole = steer.scan(model, base, coefficients="-2,1e-30,2")
    alone = steer.scan(model, base, coefficients="-2,2")
    for broken, intact in zip(whole, alone, strict=True):
        plain, before, fault, after = broken.points
        assert "does nothing" in fault.error and fault.completions == () and fault.cost is None
        assert fault.counts == {}
        for point, expected in zip((plain, before, after), intact.points, strict=True):
            assert drawn(point.completions) == drawn(expected.completions) and point.error is None
    with pytest.raises(VectorError, match=r"no row could be run: .*does nothing"):
        steer.scan(model, base, coefficients="1e-30")


def test_logits_that_are_not_finite_are_said(tiny_folder):
    model, base = open_model(tiny_folder("llama"), "float16"), recipe(LOVE)
    for scan in steer.scan(model, base, coefficients="-2,1e12,2"):
        faults = [point.error or "" for point in scan.points]
        assert ["finite" in fault for fault in faults] == [False, False, True, False]
        assert [len(point.completions) for point in scan.points] == [3, 3, 0, 3]
    with pytest.raises(VectorError, match=r"no row could be run: .*finite"):
        steer.scan(model, base, coefficients="1e12")


def test_a_layer_at_which_the_vector_is_zero_is_a_point_with_an_error(tiny_folder):
    # At layer 0 a token is what it is, whatever stands before it.
    addition = {"plus": "Love wins", "minus": "Hate wins", "layer": 2, "position": "every"}
    scan = steer.scan(open_model(tiny_folder("llama")), recipe(addition), layers="0,2")[0]
    assert [point.error and "all zeros" in point.error for point in scan.points] == [None, True, None]


def test_progress_ends_where_it_should(tiny_folder):
    model, base = open_model(tiny_folder("llama")), recipe(LOVE)
    for coefficients, rows in (("1,2", 18), ("2,1e-30", 18)):
        told = []
        steer.scan(model, base, coefficients, progress=lambda *now, told=told: told.append(now))
        assert told[-1] == ("decode", rows, rows)


@pytest.mark.parametrize(
    ("ranges", "kind", "said"),
    [
        ({}, SweepError, "nothing to scan"),
        ({"coefficients": "1:2:0"}, SweepError, "the step of 1:2:0 is not above 0"),
        ({"coefficients": "2:1"}, SweepError, "holds no value"),
        ({"coefficients": "nan"}, SweepError, "nan is not a value"),
        ({"layers": "0:6"}, SweepError, "no layer 5; the model has 0 to 4"),
        ({"layers": "0.5"}, SweepError, "is not a value"),
        ({"coefficients": "0", "layers": "1,2"}, PlanError, "every row would be the unsteered one"),
        ({"coefficients": f"1:{MOST_SETTINGS + 1}"}, PlanError, "257 rows, more than the 256"),
        ({"coefficients": "1:100", "layers": "0:3"}, PlanError, "300 rows"),
        ({"coefficients": "1", "prompts": ["I"]}, PlanError, "covers 3 positions"),
    ],
)
def test_what_is_wrong_is_said_at_once(ranges, kind, said, tiny_folder):
    with patch.object(measure, "scan") as run, pytest.raises(kind, match=said):
        steer.scan(open_model(tiny_folder("llama")), recipe(LOVE), **ranges)
    run.assert_not_called()
