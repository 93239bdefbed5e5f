"""95 % intervals by the bootstrap, for means per token over sentences of unequal length.

A figure is a weighted sum of means, each over a set of independent draws (sentences, items or completions).
A mean is a ratio of two sums over its draws: of the values, and of what they are spread over, such as tokens.
The interval is the studentised one (Efron and Tibshirani 1993, chapter 12.5): the standard error is that of
the linearised ratio, computed anew for each resample. With few sentences of unequal length, the percentile
interval is too narrow; docs/score.md has the share of intervals that hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer_cli.results import Estimate

SHARE = 0.95
RESAMPLES = 4999
SEED = 15  # any number; always the same, so that the same figures have the same interval


@dataclass(frozen=True)
class Draws:
    """Independent draws: the sum of each, and over how many it is spread; both [draws], float64."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: Sequence[float]) -> Draws:
        """Draws that count the same, such as items."""
        found = np.asarray(values, dtype=np.float64)
        return cls(found, np.ones_like(found))

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())

    def less(self, other: Draws) -> Draws:
        """The paired difference, draw by draw; both are spread over the same."""
        if not np.array_equal(self.counts, other.counts):
            raise ValueError("draws of different counts cannot be paired")
        return Draws(self.sums - other.sums, self.counts)


Weighted = tuple[float, Draws]


def estimate(*parts: Weighted) -> Estimate:
    """The weighted sum of the means of some sets, which are drawn independently of each other.

    Each set needs two draws or more.
    """
    value = sum(weight * draws.mean for weight, draws in parts)
    count = sum(len(draws.sums) for _, draws in parts)
    generator = np.random.Generator(np.random.PCG64(SEED))
    resampled, variance, error = np.zeros(RESAMPLES), np.zeros(RESAMPLES), 0.0
    for weight, draws in parts:
        often = _resamples(len(draws.sums), generator)
        means, variances = _means(draws, often)
        [mean], [own] = _means(draws, np.ones((1, len(draws.sums))))
        resampled += weight * (means - mean)
        variance += weight**2 * variances
        error += weight**2 * float(own)
    error = math.sqrt(error)
    # A resample of equal draws has no error of its own; how far off it is, is then unknown, not nothing.
    off = np.divide(resampled, np.sqrt(variance), out=_far(resampled), where=variance > 0)
    low, high = np.quantile(off, [(1 - SHARE) / 2, (1 + SHARE) / 2], method="inverted_cdf")
    # Zero times infinity, where nothing varies, is nothing.
    low, high = (error * bound if error else 0.0 for bound in (low, high))
    return Estimate(float(value), float(value - high), float(value - low), count)


def _far(resampled: np.ndarray) -> np.ndarray:
    return np.where(resampled == 0, 0.0, np.copysign(np.inf, resampled))


def _resamples(size: int, generator: np.random.Generator) -> np.ndarray:
    """How often each resample has each draw: [resamples, draws]."""
    return generator.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float64)


def _means(draws: Draws, often: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each resample and its variance, both [resamples]."""
    sums, counts = often @ draws.sums, often @ draws.counts
    means = sums / counts
    size = len(draws.sums)
    squares = (often @ (side * other) for side, other in _pairs(draws))
    values, both, spread = squares
    off = np.maximum(values - 2 * means * both + means**2 * spread, 0)
    return means, size / (size - 1) * off / counts**2


def _pairs(draws: Draws) -> Sequence[tuple[np.ndarray, np.ndarray]]:
    return ((draws.sums, draws.sums), (draws.sums, draws.counts), (draws.counts, draws.counts))
