"""Options that name a direction without a file, or change the first addition of a recipe.

Also those that name chats to answer. This file is loaded with every command, and stays light; `changes` makes
recipes of these values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from steer_cli.cli.options import recipe_names
from steer_cli.recipe.position_words import EVERY, WORDS

DEFAULT_LAYER = "33%"
POSITIONS = (*WORDS, *EVERY, "token=")

OptionalRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, the name of a shipped recipe (see `steer recipes`), or - for standard input; "
        "leave it out with --plus.",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
Plus = Annotated[
    str | None,
    typer.Option(
        "--plus",
        metavar="TEXT",
        help="Steer towards this text: without RECIPE, or in place of its first plus.",
    ),
]
Minus = Annotated[
    str | None,
    typer.Option("--minus", metavar="TEXT", help="Steer away from this text; '' is a row of spaces."),
]
Layer = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="LAYER",
        help="Add the vector to the stream entering this block: a number, a list such as 6,15, a share of "
        f"the depth such as 25%, or all. Without RECIPE the default is {DEFAULT_LAYER}.",
    ),
]
Coefficient = Annotated[
    str | None,
    typer.Option(
        "--coefficient",
        "-c",
        metavar="NUMBER",
        help="Multiply the vector by this, such as 4 or -2. Without RECIPE the default is 1.",
    ),
]
Relative = Annotated[
    str | None,
    typer.Option(
        "--relative",
        metavar="NUMBER",
        help="Instead of a coefficient: make what is added this long on average, in lengths of the stream, "
        "such as 0.8 or -0.5.",
    ),
]
Chat = Annotated[
    list[str] | None,
    typer.Option(
        "--chat",
        metavar="TEXT",
        help="Answer this message of a user, in the model's own chat template; repeatable.",
    ),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="With --chat: the system message that comes first."),
]


def _positions(incomplete: str) -> Iterator[str]:
    for position in POSITIONS:
        if position.startswith(incomplete):
            yield position


Position = Annotated[
    str | None,
    typer.Option(
        "--position",
        metavar="POSITION",
        autocompletion=_positions,
        help="Where in the prompt: front, middle, back, every, a number (0 is BOS), or token=TEXT for "
        "where that text first occurs; every=prompt, every=new (generated tokens alone) or every=all (BOS "
        "too). Without RECIPE the default is front.",
    ),
]


Save = Annotated[
    Path | None,
    typer.Option("--save", metavar="FILE", help="Write the recipe, with all changes, to this new file."),
]


@dataclass(frozen=True)
class Chats:
    """What users say, each in a chat of its own, and what the system says in all of them."""

    users: tuple[str, ...] = ()
    system: str | None = None


@dataclass(frozen=True)
class Direction:
    """The options as they were written; None where one was not given."""

    plus: str | None = None
    minus: str | None = None
    layer: str | None = None
    coefficient: str | None = None
    position: str | None = None
    relative: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """The options that were given, by the names of their keys."""
        return {key: text for key, text in vars(self).items() if text is not None}
