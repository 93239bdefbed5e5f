"""Draw the heat map: sentences with the change of every token, shown by colour and by a sign below it.

The signs suffice alone, for screens without colour and readers who cannot tell red from green.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, chop_cells
from rich.text import Text

from steer_cli.report.printable import one_line, visible
from steer_cli.results import SentenceChange

BRIGHTEST = math.log(100)  # a change by a hundredfold, as in Turner et al. 2023
# (at least this factor in the token's probability, sign where it rose, sign where it fell)
SIGNS = ((10, "#", "="), (1.5, "+", "-"))
LEGEND = (
    "  + likelier (1.5 times), # tenfold; - less likely, = to a tenth; . left out\n"
    "  green and red are brightest at a hundredfold; the mean change is in front"
)


def heat_parts(sentences: Sequence[SentenceChange], width: int) -> Iterator[Text]:
    """Each sentence in lines of at most `width` columns, each with a line of signs below."""
    yield Text(LEGEND, style="dim")
    for sentence in sentences:
        known = [change for change in sentence.changes if change is not None]
        mean = f"{sum(known) / len(known):+.2f}  " if known else "  --   "
        # A style on the whole line would dim the tokens too.
        head = Text().append(f"{one_line(sentence.corpus)} ", style="dim").append(mean)
        if head.cell_len > width // 3:
            yield head
            head = Text("  ")
        yield from _lines(sentence, head, width)


def _lines(sentence: SentenceChange, head: Text, width: int) -> Iterator[Text]:
    indent = head.cell_len
    tokens, signs = head, " " * indent
    for piece, change in zip(sentence.pieces, sentence.changes, strict=True):
        # A token wider than the screen continues on the next line.
        for shown in chop_cells(_shown(piece), width - indent):
            wide = cell_len(shown)
            if tokens.cell_len + wide > width and tokens.cell_len > indent:
                yield tokens
                yield Text(signs.rstrip())
                tokens, signs = Text(" " * indent), " " * indent
            tokens.append(shown, style=_heat(change))
            # Under the first letter, if a token begins with a space.
            before = len(shown) - len(shown.lstrip(" ")) if shown.strip(" ") else 0
            signs += (" " * before + _sign(change)).ljust(wide)[:wide]
    yield tokens
    yield Text(signs.rstrip())


def _shown(piece: str) -> str:
    shown = visible(piece).replace("\n", "↵").replace("\t", "⇥")
    # An accent alone has no width, which would leave no room for its sign.
    return shown if cell_len(shown) else f"◌{shown}"


def _sign(change: float | None) -> str:
    if change is None:
        return "."
    for factor, up, down in SIGNS:
        if abs(change) >= math.log(factor):
            return up if change > 0 else down
    return " "


def _heat(change: float | None) -> str:
    if change is None:
        return "dim"
    strength = min(abs(change) / BRIGHTEST, 1.0)
    level = round(210 * strength)
    colour = (0, 30 + level, 0) if change > 0 else (30 + level, 0, 0)
    # Dark letters on a bright background, light letters on a dark one.
    letters = "black" if strength > 0.6 else "white"
    return f"{letters} on rgb({colour[0]},{colour[1]},{colour[2]})" if strength > 0.02 else ""
