"""Draw the screen of a comparison: alignment table, receipt, completions side by side.

Colour never carries meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from steer_cli.recipe.schema import Recipe
from steer_cli.report.alignment import alignment
from steer_cli.report.printable import cell, visible
from steer_cli.results import Comparison, Completion, Receipt, Sum, reads_like, steering_cost

SHOWN_TEXTS = 8  # texts of an addition shown by `generate`; `table` shows all
SHOWN_ADDITIONS = 50  # receipts shown, one per layer of an addition; the records have all
SHOWN_POSITIONS = 12  # positions shown of a receipt; the records have all


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        # Rich would exit with code 1, but a reader that stops early is not an error.
        raise BrokenPipeError


def console() -> Console:
    """Standard output, with markup disabled."""
    return _Screen(highlight=False, markup=False, emoji=False)


def title(recipe: Recipe, model: str) -> Text:
    """The name and model of a run, and the recipe's description."""
    head = Text.assemble((visible(recipe.name), "bold"), "  on ", visible(model))
    return (
        head.append("\n" + visible(recipe.description).strip(), style="dim") if recipe.description else head
    )


def receipt(receipts: Sequence[Receipt], pieces: Sequence[str]) -> Iterator[RenderableType]:
    """Where each addition acted: tokens, norms, their ratio and cosine, one line per position.

    `added` is the size of the change relative to the stream: the ratio times the coefficient.
    """
    for acted in receipts:
        placement = acted.placement
        addition = placement.alignment.addition
        position = addition.position
        where = position if isinstance(position, str) else ", ".join(f"{k} {v!r}" for k, v in position)
        also = " and every new token" if placement.every else ""
        yield Text.assemble(
            "  acted: ",
            (visible(placement.alignment.label), "bold"),
            f"  layer {placement.alignment.layer}  coefficient {addition.coefficient:+.4g}",
            f"  {visible(where)} [{placement.start}, {placement.end}){also}",
        )
        added = [f"{abs(addition.coefficient) * ratio:.2f} x" for ratio in acted.ratio]
        figures = {"|vector|": acted.vector, "|stream|": acted.stream, "ratio": acted.ratio}
        yield from _positions(placement.start, pieces, figures, acted.cosine, added)


def sums(totals: Sequence[Sum], pieces: Sequence[str]) -> Iterator[RenderableType]:
    """The change actually made where several additions overlap, one line per position."""
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
    for index in range(min(len(ratio), SHOWN_POSITIONS)):
        table.add_row(
            str(start + index),
            cell(pieces[start + index]),
            *(f"{values[index]:.4g}" for values in sizes),
            f"{ratio[index]:.3f}",
            f"{cosine[index]:+.2f}",
            *added[index : index + 1],
        )
    yield Padding(table, (0, 0, 0, 2))
    hidden = ratio[SHOWN_POSITIONS:]
    if hidden:
        text = f"  and {len(hidden)} more positions, ratio {min(hidden):.3f} to {max(hidden):.3f}"
        yield Text(text, style="dim")


def completions(comparison: Comparison) -> Table:
    """Unsteered, steered and any control side by side; one row per sample, the prompt in bold."""
    table = Table(box=box.HORIZONTALS, show_lines=True, expand=True, header_style="dim", padding=(0, 1))
    for name in comparison.columns:
        table.add_column(name, ratio=1, overflow="fold")
    for sample in zip(*comparison.columns.values(), strict=True):
        table.add_row(*(_completion(comparison.prompt, completion) for completion in sample))
    return table


def _completion(prompt: str, completion: Completion) -> Text:
    text = Text(visible(completion.text))
    for spans in completion.counted.values():
        for start, end in spans:  # `visible` keeps the number of characters
            text.stylize("underline cyan", start, end)
    return Text.assemble((visible(prompt), "bold"), text)


def counts(comparison: Comparison) -> Table:
    """Counted words, as means over the completions of each arm."""
    table = Table(box=None, header_style="dim", padding=(0, 1), pad_edge=False)
    table.add_column("words per completion")
    for name in comparison.columns:
        table.add_column(name, justify="right")
    for label in comparison.recipe.count:
        means = (_mean(arm, label) for arm in comparison.columns.values())
        table.add_row(visible(label), *(f"{mean:.2f}" for mean in means))
    return table


def _mean(arm: Sequence[Completion], label: str) -> float:
    return fmean(completion.counts[label] for completion in arm)


def costs(comparison: Comparison) -> Iterator[Text]:
    """The cost of each arm's texts, and how such texts read; nothing if they were not scored."""
    unsteered, *others = comparison.columns.items()
    if any(completion.mean_logprob is None for completion in unsteered[1]):
        return
    widest = max(cell_len(name) for name, _ in others)
    head = "cost  "
    for name, arm in others:
        before, after = (
            [[completion.mean_logprob for completion in side if completion.mean_logprob is not None]]
            for side in (unsteered[1], arm)
        )
        cost = steering_cost(before, after)
        error = "" if cost.cost_stderr is None else f" ± {cost.cost_stderr:.2f}"
        yield Text.assemble(
            head,
            f"{name:{widest}}  " if others[1:] else "",
            # 0.0 is added so that no -0.00 is shown.
            f"{round(cost.cost, 2) + 0.0:.2f}{error} nats per token: {reads_like(cost.cost)}",
        )
        head = " " * len(head)


def comparison_parts(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """The whole screen of one prompt, from top to bottom."""
    yield Text()
    yield from alignment(comparison.table, width, SHOWN_TEXTS)
    yield Text()
    yield from receipt(comparison.receipts[:SHOWN_ADDITIONS], comparison.pieces)
    if comparison.receipts[SHOWN_ADDITIONS:]:
        hidden = len(comparison.receipts) - SHOWN_ADDITIONS
        yield Text(f"  and {hidden} more receipts (the records have all)", style="dim")
    yield from sums(comparison.sums, comparison.pieces)
    yield completions(comparison)
    if comparison.recipe.count:
        yield counts(comparison)
    yield from costs(comparison)


def listing(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    """A plain text table, for the lists of recipes and models."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(visible(row[name]) for name in names))
    return table
