"""Completions are seen as they grow, and seeing them changes nothing."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from unittest.mock import patch

import pytest
from conftest import ARCHITECTURES
from tiny import LOVE, PROMPT, open_model, recipe_of, steer

from steer_cli.api.questions import generate
from steer_cli.decoding.engine import decode
from steer_cli.measure import completions as completing
from steer_cli.measure.partials import Partials
from steer_cli.planning.plan import plan_recipe
from steer_cli.planning.tokens import open_tokenizer
from steer_cli.recipe.sampling import Sampling
from steer_cli.run_plan import complete

SAMPLING = {"max_new_tokens": 14, "samples": 3, "top_p": 0.95, "seed": 4}
PROMPTS = [PROMPT, "I hate you because you are late and", "The wedding of my friend"]


@dataclass(frozen=True)
class Run:
    """Comparisons, and what was seen before each of them was there."""

    comparisons: tuple
    seen: tuple[list, ...]


def run(folder, *, watch=True, batch_rows=None, control=None, additions=(LOVE,), prompts=PROMPTS, **sampling):
    model, partials, comparisons, seen = open_model(folder), [], [], []
    recipe = recipe_of(*additions, sampling={**SAMPLING, **sampling}).with_prompts(list(prompts))
    plan = plan_recipe(recipe, model.facts("auto"), recipe.sampling.max_new_tokens)
    watcher = partials.append if watch else None
    for comparison in complete(model, plan, control, batch_rows, score=False, watch=watcher):
        comparisons.append(comparison)
        seen.append([*partials])
        partials.clear()
    assert not partials
    return Run(tuple(comparisons), tuple(seen))


def grows_into_the_completions(watched):
    """How many partials were seen, after all of them were found to be right."""
    for number, (comparison, seen) in enumerate(zip(watched.comparisons, watched.seen, strict=True)):
        assert {partial.number for partial in seen} <= {number}
        assert {partial.prompt for partial in seen} <= {comparison.prompt}
        assert all(first != second for first, second in pairwise(seen))
        for name, arm in comparison.columns.items():
            texts = [partial.columns[name] for partial in seen]
            assert all(after.startswith(before) for before, after in pairwise(texts))
            assert not texts or texts[-1] == arm[0].text
    return sum(map(len, watched.seen))


# How rows enter and leave a batch depends on whether transformers runs the network, and on no more of it.
@pytest.mark.parametrize(
    ("arch", "batch_rows"),
    [*((arch, None) for arch in ARCHITECTURES), *product(["gpt2", "llama", "gemma3_adapted"], [2, 8])],
)
def test_every_arm_grows_into_its_first_completion(arch, batch_rows, tiny_folder):
    watched = run(tiny_folder(arch), batch_rows=batch_rows)
    assert grows_into_the_completions(watched) > 5
    assert watched.seen[0]
    assert all(watched.seen) or batch_rows != 2  # one prompt at a time


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma3_adapted"])
@pytest.mark.parametrize("batch_rows", [None, 2])
def test_the_shape_that_a_gpu_needs_shows_the_same(arch, batch_rows, tiny_folder):
    fixed = partial(decode, fixed=True)
    with patch.object(completing, "decode", fixed):
        found = run(tiny_folder(arch), batch_rows=batch_rows)
    assert grows_into_the_completions(found) > 5
    assert found == run(tiny_folder(arch), batch_rows=batch_rows)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.5])
def test_samples_that_draw_the_same_at_first_are_told_apart(temperature, tiny_folder):
    watched = run(tiny_folder("llama"), temperature=temperature, samples=6, max_new_tokens=30)
    assert grows_into_the_completions(watched)


@pytest.mark.parametrize("batch_rows", [None, 2, 3])
@pytest.mark.parametrize("control", ["random", "prompt"])
def test_a_control_is_the_third_column(control, batch_rows, tiny_folder):
    watched = run(tiny_folder("llama"), control=control, batch_rows=batch_rows)
    assert grows_into_the_completions(watched)
    name = {"random": "control: random", "prompt": "control: prompt 'Love'"}[control]
    assert [*watched.seen[0][0].columns] == ["unsteered", "steered", name]
    assert watched.seen[0][-1].columns[name]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("position", ["front", "every"])
def test_watching_changes_no_token(arch, position, tiny_folder):
    case = {"additions": [{**LOVE, "position": position}], "batch_rows": 8}
    assert (
        run(tiny_folder(arch), **case).comparisons == run(tiny_folder(arch), watch=False, **case).comparisons
    )


def test_each_token_is_seen_in_the_step_that_drew_it_before_the_next_pass(tiny_folder):
    one, seen, passes = steer(tiny_folder("llama"), LOVE), [], []

    def watch(groups):
        seen.append([len(ids) for group in groups for ids in group.first_by_arm()])
        passes.append(one.network.next_logits.call_count)

    sampling = Sampling(max_new_tokens=6, samples=2)
    with patch.object(one.network, "next_logits", wraps=one.network.next_logits):
        list(decode(one.network, [one.request], sampling, (), len(one.prompt), watch=watch))
        assert seen == [[count, count] for count in range(1, 7)]
        assert [after - before for before, after in pairwise(passes)] == [1] * 5


def test_nothing_is_kept_where_nobody_watches(tiny_folder):
    one = steer(tiny_folder("llama"), LOVE)
    with patch("steer_cli.decoding.batch.Batch._keep_first", side_effect=AssertionError):
        one.rows(2, max_new_tokens=3)


def test_the_library_tells_its_watcher(tiny_folder):
    seen = []
    recipe = recipe_of(LOVE, sampling=SAMPLING)
    (comparison,) = generate(open_model(tiny_folder("gpt2")), recipe, samples=1, watch=seen.append)
    assert seen[-1].columns == {
        "unsteered": comparison.unsteered[0].text,
        "steered": comparison.steered[0].text,
    }


def test_an_error_of_the_watcher_is_the_callers(tiny_folder):
    def fail(_):
        raise LookupError("of the watcher")

    recipe = recipe_of(LOVE, sampling=SAMPLING)
    with pytest.raises(LookupError, match="of the watcher"):
        generate(open_model(tiny_folder("gpt2")), recipe, watch=fail)


class Drawn:
    """A request under way whose arms have drawn what it is told."""

    def __init__(self, *arms):
        self._arms = arms

    def first_by_arm(self):
        return self._arms


@pytest.mark.parametrize("text", ["a 😀 of 日本 é", "👩‍👩‍👧 and 🏳️‍🌈", "naïve — “quotes” …"])
def test_a_character_split_over_tokens_is_shown_when_it_is_whole(text, tiny_folder):
    model, seen = open_model(tiny_folder("gpt2")), []
    ids = open_tokenizer(tiny_folder("gpt2")).encode(text)
    assert len(ids) > len(text.encode()) // 2  # the tiny tokenizer knows none of these
    recipe = recipe_of(LOVE, sampling={"max_new_tokens": len(ids), "samples": 1})
    plan = plan_recipe(recipe, model.facts("auto"), len(ids))
    partials = Partials(plan, None, 1, seen.append)
    for count in range(1, len(ids) + 1):
        partials([Drawn(ids[:count], ())])
    texts = [partial.columns["unsteered"] for partial in seen]
    assert texts[-1] == text
    assert all("\ufffd" not in shown and text.startswith(shown) for shown in texts)
    assert len(texts) == len(set(texts)) > 5
