"""Draw plots: curves over layers and coefficients, heat maps of two axes, shifts, norms.

matplotlib is an extra; only this module imports it, when a plot is requested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_cli.errors import PlotError
from steer_cli.report.printable import cell
from steer_cli.results import (
    AXES,
    Card,
    Estimate,
    Norms,
    Shift,
    SweepPoint,
    axis_name,
    axis_number,
    axis_values,
)
from steer_cli.results.verdict import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#333333",
)  # distinguishable with colour blindness
LABELLED = 12  # tokens of a shift that get a label


def draw_panels(path: Path, panels: int, draw: Callable[[Sequence[Axes]], None], width: float = 5.6) -> None:
    """Draw panels beside each other, each `width` inches wide, into a new file.

    Raises:
        PlotError: the file cannot be written.
    """
    # Without pyplot, which would need a window system and keep figures open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    draw(axes)
    try:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise PlotError(f"plot {path}: {error.strerror or error}", parameter="plot") from None


def plain_label(text: str) -> str:
    """Escape dollar signs, which would begin a formula."""
    return text.replace("$", r"\$")


def check_axes(varying: Sequence[str], path: Path) -> None:
    """Raise PlotError if more axes vary than a plot has."""
    if len(varying) > 2:
        raise PlotError(
            f"plot {path}: {', '.join(varying)} vary, but a plot has only two axes; sweep fewer",
            parameter="plot",
        )


def sweep(points: Sequence[SweepPoint], path: Path) -> None:
    """Plot one varying axis as a line per figure, two as heat maps, or as curves if one has few values.

    Raises:
        PlotError: more axes vary than a plot has, or the file cannot be written.
    """
    varying = [axis for axis in AXES if len(axis_values(points, axis)) > 1] or ["layer"]
    check_axes(varying, path)
    ratios = {figure.name for figure in points[0].perplexity}
    names = list(points[0].values())
    by_kind = ([name for name in names if name in ratios], [name for name in names if name not in ratios])
    groups = [group for group in by_kind if group]
    if len(varying) == 1:
        draw_panels(path, len(groups), lambda axes: _curves(axes, groups, points, varying[0], ratios))
    elif min(len(axis_values(points, axis)) for axis in varying) <= 3:
        few, many = sorted(varying, key=lambda axis: len(axis_values(points, axis)))
        draw_panels(path, len(groups), lambda axes: _curves(axes, groups, points, many, ratios, few))
    else:
        draw_panels(path, len(names), lambda axes: _heat_maps(axes, names, points, varying, ratios), 4.6)


def _curves(axes, groups, points, across: str, ratios: set[str], split: str | None = None) -> None:
    lines = _split(points, split)
    for panel, names in zip(axes, groups, strict=True):
        for index, name in enumerate(names):
            for style, (value, line) in zip(("-", "--", ":"), lines, strict=False):
                label = name if split is None else f"{name}, {axis_name(points, split)} {_tick(value)}"
                xs = [axis_number(getattr(point.coordinates, across)) for point in line]
                xs = xs if all(isinstance(x, int | float) for x in xs) else [_tick(x) for x in xs]
                colour = COLOURS[index % len(COLOURS)]
                ys = [point.values()[name] for point in line]
                spread = [point.errors().get(name, 0) for point in line]
                panel.plot(xs, ys, style, color=colour, label=plain_label(label), marker=".")
                low, high = ([y + sign * e for y, e in zip(ys, spread, strict=True)] for sign in (-1, 1))
                panel.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        if set(names) <= ratios:
            panel.axhline(1, color="#999999", linewidth=0.8)
        panel.set_xlabel(axis_name(points, across))
        panel.set_ylabel("perplexity, steered / unsteered" if set(names) <= ratios else "")
        panel.legend(frameon=False, fontsize="small")


def _split(points: Sequence[SweepPoint], axis: str | None) -> list[tuple[Any, list[SweepPoint]]]:
    """The points of each value of an axis; without an axis, all of them under None."""
    if axis is None:
        return [(None, list(points))]
    return [
        (value, [point for point in points if getattr(point.coordinates, axis) == value])
        for value in axis_values(points, axis)
    ]


def _tick(value: Any) -> str:
    value = axis_number(value)
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _heat_maps(axes, names, points, varying, ratios: set[str]) -> None:
    from math import log

    rows, columns = (axis_values(points, axis) for axis in varying)
    figures = {
        tuple(getattr(point.coordinates, axis) for axis in varying): point.values() for point in points
    }
    for panel, name in zip(axes, names, strict=True):
        table = [[figures[row, column][name] for column in columns] for row in rows]
        if name in ratios:
            # Equal factors up and down are equally bright; 1 is white.
            shown = [[log(value) for value in line] for line in table]
            most = max(abs(value) for line in shown for value in line) or 1
            image = panel.imshow(shown, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", origin="lower")
        else:
            image = panel.imshow(table, cmap="viridis", aspect="auto", origin="lower")
        panel.figure.colorbar(image, label="ln ratio" if name in ratios else name)
        panel.set_title(plain_label(name))
        for set_ticks, values in ((panel.set_yticks, rows), (panel.set_xticks, columns)):
            step = -(-len(values) // 10)
            set_ticks(range(0, len(values), step), [_tick(value) for value in values[::step]])
        panel.set_ylabel(axis_name(points, varying[0]))
        panel.set_xlabel(axis_name(points, varying[1]))


def shift(found: Sequence[Shift], path: Path) -> None:
    """Plot each token's ratio against its unsteered probability, both logarithmic, with a line at ratio 1."""

    from matplotlib.ticker import NullFormatter

    def draw(axes: Sequence[Axes]) -> None:
        for panel, shift in zip(axes, found, strict=True):
            tokens = [token for token in shift.tokens if token.p_unsteered > 0 and token.ratio > 0]
            up = [token.ratio > 1 for token in tokens]
            colours = [COLOURS[2] if rises else COLOURS[1] for rises in up]
            panel.scatter([t.p_unsteered for t in tokens], [t.ratio for t in tokens], c=colours, s=18)
            panel.set_xscale("log")
            panel.set_yscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())  # between powers of ten they overlap
            panel.axhline(1, color="#999999", linewidth=0.8)
            largest = sorted(tokens, key=lambda token: -abs(token.kl))[:LABELLED]
            for token in largest:
                where = (token.p_unsteered, token.ratio)
                panel.annotate(
                    plain_label(cell(token.token)), where, (4, 3), textcoords="offset points", fontsize=7
                )
            panel.set_xlabel("probability, unsteered")
            panel.set_ylabel("ratio, steered / unsteered")
            panel.set_title(plain_label(shift.prompt[-50:]), fontsize="small")

    draw_panels(path, len(found), draw)


