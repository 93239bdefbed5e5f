"""Quantiles of Student's t distribution."""

from __future__ import annotations

import math


def within(bound: float, degrees: int) -> float:
    """P(|t| < bound) with so many degrees of freedom (Abramowitz and Stegun 1972, 26.7.3 and 26.7.4)."""
    angle = math.atan(bound / math.sqrt(degrees))
    cosine = math.cos(angle) ** 2
    term, total = (math.sin(angle) * math.cos(angle), 0.0) if degrees % 2 else (math.sin(angle), 0.0)
    for step in range(degrees % 2, degrees - 1, 2):
        total += term
        term *= cosine * (step + 1) / (step + 2)
    return 2 / math.pi * (angle + total) if degrees % 2 else total


def bound_of(share: float, degrees: int) -> float:
    """The bound that |t| stays under with this probability."""
    low, high = 0.0, 1.0
    while within(high, degrees) < share:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, degrees) < share else (low, middle)
    return high
