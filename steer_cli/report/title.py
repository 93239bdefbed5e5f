"""The first lines of every screen: the recipe's name, what it adds and where, and the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from rich.text import Text

from steer_cli.recipe.quoting import counted
from steer_cli.recipe.relative import Relative
from steer_cli.recipe.schema import Addition, At, AtToken, Recipe
from steer_cli.recipe.sources import TextFile, VectorFile
from steer_cli.report.numbers import plain
from steer_cli.report.printable import one_line, visible

SHOWN_ADDITIONS = 4
ONE_LINE = 72  # characters of name, addition and model, to stand on one line of a small terminal
EVERY_WAY = {
    "both": "every position",
    "all": "every position and BOS",
    "prompt": "prompt only",
    "new": "new tokens",
}
LONGEST_TEXT = 24  # characters of a text in a title


def title(recipe: Recipe, model: str) -> Text:
    """Name, additions and model of a run, and what the recipe says of itself.

    Several additions stand on lines of their own, numbered as in the table under the completions.
    """
    name, model, additions = visible(recipe.name), visible(model), recipe.additions
    head, only = Text.assemble((name, "bold")), summary(additions[0])
    if len(additions) == 1 and only.startswith(f"{name} "):
        # A recipe without a file has its texts as its name.
        how = only[len(name) :]
        if len(only) + len(model) <= ONE_LINE:
            head.append(how).append(f"   {model}", style="dim")
        else:
            head.append(f"   {model}", style="dim").append(f"\n{how.strip()}")
    elif len(additions) > 1:
        head.append(f"   {model}", style="dim")
        for number, addition in enumerate(additions[:SHOWN_ADDITIONS], 1):
            head.append(f"\n{number}  {summary(addition)}")
        if len(additions) > SHOWN_ADDITIONS:
            hidden = counted(len(additions) - SHOWN_ADDITIONS, "more addition")
            head.append(f"\nand {hidden}", style="dim")
    elif len(name) + len(only) + len(model) <= ONE_LINE:
        head.append(f"   {only}").append(f"   {model}", style="dim")
    else:
        head.append(f"   {model}", style="dim").append(f"\n{only}")
    if recipe.description:
        head.append("\n" + visible(recipe.description).strip(), style="dim")
    return head


def summary(addition: Addition) -> str:
    """An addition in a few words: Love - Hate × 2, layer 2, front."""
    ways = [f", {addition.combine}"] if addition.combine == "pca" else []
    ways += [", mean of all tokens"] if addition.read == "mean" else []
    ways += [" ablated"] if addition.operation == "ablate" else []
    noise = ", as noise" if addition.random is not None else ""
    layers = addition.layers
    where = f"layer{'s' if len(layers) > 1 else ''} {layer_range(layers)}" if layers else "the file's layers"
    where = "all layers" if addition.layer == "all" else where
    times = f"{'relative ' if isinstance(addition.coefficient, Relative) else ''}{plain(addition.strength)}"
    what = f"{_source(addition)}{''.join(ways)} × {times}{noise}"
    return f"{what}, {where}, {_position(addition)}"


def _source(addition: Addition) -> str:
    """What the vector is made of, without its texts where they are many."""
    if addition.vector is not None:
        return _file(addition.vector)
    if addition.texts is not None:
        return f"{_list(addition.texts.plus)} - {_list(addition.texts.minus)}"
    (plus, minus), more = addition.all_pairs[0].names, len(addition.all_pairs) - 1
    texts = quoted(plus) if minus is None else f"{quoted(plus)} - {quoted(minus)}"
    return f"{texts} and {counted(more, 'more pair')}" if more else texts


def _list(side: tuple[str, ...] | str | TextFile) -> str:
    if not isinstance(side, tuple):
        return _file(side)
    return quoted(side[0]) + (f" and {counted(len(side) - 1, 'more text')}" if side[1:] else "")


def _file(named: str | TextFile | VectorFile) -> str:
    """A file's name without its folders, and which part of it."""
    if isinstance(named, str):
        return quoted(PurePath(named).name)
    part = named.column if isinstance(named, TextFile) else named.addition
    return quoted(PurePath(named.file).name) + ("" if part is None else f"[{one_line(str(part))}]")


def _position(addition: Addition) -> str:
    if addition.every is not None:
        return EVERY_WAY[addition.every]
    position = addition.position
    if isinstance(position, AtToken):
        return f"at {quoted(position.token)}"
    return f"at {position.at}" if isinstance(position, At) else str(position)


def quoted(text: str, most: int = LONGEST_TEXT) -> str:
    """A text on one line, shortened; in quotes where it is empty or has a space at an end."""
    line = one_line(text)
    line = line if len(line) <= most else line[: most - 1] + "…"
    return line if line and text == text.strip() else f'"{_edges(text, line)}"'


def _edges(text: str, line: str) -> str:
    before = " " if text[:1].isspace() else ""
    after = " " if line and text[-1:].isspace() and not line.endswith("…") else ""
    return f"{before}{line}{after}"


def layer_range(layers: Sequence[int | str]) -> str:
    """Layers in one word: 6, or 6-9 where they follow each other, or 6, 16."""
    unique = list(dict.fromkeys(layers))
    first = unique[0]
    if len(unique) > 2 and isinstance(first, int) and unique == list(range(first, first + len(unique))):
        return f"{unique[0]}-{unique[-1]}"
    return ", ".join(map(str, unique))
