"""Whether the samples of a run are enough to tell what steering does to counted words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from steer_cli.measure.bootstrap import SHARE
from steer_cli.measure.student import bound_of
from steer_cli.recipe.quoting import counted
from steer_cli.results import Comparison, compare_arms

ENOUGH = 24  # samples, as many as `steer score` draws; if these show no difference, it is small


def undecided(comparison: Comparison) -> list[str]:
    """The labels whose counts may differ by chance: the interval by Student's t contains 0."""
    recipe = comparison.recipe
    if recipe.sampling.samples >= ENOUGH or recipe.sampling.temperature == 0:  # greedy ones are all alike
        return []
    if all(addition.adds_nothing for addition in recipe.additions):
        return []
    arms = (comparison.unsteered, comparison.steered)
    found = []
    for label in recipe.count:
        before, after = ([[float(completion.counts[label]) for completion in arm]] for arm in arms)
        means = compare_arms(before, after)
        error = means.difference_stderr
        bound = math.inf if error is None else error * bound_of(SHARE, len(before[0]) - 1)
        if abs(means.difference) <= bound:
            found.append(label)
    return found


def too_few(labels: Sequence[str], samples: int) -> str:
    """What to say where so many samples leave labels undecided."""
    are = "is" if samples == 1 else "are"
    return (
        f"{counted(samples, 'sample')} {are} too few to tell what steering does to "
        f"{', '.join(dict.fromkeys(labels))}; draw more, as with `samples=64`"
    )
