"""95 % intervals by the bootstrap, for means per token over sentences of unequal length.

A figure is a weighted sum of means, each over a set of independent draws (sentences, items or completions).
A mean is a ratio of two sums over its draws: of the values, and of what they are spread over, such as tokens.
The interval is the studentised one (Efron and Tibshirani 1993, chapter 12.5): the standard error is that of
the linearised ratio, computed anew for each resample. The error of the figure itself is wider: it
corrects for each draw's leverage on the mean. And no end is nearer than that of the normal interval, as few
draws may look skewed by chance. docs/score.md has the share of intervals that cover the true value, which
tests/intervals.py measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from steer_cli.measure.student import bound_of
from steer_cli.results import Estimate

SHARE = 0.95
TAILS = ((1 - SHARE) / 2, (1 + SHARE) / 2)
NORMAL = NormalDist().inv_cdf(TAILS[1])
RESAMPLES = 4999
HELD = 4_000_000  # draws of resamples held at once
SAME = TAILS[0] / 4  # share of resamples of equal draws from which the studentised interval is not used
ROUNDING = 1e-9  # of the figure's error
NEARLY = 1e-3  # of the figure's variance: draws of a resample with less are as good as equal
SEED = 15  # any number; always the same, so that the same figures have the same interval


@dataclass(frozen=True)
class Draws:
    """Independent draws: the sum of each, and over how many it is spread; both [draws], float64."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Draws:
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
        means, variances = _resampled(draws, generator)
        resampled += weight * (means - draws.mean)
        variance += weight**2 * variances
        error += weight**2 * _variance(draws)
    error = math.sqrt(error)
    if error == 0:
        return Estimate(float(value), float(value), float(value), count)
    resampled[np.abs(resampled) < ROUNDING * error] = 0
    # Not 0: equal draws differ by rounding, and a figure divided by next to nothing would lie anywhere.
    same = variance <= NEARLY * error**2
    if same.mean() > SAME:
        low, high = _accelerated(parts, resampled)
        return Estimate(float(value), float(value + low), float(value + high), count)
    # A resample of equal draws has no error of its own: how far off it is, is unknown.
    far = np.copysign(np.inf, resampled)
    off = np.divide(resampled, np.sqrt(variance), out=far, where=~same)
    low, high = np.quantile(off, TAILS, method="inverted_cdf")
    low, high = min(low, -NORMAL), max(high, NORMAL)
    return Estimate(float(value), float(value - high * error), float(value - low * error), count)


def _variance(draws: Draws) -> float:
    """The variance of the mean, a little too large rather than too small with few draws.

    A draw is as far from the others' mean as from all draws' mean, divided by 1 - its share of the tokens
    (HC3 of MacKinnon and White 1985, for a line through 0). Long sentences have a large share.
    """
    off = draws.sums - draws.mean * draws.counts
    return float(np.square(off / (draws.counts.sum() - draws.counts)).sum())


def _accelerated(parts: Sequence[Weighted], resampled: np.ndarray) -> np.ndarray:
    """The ends of the accelerated interval (the same, chapter 14.3), relative to the value.

    It is for draws most of which are the same, such as counts of a rare word, where many resamples have no
    error. It is expanded for small numbers of draws (Hesterberg 2015, "What Teachers Should Know about the
    Bootstrap").
    """
    draws = min(len(part.sums) for _, part in parts)
    normal = NormalDist()
    # The influence of each draw stands for the jackknife.
    influence = np.concatenate(
        [weight * (part.sums - part.mean * part.counts) / part.counts.sum() for weight, part in parts]
    )
    skew = float((influence**3).sum()) / (6 * float((influence**2).sum()) ** 1.5)
    below = float(((resampled < 0).mean() + (resampled <= 0).mean()) / 2)
    bias = normal.inv_cdf(min(max(below, 1e-3), 1 - 1e-3))
    reach = bound_of(SHARE, draws - 1) * math.sqrt(draws / (draws - 1))
    ends = [bias + (bias + end) / (1 - skew * (bias + end)) for end in (-reach, reach)]
    return np.quantile(resampled, [normal.cdf(end) for end in ends])


def blocks(size: int) -> Iterator[int]:
    """How many resamples of so many draws to hold at once, until all are done."""
    most = max(1, HELD // size)
    for first in range(0, RESAMPLES, most):
        yield min(most, RESAMPLES - first)


def _resampled(draws: Draws, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Means of resamples and their variances, both [resamples]; few resamples are held at once."""
    size = len(draws.sums)
    found = []
    for rows in blocks(size):
        drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        # How often each resample has each draw: [rows, draws].
        often = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)
        found.append(_means(draws, often))
    means, variances = zip(*found, strict=True)
    return np.concatenate(means), np.concatenate(variances)


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
