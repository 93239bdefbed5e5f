"""Numbers as a person reads them: few digits, no exponents where a plain number will do."""

from __future__ import annotations


def short(value: float) -> str:
    """A number with two or three digits that count: 0, 0.04, 1.7, 140, 20,560."""
    size = abs(value)
    if not size < 1e9:  # infinite, or not a number, too
        return f"{value:.3g}"
    if size >= 10:
        return f"{value:,.0f}"
    if size >= 0.095:
        return f"{value:.1f}"
    return "0" if size < 0.005 else f"{value:.2f}"


def plain(value: float) -> str:
    """A number that somebody wrote, such as a coefficient: all of its digits up to six."""
    return f"{value:,g}" if 1e-4 <= abs(value) < 1e6 else f"{value:g}"


def exact(value: float) -> str:
    """A measured number with four digits that count."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
