"""What the figures of a card allow to be said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steer_cli.results.estimate import Estimate

UNITS = {
    "sentences": "nats per token",
    "choices": "nats of log-odds per multiple of the coefficient",
    "count": "words per completion",
}
# Nats per token that neutral text loses: from the first, steering harms it, from the second it ruins it.
HARMS, RUINS = 0.1, 0.5
# Where a loss may be 0, and may not be as large as this, there is none to speak of.
SLIGHT = 0.02


@dataclass(frozen=True)
class Verdict:
    """Whether steering works: 1 if it steers as asked, -1 the other way, 0 if it does not.

    `chance` is how far from 0 random vectors of the same length may well come; `reason` says why it does not
    steer.
    """

    direction: int
    chance: float
    reason: str = ""


def sentence(kind: str, verdict: Verdict, effect: Estimate, damage: Estimate | None) -> str:
    """A verdict as a sentence that a careful reader would sign."""
    does = {1: "steers", 0: "does not steer", -1: "steers the other way"}[verdict.direction]
    because = f" ({verdict.reason})" if verdict.reason else ""
    found = f"effect {interval(effect)} {UNITS[kind]}"
    random = f"random vectors within ±{number(verdict.chance, effect)}"
    cost = "" if damage is None else f"; {costs(damage)}"
    return f"{does}{because}: {found}, {random}{cost}"


def costs(damage: Estimate) -> str:
    """What neutral text loses, in words and per cent of perplexity."""
    shown = f"{_percent(damage.value)} % [{_percent(damage.low)}, {_percent(damage.high)}]"
    if damage.below_zero:
        return f"neutral text becomes likelier ({shown} of perplexity)"
    if not damage.above_zero and damage.high >= HARMS:
        return f"costs an unknown amount on neutral text ({shown} of perplexity)"
    if not damage.above_zero and damage.high >= SLIGHT:
        return f"may cost up to {_percent(damage.high)} % on neutral text ({shown} of perplexity)"
    if not damage.above_zero:
        return f"costs nothing that could be measured on neutral text ({shown} of perplexity)"
    verb = "ruins" if damage.value >= RUINS else "harms" if damage.value >= HARMS else ""
    return f"{verb} neutral text ({shown} of perplexity)" if verb else f"costs {shown} on neutral text"


def _percent(nats: float) -> str:
    if nats > 7:  # a thousandfold
        return "over 100,000"
    share = 100 * math.expm1(nats)
    text = f"{share:.0f}" if abs(share) >= 9.5 else f"{share:.1f}"
    return "0.0" if text == "-0.0" else text


def interval(estimate: Estimate) -> str:
    """A figure and its interval, with as many decimals as the interval's width allows."""
    low, high = (number(bound, estimate) for bound in (estimate.low, estimate.high))
    return f"{number(estimate.value, estimate)} [{low}, {high}]"


def number(value: float, beside: Estimate) -> str:
    """A number with the decimals of an estimate that it stands beside."""
    width = beside.high - beside.low
    decimals = 3 if width < 0.02 else 2 if width < 2 else 1
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if not float(text) else text
