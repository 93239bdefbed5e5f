"""Draw the screen of a search: what each place can do within the budget, and what was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from steer_cli.recipe.quoting import counted
from steer_cli.report.card import card_parts
from steer_cli.report.measures import plain_table
from steer_cli.report.numbers import plain
from steer_cli.report.printable import visible
from steer_cli.results import Card, Figures, Trial, Tuning
from steer_cli.results.verdict import UNITS

UNITS_OF_EFFECT = UNITS | {"choices": "nats of log-odds"}


def tuning_parts(found: Tuning, recipe: str, width: int) -> Iterator[RenderableType]:
    """All of it: the places, the frontier, the verdict with its card, and the recipe.

    Args:
        recipe: the tuned recipe as a file would hold it; empty where none is printed.
    """
    yield Text(f"\n  {_read(found)}", style="dim")
    yield _table(found, found.searched.places)
    yield Text(f"  {_legend(found)}", style="dim")
    if found.searched.frontier:
        yield Text("\nfrontier: the largest effect for its damage, on all that the search read", style="bold")
        yield _table(found, found.searched.frontier)
    yield from _passed_over(found)
    if not found.steers:
        verdict, colon, rest = found.says.partition(":")
        yield Text.assemble("\n", (verdict, "bold"), colon + rest)
        yield from _nearest_miss(found)
    if found.card is not None:
        other = "completions that were" if found.kind == "count" else "the half of the evidence that was"
        yield Text(f"\nthe card, on {other} not searched", style="bold")
        yield from _beyond_budget(found.card, found.searched.budget)
        yield from card_parts(found.card, width)
    if recipe:
        yield Text(f"\n{visible(recipe)}")


def _nearest_miss(found: Tuning) -> Iterator[RenderableType]:
    if not found.fault:
        miss = found.searched.nearest_miss
        yield Text(
            f"  nearest miss: {_one(miss) if miss else 'none: no trial over the budget clearly steers'}"
        )


def _beyond_budget(card: Card, budget: float) -> Iterator[RenderableType]:
    """That the card finds more damage than was allowed, as may happen by chance."""
    if card.damage is not None and card.exceeds(budget):
        yield Text(
            f"  beyond the budget of {budget:g}: neutral text loses {card.damage.value:.3g} nats per token "
            "on this half; search with a smaller budget to be on the safe side",
            style="yellow",
        )


def _read(found: Tuning) -> str:
    trials = found.searched.trials
    sets = " and ".join(f"{count} {name}" for name, count in found.read.items())
    places = counted(len({trial.place for trial in trials}), "place")
    return f"searched {places} in {counted(len(trials), 'trial')}, on one half of the evidence ({sets})" + (
        "" if found.card is None else "; the card is of the other half"
    )


def _table(found: Tuning, trials: Sequence[Trial]) -> RenderableType:
    coefficient = "relative" if found.relative else "coefficient"
    table = plain_table("layer", "position", coefficient, "effect", "damage", "read")
    for trial in trials:
        figures = trial.figures
        beyond = not found.searched.fits(trial)
        table.add_row(
            str(trial.place.layer),
            str(trial.place.position),
            plain(trial.coefficient),
            _with_error(figures.effect, figures.effect_stderr) if figures.finite else "–",
            Text(
                _damage(figures) + ("!" if beyond else " "),
                style="red" if beyond else "",
            ),
            f"{100 * trial.share:.0f} %",
            style="bold" if trial == found.chosen else "",
        )
    return table


def _damage(figures: Figures) -> str:
    return _with_error(figures.damage, figures.damage_stderr) if figures.finite else "overflow"


def _with_error(value: float, error: float | None) -> str:
    shown = f"{round(value, 3) + 0.0:.3f}"
    return shown if error is None else f"{shown} ±{error:.3f}"


def _legend(found: Tuning) -> str:
    overflows = any(not trial.figures.finite for trial in found.searched.places)
    return (
        f"effect in {UNITS_OF_EFFECT[found.kind]}, damage in nats per token, ± a standard error; ! beyond "
        f"the budget of {found.searched.budget:g}; read: the share of the evidence, as unpromising places "
        "are dropped early"
        + ("; overflow: logits are not finite" if overflows else "")
        + ("; bold: chosen" if found.chosen else "")
    )


def _passed_over(found: Tuning) -> Iterator[RenderableType]:
    for trial, cost in found.odd:
        why = (
            f"its completions cost {cost:.2f} nats per token, more than {found.oddness:g}"
            if math.isfinite(cost)
            else "the logits of its completions are not finite"
        )
        yield Text(f"  passed over: {_one(trial)}, as {why}")


def _one(trial: Trial) -> str:
    figures = trial.figures
    return (
        f"layer {trial.place.layer}, {trial.place.position}, {plain(trial.coefficient)}: effect "
        f"{_with_error(figures.effect, figures.effect_stderr)}, damage "
        f"{_with_error(figures.damage, figures.damage_stderr)}"
    )
