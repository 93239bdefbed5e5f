"""Draw the screens of shifts, perplexities and norms.

Colour never carries meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from steer_cli.recipe.quoting import counted
from steer_cli.report.heat import heat_parts
from steer_cli.report.numbers import exact, plain
from steer_cli.report.printable import cell, visible
from steer_cli.report.title import layer_range
from steer_cli.results import CameTo, CorpusFindings, Norms, Perplexity, Shift

SHOWN_POSITIONS = 10
DAMAGED = 1.05  # ratios from here on are marked as damage


def plain_table(*columns: str, left: int = 1) -> Table:
    """A table whose first `left` columns are text and whose others are figures."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
    for index, column in enumerate(columns):
        # On a narrow screen, only texts are folded; a folded figure cannot be read.
        text = index < left
        width = cell_len(column)
        table.add_column(
            column, justify="left" if text else "right", no_wrap=not text, overflow="fold", min_width=width
        )
    return table


def table_width(heads: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> int:
    """The width of a plain table without folds: one space at both ends, and three between columns."""
    columns = zip(heads, *rows, strict=True)
    widths = [
        max(cell.cell_len if isinstance(cell, Text) else cell_len(cell) for cell in one) for one in columns
    ]
    return sum(widths) + 3 * len(widths) - 1


def shift_parts(shift: Shift) -> Iterator[RenderableType]:
    """The screen of one prompt."""
    yield Text.assemble(
        "\n", (visible("".join(shift.pieces)), "bold"), f"  … next, from position {shift.position}"
    )
    table = plain_table("token", "unsteered", "steered", "ratio", "part of KL")
    for token in shift.tokens:
        style = "green" if token.ratio > 1 else "red" if token.ratio < 1 else ""
        table.add_row(
            cell(token.token),
            f"{token.p_unsteered:.5f}",
            f"{token.p_steered:.5f}",
            Text(exact(token.ratio), style=style),
            f"{token.kl:+.4f}",
        )
    yield table
    lines = [
        f"  KL(steered || unsteered)  {shift.kl:.4f} nats",
        f"  entropy  unsteered {shift.entropy_unsteered:.3f}  steered {shift.entropy_steered:.3f} nats",
    ]
    if shift.effect is not None:
        lines.append(f"  wanted words  effect {shift.effect:+.3f}  damage {shift.damage:.4f} nats")
    lines += [f"  {line}" for line in came_to_lines(shift.coefficients)]
    yield Text("\n".join(lines))


def came_to_lines(found: Sequence[CameTo]) -> Iterator[str]:
    """The numbers that relative coefficients came to, a line for each addition."""
    by_addition: dict[int, list[CameTo]] = {}
    for one in found:
        by_addition.setdefault(one.addition, []).append(one)
    for addition, numbers in by_addition.items():
        yield f"{f'addition {addition + 1}: ' if len(by_addition) > 1 else ''}{_numbers(numbers)}"


def _numbers(found: Sequence[CameTo]) -> str:
    """Of one addition, at all of its layers."""
    least = min(one.coefficient if one.least is None else one.least for one in found)
    most = max(one.coefficient if one.most is None else one.most for one in found)
    number = exact(least) if exact(least) == exact(most) else f"{exact(least)} to {exact(most)}"
    where = f"{'layer' if len(found) == 1 else 'layers'} {layer_range([one.layer for one in found])}"
    return f"relative {plain(found[0].relative)} came to the coefficient {number}, {where}"


def perplexity_parts(found: CorpusFindings, width: int) -> Iterator[RenderableType]:
    """The sentences, where they were asked for, above the figures of all corpora."""
    if found.sentences:
        yield from heat_parts(found.sentences, width)
    yield perplexities(found.figures)
    yield from (Text(f"  {line}", style="dim") for line in came_to_lines(found.coefficients))


def perplexities(figures: Sequence[Perplexity]) -> Table:
    """A table with one row per corpus, label and method."""
    labels = any(figure.label is not None for figure in figures)
    names = ("corpus", *(("label",) if labels else ()), "method")
    columns = ("unsteered", "steered", "ratio", "stderr", "sentences", "tokens")
    table = plain_table(*names, *columns, left=len(names))
    # A method is a word; only names of the user's are folded.
    table.columns[len(names) - 1].no_wrap = True
    for figure in figures:
        table.add_row(
            visible(figure.corpus),
            *((visible(figure.label or ""),) if labels else ()),
            figure.method,
            exact(figure.perplexity_unsteered),
            exact(figure.perplexity_steered),
            ratio(figure.ratio),
            "" if figure.stderr is None else f"{figure.stderr:.3f}",
            str(figure.sentences),
            str(figure.tokens),
        )
    return table


def figure(value: float, decimals: int) -> str:
    """A figure of a column, with as many decimals as its neighbours unless it is large."""
    return f"{value:.{decimals}f}" if abs(value) < 1000 else exact(value)


def ratio(value: float) -> Text:
    """A ratio of perplexities: green below 1, red where it is damage."""
    return Text(figure(value, 3), style="green" if value < 1 else "red" if value >= DAMAGED else "")


def norms_parts(found: Sequence[Norms], width: int) -> Iterator[RenderableType]:
    """A table of ratios per prompt and addition: layers down, positions across."""
    groups: dict[tuple[object, ...], list[Norms]] = {}
    for at_layer in found:
        groups.setdefault((at_layer.prompt, at_layer.chat, at_layer.addition), []).append(at_layer)
    for layers in groups.values():
        first = layers[0]
        centred = "  centred" if first.centred else ""
        yield Text.assemble(
            "\n",
            (visible(first.prompt), "bold"),
            f"\n  |{visible(first.label)}| / |stream| at coefficient 1{centred}",
        )
        came_to = [at_layer.came_to for at_layer in layers]
        number = [] if came_to[0] is None else [f"relative {plain(came_to[0].relative)}"]
        heads = [f"{first.start + i} {cell(token)}" for i, token in enumerate(first.tokens)]
        heads, rows = ["layer", *number, *heads], []
        for at_layer, one in zip(layers, came_to, strict=True):
            cells = [] if one is None else [exact(one.coefficient)]
            rows.append([str(at_layer.layer), *cells, *(f"{value:.3f}" for value in at_layer.ratio)])
        shown = _fitting(heads, rows, len(number) + 1, width)
        table = plain_table(*heads[:shown])
        for row in rows:
            table.add_row(*row[:shown])
        yield table
        if number:
            yield Text(f"  {number[0]}: the coefficient that it comes to at this layer", style="dim")
        if hidden := len(heads) - shown:
            yield Text(f"  and {counted(hidden, 'more position')} (the records have all)", style="dim")


def _fitting(heads: Sequence[str], rows: Sequence[Sequence[str]], before: int, width: int) -> int:
    """How many columns fit on the screen; those `before` the positions, and one position, always stay."""
    shown = min(len(heads), before + SHOWN_POSITIONS)
    while shown > before + 1 and table_width(heads[:shown], [row[:shown] for row in rows]) > width:
        shown -= 1
    return shown
