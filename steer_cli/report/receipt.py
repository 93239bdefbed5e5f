"""The whole receipt of a run: where each addition acted and how strongly, position by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from steer_cli.planning.placement import Placement
from steer_cli.planning.span import name_of
from steer_cli.report.numbers import exact, plain
from steer_cli.report.printable import cell, visible
from steer_cli.results import Agreement, Receipt, Sum


def receipt(receipts: Sequence[Receipt], pieces: Sequence[str], width: int) -> Iterator[RenderableType]:
    """Where each addition acted: tokens, norms, their ratio and cosine, one line per position.

    `added` is how large the change was, in norms of the stream: of one that is added, the ratio times the
    coefficient. `before` and `after`, of one that is ablated, are the stream's component along it.

    Args:
        width: columns of the screen.
    """
    for acted in receipts:
        placement = acted.placement
        head = Text.assemble(
            "  ablated: " if placement.ablates else "  acted: ",
            (visible(placement.alignment.label), "bold"),
            f"  layer {placement.alignment.layer}  coefficient {_coefficient(placement)}",
        )
        where = f"  {_where(placement)}"
        yield head.append(f"\n  {where}" if head.cell_len + cell_len(where) > width else where)
        if not acted.ratio:
            continue  # on new tokens alone
        added = [f"{change:.2f} x" for change in acted.change]
        figures = {"|vector|": acted.vector, "|stream|": acted.stream}
        if placement.ablates:
            figures |= {"before": acted.component_before, "after": acted.component_after}
        figures["ratio"] = acted.ratio
        yield from _positions(placement.start, pieces, figures, acted.cosine, added)


def _coefficient(placement: Placement) -> str:
    if placement.relative is None:
        return plain(placement.coefficient)
    return f"{exact(placement.coefficient)} (relative {plain(placement.relative)})"


def _where(placement: Placement) -> str:
    position = placement.alignment.addition.position
    if placement.start == placement.end:
        return f"{name_of(position)}: on new tokens alone, at no position of the prompt"
    where = position if isinstance(position, str) else ", ".join(f"{k} {v!r}" for k, v in position)
    also = " and every new token" if placement.on_new_tokens else ""
    return f"{visible(where)} [{placement.start}, {placement.end}){also}"


def agreements(found: Sequence[Agreement | None]) -> Iterator[RenderableType]:
    """How far the texts of each addition agree, one line per addition and layer."""
    for one in found:
        if one is not None and one.figures:
            yield Text.assemble(
                "  agreement: ", (visible(one.label), "bold"), f"  layer {one.layer}  {one.figures}"
            )


def sums(totals: Sequence[Sum], pieces: Sequence[str]) -> Iterator[RenderableType]:
    """What was in fact added where several additions overlap, one line per position."""
    for total in totals:
        yield Text.assemble("  together: ", f"layer {total.layer}  [{total.start}, {total.end})")
        figures = {"|sum|": total.sum, "|stream|": total.stream, "ratio": total.ratio}
        yield from _positions(total.start, pieces, figures, total.cosine)


def _positions(
    start: int,
    pieces: Sequence[str],
    figures: Mapping[str, Sequence[float]],
    cosine: Sequence[float],
    added: Sequence[str] = (),
) -> Iterator[RenderableType]:
    table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    table.add_column("position", justify="right", overflow="fold")
    table.add_column("token", overflow="fold", style="bold")
    for name in (*figures, "cosine", *(["added"] if added else [])):
        table.add_column(name, justify="right", overflow="fold")
    sizes = [figures[name] for name in figures if name != "ratio"]
    ratio = figures["ratio"]
    for index in range(len(ratio)):
        table.add_row(
            str(start + index),
            cell(pieces[start + index]),
            *(exact(values[index]) for values in sizes),
            f"{ratio[index]:.3f}",
            f"{cosine[index]:+.2f}",
            *added[index : index + 1],
        )
    yield Padding(table, (0, 0, 0, 2))
