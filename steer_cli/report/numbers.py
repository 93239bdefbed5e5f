"""Numbers as a person reads them: few digits, no exponents where a plain number will do."""

from __future__ import annotations

import math


def short(value: float) -> str:
    """A number with two or three digits that count: 0, <0.01, 0.04, 1.7, 140, 20,560."""
    size = abs(value)
    if not size < 1e9:
        return _power(value, 2)
    if size >= 10:
        return f"{value:,.0f}"
    if size >= 0.095:
        return f"{value:.1f}"
    if size < 0.005:
        return "0" if size == 0 else "<0.01"
    return f"{value:.2f}"


def plain(value: float) -> str:
    """A number that somebody wrote, such as a coefficient: all of its digits up to six."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,g}"
    return f"{value:,.0f}" if 1e6 <= abs(value) < 1e9 else _power(value, 3)


def exact(value: float) -> str:
    """A measured number with four digits that count."""
    if value == 0 or 1e-4 <= abs(value) < 999.95:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 999.95 <= abs(value) < 1e9 else _power(value, 3)


def _power(value: float, digits: int) -> str:
    """A number too large or too small for digits, such as 2.5×10^12, with up to `digits` after the point."""
    if not math.isfinite(value):
        return str(value)
    head, exponent = f"{value:.{digits}e}".split("e")
    return f"{head.rstrip('0').rstrip('.')}×10^{int(exponent)}"
