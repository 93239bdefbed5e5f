"""Means of two arms and of their difference, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev

from steer_cli.results.json_values import Record

Values = Sequence[Sequence[float]]  # for each prompt, one value per sample


def standard_error(values: Sequence[float]) -> float | None:
    """The standard error of the mean of independent draws; None for a single draw."""
    return None if len(values) < 2 else stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class ArmMeans:
    """Mean of a figure in each arm and of the paired difference; errors are None for a single draw."""

    unsteered: float
    steered: float
    difference: float
    unsteered_stderr: float | None
    steered_stderr: float | None
    difference_stderr: float | None

    def record(self) -> Record:
        return asdict(self)


def compare_arms(unsteered: Values, steered: Values) -> ArmMeans:
    """Means over the completions of two arms, their difference, and standard errors.

    Sample i of every prompt uses the same random numbers in both arms. The draws are therefore the means over
    prompts, one per sample: the errors apply to these prompts only, and that of the difference is paired.
    With one sample per prompt, the prompts themselves are the draws.
    """
    before, after = _draws(unsteered), _draws(steered)
    differences = [late - early for early, late in zip(before, after, strict=True)]
    arms = (before, after, differences)
    return ArmMeans(*map(fmean, arms), *map(standard_error, arms))


def _draws(values: Values) -> list[float]:
    """One mean over the prompts per sample; with a single sample, one value per prompt."""
    by_sample = list(zip(*values, strict=True))
    return [fmean(sample) for sample in by_sample] if len(by_sample) > 1 else list(by_sample[0])
