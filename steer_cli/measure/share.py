"""A share of items with its interval."""

from __future__ import annotations

import math
from statistics import NormalDist

from steer_cli.measure.bootstrap import TAILS
from steer_cli.results import Estimate


def share_of(found: int, items: int) -> Estimate:
    """The share of items with a property, and Wilson's interval for it.

    The bootstrap would say [0, 0] where no item has it, however few there are.
    """
    reach = NormalDist().inv_cdf(TAILS[1]) ** 2 / items
    share = found / items
    middle = (share + reach / 2) / (1 + reach)
    half = math.sqrt(share * (1 - share) * reach + reach**2 / 4) / (1 + reach)
    return Estimate(share, max(0.0, middle - half), min(1.0, middle + half), items)
