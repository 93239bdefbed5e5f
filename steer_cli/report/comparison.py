"""The screen of a comparison: completions side by side, what steering changed and cost, and where it acted.

Colours are few and never carry meaning alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from rich import box
from rich.cells import cell_len
from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from steer_cli.report.acted import acted
from steer_cli.report.alignment import alignment
from steer_cli.report.printable import visible
from steer_cli.report.receipt import agreements, receipt, sums
from steer_cli.results import Comparison, Completion, compare_arms, reads_like, steering_cost

LONGEST_PROMPT = 300  # characters over the completions: the end of a longer one
LONGEST_LABEL = 12  # cells of a label in front of its figures; a longer one stands on a line of its own
COUNTED = "underline cyan"


def comparison_parts(comparison: Comparison, width: int, explain: bool = False) -> Iterator[RenderableType]:
    """The whole screen of one prompt, from top to bottom.

    Args:
        width: columns of the screen.
        explain: show each addition's whole receipt.
    """
    yield Text()
    yield prompt_line(comparison.prompt)
    yield completions(comparison)
    yield Rule(style="dim")
    yield from counts(comparison)
    yield from costs(comparison)
    yield Text()
    if not explain:
        yield from acted(comparison, width)
        return
    yield from alignment(comparison.table, width)
    yield Text()
    yield from receipt(comparison.receipts, comparison.pieces, width)
    yield from sums(comparison.sums, comparison.pieces)
    yield from agreements(comparison.agreements)


def prompt_line(prompt: str) -> Text:
    """What is completed, in bold."""
    shown = visible(prompt)
    if len(shown) > LONGEST_PROMPT:
        shown = "… " + shown[-LONGEST_PROMPT:]
    return Text.assemble((shown, "bold"), (" …", "dim"))


def columns_of(names: Sequence[str]) -> Table:
    """An empty table with a column for each arm, to which rows are added, one for each sample."""
    table = Table(
        box=box.HORIZONTALS,
        show_lines=True,
        expand=True,
        show_edge=False,
        pad_edge=False,
        border_style="dim",
        header_style="dim",
        padding=(0, 2, 0, 0),
    )
    for name in names:
        table.add_column(name, ratio=1, overflow="fold")
    return table


def completions(comparison: Comparison) -> Table:
    """Unsteered on the left, then steered, then a control; a row for each sample.

    The beginning that an arm shares with the unsteered one is dim, so that what steering changed stands out.
    """
    table = columns_of(list(comparison.columns))
    for unsteered, *others in zip(*comparison.columns.values(), strict=True):
        shared = [shared_beginning(unsteered.text, other.text) for other in others]
        table.add_row(
            completion(unsteered, shared[0]),
            *(completion(other, length) for other, length in zip(others, shared, strict=True)),
        )
    return table


def shared_beginning(text: str, other: str) -> int:
    """Characters of the longest beginning that two texts share, up to the last whole word."""
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False)))
    parts_word = any(rest[length : length + 1].isalnum() for rest in (text, other))
    while parts_word and length and text[length - 1].isalnum():
        length -= 1
    return length


def completion(found: Completion, shared: int = 0) -> Text:
    """A completion's text, with its first `shared` characters dim and counted words underlined."""
    text = Text(visible(found.text))  # `visible` puts one character for one
    text.stylize("dim", 0, shared)
    for spans in found.counted.values():
        for start, end in spans:
            text.stylize(COUNTED, start, end)
    if found.finish == "length":
        text.append(" …", style="dim")
    # The space between prompt and completion would only indent its first line.
    return text[1:] if text.plain.startswith(" ") and len(text) > 1 else text


def counts(comparison: Comparison) -> Iterator[Text]:
    """How often counted words occur in each arm, and by how much steering changes that."""
    arms, widest = comparison.columns, _label_width(comparison)
    for label in comparison.recipe.count:
        values = {
            name: [[float(completion.counts[label]) for completion in arm]] for name, arm in arms.items()
        }
        unsteered, steered, *control = values.values()
        means = compare_arms(unsteered, steered)
        head = _head(visible(label), widest)
        line = Text(f"{head}{means.unsteered:.2f} → {means.steered:.2f} words per completion")
        if means.difference_stderr is not None:
            line.append(f" ({means.difference:+.2f} ± {means.difference_stderr:.2f})", style="dim")
        for other in control:
            line.append(f"; control {compare_arms(unsteered, other).steered:.2f}")
        yield line


def costs(comparison: Comparison) -> Iterator[Text]:
    """The cost of each arm's texts, and how texts at that cost read; nothing if they were not scored."""
    unsteered, *others = comparison.columns.items()
    if any(completion.mean_logprob is None for completion in unsteered[1]):
        return
    head = _head("cost", _label_width(comparison))
    # The head of its column says more of a control.
    for name, (_, arm) in zip(("steered", "control"), others, strict=False):
        before, after = (
            [[completion.mean_logprob for completion in side if completion.mean_logprob is not None]]
            for side in (unsteered[1], arm)
        )
        cost = steering_cost(before, after)
        error = "" if cost.cost_stderr is None else f" ± {cost.cost_stderr:.2f}"
        yield Text.assemble(
            head,
            f"{name}  " if others[1:] else "",
            # 0.0 is added so that no -0.00 is shown.
            f"{round(cost.cost, 2) + 0.0:.2f}{error} nats per token: {reads_like(cost.cost)}",
        )
        head = " " * len(head)


def _label_width(comparison: Comparison) -> int:
    widths = [cell_len(visible(label)) for label in ("cost", *comparison.recipe.count)]
    return max(width for width in widths if width <= LONGEST_LABEL)


def _head(label: str, widest: int) -> str:
    """What stands in front of a label's figures; a longer label is on the line above them."""
    fill = " " * (widest - cell_len(label)) if cell_len(label) <= widest else "\n" + " " * widest
    return f"{label}{fill}  "
