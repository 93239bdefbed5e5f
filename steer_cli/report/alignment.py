"""Draw the alignment table: one column per position, one row per text.

Colour never carries meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from steer_cli.planning.alignment_table import TableRow
from steer_cli.report import token_columns
from steer_cli.report.numbers import plain
from steer_cli.report.printable import PAD, SPACE, cell, visible
from steer_cli.report.title import layer_range

ONWARDS = "→"  # after the token that `every` reads
TO_THE_END = "⇥"  # the same, where it acts on the prompt only
RELATIVE = "r"  # after a coefficient
ROLE_STYLE = {"prompt": "bold", "plus": "green", "minus": "magenta", "vector": "green"}


def alignment(rows: Sequence[TableRow], width: int) -> Iterator[RenderableType]:
    """Positions as columns, a row for each text; folded into several tables on a narrow screen.

    Args:
        width: columns of the screen.
    """
    merged = _merge_layers(rows)
    end = max(row.end for row, _ in merged)
    widths = [len(str(position)) for position in range(end)]
    for row, _ in merged:
        for position in range(row.start, row.end):
            widths[position] = max(widths[position], cell_len(shown_token(row, position)))
    labels = max(cell_len(label) for _, label in merged)
    coefficients = max(cell_len(_coefficient(row)) for row, _ in merged)
    room = width - max(5, labels) - max(4, coefficients) - 2 * token_columns.GAP
    for start, stop in token_columns.folds(widths, room):
        yield _alignment_part(merged, start, stop, width)
    legend = f"{SPACE} space   {PAD} padding"
    for sign in sorted({sign_of(row) for row, _ in merged if row.read is not None}):
        legend += f"   {sign} read only at this token, {done_to(rows)} at every position {FROM_HERE[sign]}"
    if any(row.relative for row in rows):
        legend += f"   {RELATIVE} relative: in lengths of the stream"
    if any(row.mean_from is not None for row, _ in merged):
        legend += "   mean of N: over so many tokens"
    # The first token is special in every text.
    special = dict.fromkeys(cell(row.tokens[at]) for row, _ in merged for at in row.special if at)
    if special:
        legend += f"   special tokens: {' '.join(special)}"
    yield Text(legend, style="dim")
    files = dict.fromkeys((row.file, row.sha256) for row in rows if row.file is not None)
    for name, sha256 in files:
        yield Text(f"{visible(name or '')}  sha256 {sha256}", style="dim")


FROM_HERE = {ONWARDS: "from here on", TO_THE_END: "from here to the prompt's end"}


def sign_of(row: TableRow) -> str:
    """After the token that is read: how far it acts."""
    return TO_THE_END if row.every == "prompt" else ONWARDS


def done_to(rows: Sequence[TableRow]) -> str:
    """What is done with the rows of `every`, for the legend."""
    ablates = {row.ablates for row in rows if row.read is not None}
    return "added or ablated" if len(ablates) > 1 else "ablated" if True in ablates else "added"


def _merge_layers(rows: Sequence[TableRow]) -> list[tuple[TableRow, str]]:
    """Rows that differ in nothing but the layer become one, labelled with all of them."""
    layers: dict[tuple, list] = {}
    for row in rows:
        key = (row.addition, row.role, row.coefficient, row.start, row.ids, row.padding, row.read, row.file)
        layers.setdefault(key, []).append(row)
    merged = [(same[0], layer_range([row.layer for row in same])) for same in layers.values()]
    return [(row, "0 (prompt)" if row.role == "prompt" else label) for row, label in merged]


def _coefficient(row: TableRow) -> str:
    sign = "" if row.coefficient < 0 else "+"
    return f"{sign}{plain(row.coefficient)}{' ' + RELATIVE if row.relative else ''}"


def _reaches(row: TableRow, start: int, stop: int) -> bool:
    return row.start < stop and start < row.end


def shown_token(row: TableRow, position: int) -> str:
    """What stands in a text's row at a position; empty beside the text."""
    if not row.start <= position < row.end:
        return ""
    if row.read is not None and row.mean_from is not None:
        return f"mean of {row.read + 1 - row.mean_from} {ONWARDS}"
    if row.read is not None:
        return f"{cell(row.tokens[row.read])} {sign_of(row)}"
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
            (shown_token(row, position), "dim" if position - row.start >= whole else style)
            for position in range(start, stop)
        ]
        lines.append(
            [
                (visible(label), ""),
                (_coefficient(row), ""),
                *cells,
            ]
        )
    return token_columns.drawn(lines, width)
