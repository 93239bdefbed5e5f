"""A note says where the samples are too few to tell what steering does to counted words."""

import pytest

from steer_cli.measure.too_few import too_few, undecided
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Comparison, Completion


def compared(before, after, **sampling):
    addition = {"plus": "Love", "layer": 1, "coefficient": sampling.pop("coefficient", 1)}
    sampling = {"samples": len(before), **sampling}
    recipe = Recipe(additions=[addition], count={"praise": ["love"]}, sampling=sampling)
    arms = [
        tuple(Completion("", (), "length", {"praise": [(0, 1)] * uses}) for uses in arm)
        for arm in (before, after)
    ]
    return Comparison(recipe, "m", "p", ("p",), (), (), *arms)


@pytest.mark.parametrize(
    "before, after, unclear",
    [
        ([0], [5], True),  # one sample has no error
        ([0, 0, 0], [1, 1, 1], False),
        ([0, 0, 0], [0, 0, 0], True),
        # 2 ± 0.577, and with 2 degrees of freedom the quantile of t is 4.303: 2 < 2.48 < 4.
        ([0, 0, 0], [1, 2, 3], True),
        ([0, 0, 0], [3, 4, 5], False),
        ([0] * 24, [0, 1] * 12, False),
        ([0, 1] * 12, [0, 1] * 12, False),  # enough samples, which show that there is no large difference
    ],
    ids=str,
)
def test_samples_are_too_few_where_the_interval_of_the_difference_holds_0(before, after, unclear):
    assert undecided(compared(before, after)) == (["praise"] if unclear else [])


def test_more_samples_change_nothing_where_nothing_is_drawn_or_added():
    assert undecided(compared([1, 1], [1, 1], temperature=0)) == []
    assert undecided(compared([1, 1], [1, 1], coefficient=0)) == []


def test_the_command_says_it_once_after_all_prompts(command, recipe_file, tiny_folder):
    love = {"plus": "Love", "minus": "Hate", "layer": 1, "coefficient": 1}
    sampling = {"samples": 2, "max_new_tokens": 2}
    count = {"praise": ["lovely"]}
    file = recipe_file(
        tiny_folder("llama"),
        love,
        prompts=["I hate you so", "You hate me so"],
        sampling=sampling,
        count=count,
    )
    code, out, err = command("generate", file)
    said = too_few(["praise"], 2).replace("`samples=64`", "--samples 64")
    assert code == 0 and said in err and err.count("too few") == 1 and "too few" not in out
