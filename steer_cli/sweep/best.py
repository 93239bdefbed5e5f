"""`min weddings where shipping <= 1.02` -> the winning point.

A name is a corpus (its perplexity ratio), `corpus/label`, a counted label (its mean in steered
completions), or kl, effect, damage, cost. This module does not know how the figures were computed.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steer_cli.errors import SweepError
from steer_cli.results import CHEAP, COSTLY, figure_name, reads_like, standard_error

Record = dict[str, Any]

COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}
_NAME = r"[^\s<>=]+"
_WHOLE = re.compile(rf"\s*(min|max)\s+({_NAME})(?:\s+where\s+(.+))?", re.IGNORECASE | re.DOTALL)
_BOUND = re.compile(rf"\s*({_NAME})\s*(<=|>=|==|<|>)\s*([-+.\w]+)\s*")


@dataclass(frozen=True)
class Wish:
    """What is looked for: the smallest or largest value of `name` among points that keep all bounds."""

    text: str
    largest: bool
    name: str
    bounds: tuple[tuple[str, str, float], ...] = ()


def parse_wish(text: str) -> Wish:
    """The option's text.

    Raises:
        SweepError: it is not of the form.
    """
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise SweepError(f'--best {text}: write "min NAME where NAME <= NUMBER and ..."')
    bounds = []
    for part in re.split(r"\s+and\s+", found[3], flags=re.IGNORECASE) if found[3] else ():
        bound = _BOUND.fullmatch(part)
        try:
            bounds.append((bound[1], bound[2], _number(bound[3])))
        except (TypeError, ValueError):
            raise SweepError(
                f"--best {text}: {part.strip()!r} is no condition; write NAME <= NUMBER"
            ) from None
    return Wish(text, found[1].lower() == "max", found[2], tuple(bounds))


def _number(text: str) -> float:
    if math.isnan(number := float(text)):
        raise ValueError  # nothing compares to it
    return number


def values(record: Record) -> dict[str, float]:
    """Everything that a wish may name, for one point."""
    named: dict[str, float] = {}
    for figure in record.get("perplexity", ()):
        named[figure_name(figure["corpus"], figure["label"])] = figure["ratio"]
    for key in ("kl", "effect", "damage"):
        if figures := [each[key] for each in record.get("kl", ()) if key in each]:
            named[key] = sum(figures) / len(figures)
    for label, means in record.get("counts", {}).items():
        named[label] = means["steered"]
    if "logprob" in record:
        named["cost"] = record["logprob"]["cost"]
    return named


def errors(record: Record) -> dict[str, float]:
    """Standard errors of the same names, where a figure is made of several draws."""
    named = {
        figure_name(figure["corpus"], figure["label"]): figure["stderr"]
        for figure in record.get("perplexity", ())
    }
    for key in ("kl", "effect", "damage"):
        named[key] = standard_error([each[key] for each in record.get("kl", ()) if key in each])
    named |= {label: means.get("steered_stderr") for label, means in record.get("counts", {}).items()}
    if "logprob" in record:
        named["cost"] = record["logprob"]["cost_stderr"]
    return {name: error for name, error in named.items() if error is not None}


def check_names(wish: Wish, known: Sequence[str]) -> None:
    """Raises SweepError where the wish names what is not measured."""
    for name in (wish.name, *(bound[0] for bound in wish.bounds)):
        if name not in known:
            raise SweepError(f"--best {wish.text}: {name} is not measured; there is {', '.join(known)}")


def best(wish: Wish, records: Sequence[Record]) -> int | None:
    """The number of the winning record, the first of equals; None where no point keeps the bounds."""
    kept = []
    for number, record in enumerate(records):
        named = values(record)
        if all(COMPARE[sign](named[name], limit) for name, sign, limit in wish.bounds):
            kept.append((named[wish.name] * (-1 if wish.largest else 1), number))
    return min(kept)[1] if kept else None


def costly(wish: Wish, record: Record) -> str | None:
    """A note where the winner's texts are bought dearly and the wish says nothing of cost."""
    cost = values(record).get("cost")
    if cost is None or cost < COSTLY or "cost" in (wish.name, *(bound[0] for bound in wish.bounds)):
        return None
    bounded = f"{wish.text} {'and' if wish.bounds else 'where'} cost < {CHEAP:g}"
    return f'the winner costs {cost:.2f} nats per token ({reads_like(cost)}); try --best "{bounded}"'
