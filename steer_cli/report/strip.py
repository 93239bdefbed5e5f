"""The screen of a scan: a row for each setting, with its text, and counts and cost right beside.

Colours are few and never carry meaning alone: a mark stands where a text leaves the unsteered one, and the
cost is also a bar and words.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from steer_cli.planning.scan import ScanPlan
from steer_cli.recipe.relative import strength_of
from steer_cli.report.comparison import COUNTED, shared_beginning
from steer_cli.report.numbers import plain, short
from steer_cli.report.printable import one_line, visible
from steer_cli.results import STUMBLES, WORD_SALAD, Completion, ScanPoint, reads_like

LEAVES = "▸"
BLOCK, NATS_PER_BLOCK, MOST_BLOCKS = "▪", 0.5, 8
FIGURES = 26  # columns of the figures: the words of a low cost, or a figure and its blocks
NARROW = 64  # on a narrower screen the figures stand below the text
LONGEST_LABEL = 10


def introduction(plan: ScanPlan) -> Iterator[RenderableType]:
    """What the marks and figures mean."""
    samples = plan.recipe.sampling.samples
    means = ": means ± standard error" if samples > 1 else ""
    which = f"; the text is the first of {samples} samples" if samples > 1 else ""
    words = "words per completion, " if plan.recipe.count else ""
    yield Text(f"{LEAVES} where a text leaves the unsteered one{which}", style="dim")
    block = "one word, or half a nat" if plan.recipe.count else "half a nat"
    yield Text(f"{words}cost in nats per token{means}; {BLOCK} {block}", style="dim")


def heading(plan: ScanPlan, prompt: str, width: int) -> Iterator[RenderableType]:
    """The prompt, above its rows."""
    yield Rule(style="dim")
    titles = Text("\n".join(_axes(plan)), style="dim")
    yield _row(plan, titles, Text(visible(prompt), style="bold"), Text(), width)


def row(plan: ScanPlan, point: ScanPoint, width: int) -> Iterator[RenderableType]:
    """One setting."""
    yield Rule(style="dim")
    setting = Text(_setting(plan, point), style="bold")
    if point.error is not None:
        fault = Text.assemble(("cannot be run: ", "red"), visible(point.error))
        yield _row(plan, setting, fault, Text(), width)
    else:
        yield _row(plan, setting, _text(point), _figures(point), width)


def _row(plan: ScanPlan, setting: Text, text: Text, figures: Text, width: int) -> Table:
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    table.add_column(justify="right", width=_setting_width(plan), no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    if width < NARROW:
        table.add_row(setting, Text("\n").join(filter(None, (text, figures))))
    else:
        table.add_column(width=FIGURES, overflow="fold")
        table.add_row(setting, text, figures)
    return table


def _axes(plan: ScanPlan) -> tuple[str, ...]:
    """What a row is named by."""
    return tuple("relative" if axis == "coefficient" and plan.relative else axis for axis in _varying(plan))


def _varying(plan: ScanPlan) -> tuple[str, ...]:
    return plan.varying or ("coefficient",)


def _setting_width(plan: ScanPlan) -> int:
    return max(map(len, (*_axes(plan), "unsteered")))


def _setting(plan: ScanPlan, point: ScanPoint) -> str:
    if point.layer is None:
        # Where layers vary too, 0 stands below them.
        words = ["unsteered", *([] if point.coefficient is None else ["0"])]
        return "\n".join(words if "layer" in plan.varying else reversed(words))
    coefficient = strength_of(point.coefficient or 0.0)
    values = {
        "layer": str(point.layer),
        "coefficient": f"{'' if coefficient < 0 else '+'}{plain(coefficient)}",
    }
    lines = [values[axis] for axis in _varying(plan)]
    numbers = [one.coefficient for one in point.coefficients if one.addition == 0]
    if plan.relative and len(numbers) == 1:
        lines.append(f"× {short(numbers[0])}")  # what it came to
    return "\n".join(lines)


def _text(point: ScanPoint) -> Text:
    """The first sample; dim as far as it is the unsteered one, with a mark at its end."""
    completion, unsteered = point.completions[0], point.unsteered[0]
    text = _shown(completion)
    start = len(completion.text) - len(completion.text.lstrip(" "))
    if point.layer is None:
        return text[start:]
    if completion.text == unsteered.text:
        return Text("the same as unsteered", style="dim italic")
    length = shared_beginning(completion.text, unsteered.text)
    beginning = text[min(start, length) : length]
    beginning.stylize("dim")
    return Text.assemble(beginning, (LEAVES, "bold"), text[length:] or Text("(ends)", style="dim"))


def _shown(completion: Completion) -> Text:
    # One character for one, so that spans stay true.
    text = Text(visible(completion.text).replace("\n", "↵").replace("\t", " "))
    for spans in completion.counted.values():
        for start, end in spans:
            text.stylize(COUNTED, start, end)
    return text if completion.text else Text("(ends at once)", style="dim")


def _figures(point: ScanPoint) -> Text:
    """Counted words with a block for each use, and the cost with its blocks and words."""
    labels = [_short(label) for label in point.counts]
    widest = max(map(cell_len, (*labels, "cost")))
    lines = [
        _figure(label, mean, error, mean, "cyan", widest)
        for label, (mean, error) in zip(labels, point.counts.values(), strict=True)
    ]
    if cost := point.cost:
        style = "red" if cost.cost >= WORD_SALAD else "yellow" if cost.cost >= STUMBLES else ""
        blocks = cost.cost / NATS_PER_BLOCK
        lines.append(_figure("cost", cost.cost, cost.cost_stderr, blocks, style, widest))
        lines.append(Text(reads_like(cost.cost), style=f"bold {style}" if style else "dim"))
    return Text("\n").join(lines)


def _short(label: str) -> str:
    shown = Text(one_line(label))
    shown.truncate(LONGEST_LABEL, overflow="ellipsis")
    return shown.plain


def _figure(label: str, mean: float, error: float | None, blocks: float, style: str, widest: int) -> Text:
    # 0.0 is added so that no -0.00 is shown.
    shown = f"{label}{' ' * (widest - cell_len(label))} {round(mean, 2) + 0.0:5.2f}"
    shown += "" if error is None else f" ±{error:.2f}"
    room = max(1, min(MOST_BLOCKS, FIGURES - cell_len(shown) - 1))
    number = max(0, round(blocks))
    drawn = BLOCK * number if number <= room else BLOCK * (room - 1) + "+"
    return Text.assemble(shown, " ", (drawn, style))
