"""Findings -> a picture: curves over layers and coefficients, heat maps of two axes, shifts, norms.

matplotlib is an extra and is imported here only, when a plot is asked for. This module does not know how
anything was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steer_cli.errors import PlotError
from steer_cli.report.plain import cell
from steer_cli.results import Norms, Shift, figure_name

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
)  # safe for colour blindness
LABELLED = 12  # tokens of a shift that are named
AXES = ("layer", "coefficient", "position", "dims")


def _draw(path: Path, panels: int, draw: Callable[[Sequence[Axes]], None], width: float = 5.6) -> None:
    # Without pyplot: no window system is asked for, and no figure stays open.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    draw(axes)
    try:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise PlotError(f"--plot {path}: {error.strerror or error}") from None


def _plain(text: str) -> str:
    """A dollar sign would begin a formula."""
    return text.replace("$", r"\$")


def check_axes(varying: Sequence[str], path: Path) -> None:
    """Raises PlotError where more axes vary than a plot has."""
    if len(varying) > 2:
        raise PlotError(f"--plot {path}: {', '.join(varying)} vary, and a plot has two axes; sweep fewer")


def sweep(
    records: Sequence[Mapping[str, Any]],
    named: Sequence[Mapping[str, float]],
    errors: Sequence[Mapping[str, float]],
    path: Path,
) -> None:
    """One varying axis: a line a figure. Two: a heat map a figure, or curves where the second has few values.

    Args:
        named: the figures of each record, by name.
        errors: their standard errors, a band around a curve.

    Raises:
        PlotError: more axes vary than a plot has, or the file cannot be written.
    """
    varying = [axis for axis in AXES if len({str(record[axis]) for record in records}) > 1] or ["layer"]
    check_axes(varying, path)
    ratios = {name for record in records for name in _corpora(record)}
    names = list(named[0])
    groups = [
        group for group in ([n for n in names if n in ratios], [n for n in names if n not in ratios]) if group
    ]
    both = list(zip(named, errors, strict=True))
    if len(varying) == 1:
        _draw(path, len(groups), lambda axes: _curves(axes, groups, records, both, varying[0], ratios))
    elif min(len({str(record[axis]) for record in records}) for axis in varying) <= 3:
        few, many = sorted(varying, key=lambda axis: len({str(record[axis]) for record in records}))
        _draw(path, len(groups), lambda axes: _curves(axes, groups, records, both, many, ratios, few))
    else:
        _draw(path, len(names), lambda axes: _heat_maps(axes, names, records, named, varying, ratios), 4.6)


def _corpora(record: Mapping[str, Any]) -> list[str]:
    return [figure_name(each["corpus"], each["label"]) for each in record.get("perplexity", ())]


def _curves(axes, groups, records, both, across: str, ratios: set[str], split: str | None = None) -> None:
    for panel, names in zip(axes, groups, strict=True):
        for number, name in enumerate(names):
            for style, value in zip(("-", "--", ":"), _values(records, split), strict=False):
                own = [i for i, record in enumerate(records) if split is None or record[split] == value]
                label = name if split is None else f"{name}, {split} {_tick(value)}"
                ticks = [_tick(records[i][across]) for i in own]
                xs = [records[i][across] for i in own]
                xs = xs if all(isinstance(x, int | float) for x in xs) else ticks
                colour = COLOURS[number % len(COLOURS)]
                ys = [both[i][0][name] for i in own]
                spread = [both[i][1].get(name, 0) for i in own]
                panel.plot(xs, ys, style, color=colour, label=_plain(label), marker=".")
                low, high = ([y + sign * e for y, e in zip(ys, spread, strict=True)] for sign in (-1, 1))
                panel.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
        if set(names) <= ratios:
            panel.axhline(1, color="#999999", linewidth=0.8)
        panel.set_xlabel(across)
        panel.set_ylabel("perplexity, steered / unsteered" if set(names) <= ratios else "")
        panel.legend(frameon=False, fontsize="small")


def _values(records: Sequence[Mapping[str, Any]], axis: str | None) -> list[Any]:
    values: list[Any] = []
    for record in records:
        value = None if axis is None else record[axis]
        if value not in values:
            values.append(value)
    return values


def _tick(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _heat_maps(axes, names, records, named, varying, ratios: set[str]) -> None:
    from math import log

    rows, columns = (_values(records, axis) for axis in varying)
    at = {(str(record[varying[0]]), str(record[varying[1]])): i for i, record in enumerate(records)}
    for panel, name in zip(axes, names, strict=True):
        table = [[named[at[str(row), str(column)]][name] for column in columns] for row in rows]
        if name in ratios:
            # Equal factors up and down are equally bright, and 1 is white.
            shown = [[log(value) for value in line] for line in table]
            most = max(abs(value) for line in shown for value in line) or 1
            image = panel.imshow(shown, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", origin="lower")
        else:
            image = panel.imshow(table, cmap="viridis", aspect="auto", origin="lower")
        panel.figure.colorbar(image, label="ln ratio" if name in ratios else name)
        panel.set_title(_plain(name))
        for set_ticks, values in ((panel.set_yticks, rows), (panel.set_xticks, columns)):
            step = -(-len(values) // 10)
            set_ticks(range(0, len(values), step), [_tick(value) for value in values[::step]])
        panel.set_ylabel(varying[0])
        panel.set_xlabel(varying[1])


def shift(found: Sequence[Shift], path: Path) -> None:
    """Each shown token: unsteered probability across, ratio up, both logarithmic, with the line ratio 1."""

    from matplotlib.ticker import NullFormatter

    def draw(axes: Sequence[Axes]) -> None:
        for panel, each in zip(axes, found, strict=True):
            tokens = [token for token in each.tokens if token.p_unsteered > 0 and token.ratio > 0]
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
                    _plain(cell(token.token)), where, (4, 3), textcoords="offset points", fontsize=7
                )
            panel.set_xlabel("probability, unsteered")
            panel.set_ylabel("ratio, steered / unsteered")
            panel.set_title(_plain(each.prompt[-50:]), fontsize="small")

    _draw(path, len(found), draw)


def norms(found: Sequence[Norms], path: Path) -> None:
    """|vector| / |stream| over the layers, a line for each position, a panel for each prompt and addition."""
    groups: dict[tuple[str, int], list[Norms]] = {}
    for each in found:
        groups.setdefault((each.prompt, each.addition), []).append(each)

    def draw(axes: Sequence[Axes]) -> None:
        for panel, layers in zip(axes, groups.values(), strict=True):
            first = layers[0]
            for index, token in enumerate(first.tokens[:LABELLED]):
                label = f"{first.start + index} {cell(token)}"
                ratios = [each.ratio[index] for each in layers]
                colour = COLOURS[index % len(COLOURS)]
                panel.plot(
                    [each.layer for each in layers], ratios, color=colour, label=_plain(label), marker="."
                )
            panel.set_xlabel("layer")
            panel.set_ylabel("|vector| / |stream|")
            panel.set_title(_plain(first.label), fontsize="small")
            panel.legend(frameon=False, fontsize="small")

    _draw(path, len(groups), draw)
