"""Draw the alignment table: one column per position, one row per text.

Colour never carries meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from steer_cli.planning.alignment_table import TableRow
from steer_cli.report import columns
from steer_cli.report.printable import cell, visible

ONWARDS = "→"  # after the token that `every` reads
ROLE_STYLE = {"prompt": "bold", "plus": "green", "minus": "magenta"}


def alignment(rows: Sequence[TableRow], width: int, texts: int | None = None) -> Iterator[RenderableType]:
    """One column per position, one row per text; folded into several tables on a narrow screen.

    Args:
        width: of the screen, in columns.
        texts: show at most this many texts, and no parts with only the prompt; None shows all.
    """
    merged, left_out = _merge_layers(rows, texts)
    end = max(row.end for row, _ in merged)
    widths = [len(str(position)) for position in range(end)]
    for row, _ in merged:
        for position in range(row.start, row.end):
            widths[position] = max(widths[position], cell_len(_token(row, position)))
    labels = max(cell_len(label) for _, label in merged)
    room = width - max(5, labels) - 5 - 6 * 2
    start = untouched = 0
    while start < end:
        stop = start + 1
        while stop < end and sum(widths[start : stop + 1]) + 2 * (stop + 1 - start) <= room:
            stop += 1
        if texts is None or any(_reaches(row, start, stop) for row, _ in merged[1:]):
            yield _alignment_part(merged, start, stop, width)
        else:
            untouched += stop - start
        start = stop
    if untouched:
        yield Text(f"  and {untouched} positions with only the prompt (`steer table` shows all)", style="dim")
    if left_out:
        yield Text(f"  and {left_out} more texts (`steer table` shows all)", style="dim")
    legend = "  · space   ␣ padding"
    if any(row.read is not None for row, _ in merged):
        legend += f"   {ONWARDS} read only at this token, added at every position from here on"
    yield Text(legend, style="dim")


def _merge_layers(rows: Sequence[TableRow], texts: int | None) -> tuple[list[tuple[TableRow, str]], int]:
    """Merge rows that differ only in the layer into one, labelled with all layers."""
    layers: dict[tuple, list] = {}
    for row in rows:
        key = (row.addition, row.role, row.coefficient, row.start, row.ids, row.padding, row.read)
        layers.setdefault(key, []).append(row)
    merged = [(same[0], _range([row.layer for row in same])) for same in layers.values()]
    merged = [(row, "0 (prompt)" if row.role == "prompt" else label) for row, label in merged]
    kept = merged if texts is None else merged[: texts + 1]
    return kept, len(merged) - len(kept)


def _range(layers: Sequence[int | str]) -> str:
    unique = list(dict.fromkeys(layers))
    first = unique[0]
    if len(unique) > 2 and isinstance(first, int) and unique == list(range(first, first + len(unique))):
        return f"{unique[0]}-{unique[-1]}"
    return ", ".join(map(str, unique))


def _reaches(row: TableRow, start: int, stop: int) -> bool:
    return row.start < stop and start < row.end


def _token(row: TableRow, position: int) -> str:
    if not row.start <= position < row.end:
        return ""
    if row.read is not None:
        return f"{cell(row.tokens[row.read])} {ONWARDS}"
    index = position - row.start
    return cell(row.tokens[index], pad=index >= len(row.tokens) - row.padding)


def _alignment_part(
    rows: Sequence[tuple[TableRow, str]], start: int, stop: int, width: int
) -> RenderableType:
    head = [("layer", "dim"), ("coef", "dim"), *((str(position), "dim") for position in range(start, stop))]
    lines = [head]
    for row, label in rows:
        # A folded part omits texts without a token in it.
        if row.role != "prompt" and not _reaches(row, start, stop):
            continue
        style, whole = ROLE_STYLE[row.role], len(row.tokens) - row.padding
        cells = [
            (_token(row, position), "dim" if position - row.start >= whole else style)
            for position in range(start, stop)
        ]
        lines.append([(visible(label), ""), (f"{row.coefficient:+.4g}", ""), *cells])
    return columns.drawn(lines, width)