def norms(found: Sequence[Norms], path: Path) -> None:
    """Plot |vector| / |stream| over layers: one line per position, one panel per prompt and addition."""
    groups: dict[tuple[object, ...], list[Norms]] = {}
    for at_layer in found:
        groups.setdefault((at_layer.prompt, at_layer.chat, at_layer.addition), []).append(at_layer)

    def draw(axes: Sequence[Axes]) -> None:
        for panel, layers in zip(axes, groups.values(), strict=True):
            first = layers[0]
            for index, token in enumerate(first.tokens[:LABELLED]):
                label = f"{first.start + index} {cell(token)}"
                numbers = [at_layer.layer for at_layer in layers]
                ratios = [at_layer.ratio[index] for at_layer in layers]
                colour = COLOURS[index % len(COLOURS)]
                panel.plot(numbers, ratios, color=colour, label=plain_label(label), marker=".")
            panel.set_xlabel("layer")
            panel.set_ylabel("|vector| / |stream|")
            panel.set_title(plain_label(first.label), fontsize="small")
            panel.legend(frameon=False, fontsize="small")

    draw_panels(path, len(groups), draw)


def card(found: Card, path: Path) -> None:
    """Plot what each multiple of the coefficient does: one panel per kind of effect, and one of damage.

    What chance may do is shaded. Words are counted at the coefficient alone, and get a panel if there is no
    other.
    """
    panels = [(kind, _curve_of(found, kind)) for kind in found.verdicts]
    panels = [panel for panel in panels if len(panel[1]) > 1] or panels
    if found.curve:
        damages = [(point.multiplier, point.damage) for point in found.curve if point.damage is not None]
        panels.append(("damage", damages))
    labels = UNITS | {"choices": "log-odds, nats", "damage": "loss on neutral text, nats per token"}

    def draw(axes: Sequence[Axes]) -> None:
        for panel, (kind, points) in zip(axes, panels, strict=True):
            xs, values = [x for x, _ in points], [estimate.value for _, estimate in points]
            panel.plot(xs, values, color=COLOURS[0], marker=".")
            low, high = ([getattr(estimate, end) for _, estimate in points] for end in ("low", "high"))
            panel.fill_between(xs, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
            panel.axhline(0, color="#999999", linewidth=0.8)
            panel.set_xlabel("multiple of the coefficient")
            panel.set_ylabel(labels[kind])
            if kind in ("sentences", "count"):
                chance = found.verdicts[kind].chance
                panel.axhspan(-chance, chance, color="#999999", alpha=0.2, linewidth=0)
            panel.set_title(plain_label(found.recipe) if panel is axes[0] else kind, fontsize="small")

    draw_panels(path, len(panels), draw)


def _curve_of(found: Card, kind: str) -> list[tuple[float, Estimate]]:
    if kind == "choices" and found.answers is not None:
        return list(found.answers.log_odds)
    points = [(point.multiplier, point.effects[kind]) for point in found.curve if kind in point.effects]
    return points or [(1.0, found.steered.effects[kind])]
