"""Draw the plot of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.report.plots import COLOURS, draw_panels, plain_label
from steer_cli.results import Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(found: Tuning, path: Path) -> None:
    """Plot the best effect within the budget, and its damage, over layers: a line for each position.

    Bars are standard errors.
    """
    trials = [trial for trial in found.searched.places if trial.figures.finite]
    positions = list(dict.fromkeys(trial.place.position for trial in trials))

    def draw(axes: Sequence[Axes]) -> None:
        for panel, name in zip(axes, ("effect", "damage"), strict=True):
            for index, position in enumerate(positions):
                line = [trial for trial in trials if trial.place.position == position]
                xs = [trial.place.layer for trial in line]
                ys = [getattr(trial.figures, name) for trial in line]
                errors = [getattr(trial.figures, f"{name}_stderr") or 0.0 for trial in line]
                colour = COLOURS[index % len(COLOURS)]
                panel.errorbar(xs, ys, errors, color=colour, marker=".", linewidth=1, label=str(position))
            if found.chosen is not None:
                chosen = getattr(found.chosen.figures, name)
                panel.plot(
                    [found.chosen.place.layer], [chosen], "o", mfc="none", color="#333333", label="chosen"
                )
            panel.axhline(0, color="#999999", linewidth=0.8)
            panel.set_xlabel("layer")
            panel.set_ylabel(name)
        axes[1].axhline(found.searched.budget, color="#999999", linestyle="--", label="budget")
        axes[1].legend(frameon=False, fontsize="small")
        axes[0].set_title(plain_label(found.recipe.name), fontsize="small")

    draw_panels(path, 2, draw)
