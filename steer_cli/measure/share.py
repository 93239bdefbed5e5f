"""Shares with intervals that do not treat unseen outcomes as impossible."""

from __future__ import annotations

import math

import numpy as np

from steer_cli.measure.bootstrap import NORMAL, SEED, TAILS, Draws, blocks
from steer_cli.results import Estimate


def share_of(found: int, items: int) -> Estimate:
    """The share of items with a property, and Wilson's interval for it.

    The bootstrap would say [0, 0] where no item has it, however few there are.
    """
    reach = NORMAL**2 / items
    share = found / items
    middle = (share + reach / 2) / (1 + reach)
    half = math.sqrt(share * (1 - share) * reach + reach**2 / 4) / (1 + reach)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), items)


def mean_share(shares: Draws, least: float = 0.0, most: float = 1.0) -> Estimate:
    """The mean of shares, or of differences of shares (`least` is -1), and an interval that needs no more.

    One completion in 50 that repeats itself without end decides the mean, and most sets of 24 lack it. So
    each end is a quantile of the mean under random weights, with one more draw, which lies at the bound
    (Gaffke 2005, "Three Test Statistics for a Nonparametric One-Sided Hypothesis on the Mean of a Nonnegative
    Variable"; Learned-Miller and Thomas 2019). Of shares that are all 0 or 1 it is Clopper and Pearson's.
    """
    draws = len(shares.sums)
    generator = np.random.Generator(np.random.PCG64(SEED))
    ordered = np.sort(shares.sums / shares.counts)
    both = np.column_stack([[least, *ordered], [*ordered, most]])
    means = [generator.dirichlet(np.ones(draws + 1), rows) @ both for rows in blocks(draws + 1)]
    lower, upper = np.concatenate(means).T
    low, high = np.quantile(lower, TAILS[0]), np.quantile(upper, TAILS[1])
    return Estimate(shares.mean, float(low), float(high), draws)
