"""Options that several commands share, and their completion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

# Bounds of numbers, so that each fits what it is handed to.
MOST_ROWS = 1_000_000
MOST_TOKENS = 10_000_000


def help_text(what: str, *examples: str) -> str:
    """A command's help: paragraphs of `what`, then examples that can be pasted, a line each."""
    return "\n\n".join([what, "[bold]Examples[/]", *(f"  {example}" for example in examples)])


class Debug:
    """Whether foreseen errors show their traceback; may stand before or after the command."""

    on = False

    @staticmethod
    def switch(wanted: bool) -> None:
        Debug.on = Debug.on or wanted

    option = Annotated[bool, typer.Option("--debug", metavar="", callback=switch, help="Show tracebacks.")]


def recipe_names(incomplete: str) -> Iterator[str]:
    from steer_cli.recipe.bundled import shipped

    names = shipped()
    for name in dict.fromkeys([*(full.split("/")[1] for full in names), *names]):
        if name.startswith(incomplete):
            yield name


def model_names(incomplete: str) -> list[str]:
    from steer_cli.models.catalogue import CATALOGUE

    return [name for name in CATALOGUE if name.startswith(incomplete)]


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, the name of one that ships (see `steer recipes`), or - for standard input.",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", metavar="TEXT", help="Use this prompt; may be given many times."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="M",
        help="Hub id, folder, .gguf file or catalogue name (see `steer models`).",
        autocompletion=model_names,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change any value, such as additions.0.coefficient=3; may be repeated.",
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        "--dtype", help="Of the weights; auto is float32 on a CPU and the checkpoint's own elsewhere."
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="D", help="cuda, mps or cpu; auto takes the first that is there.")
]
DeviceMap = Annotated[
    Literal["auto"] | None,
    typer.Option("--device-map", help="Spread a model that is larger than one accelerator."),
]
Corpora = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        metavar="NAME=FILE",
        help="Sentences under a name: plain text, .jsonl or .csv; may be repeated.",
    ),
]
Lines = Annotated[
    bool,
    typer.Option(
        "--lines",
        help="Take each line (of a table: each cell) as one sentence. Else a text is split into sentences; a "
        "line break ends one too, unless most lines break off in mid-sentence, as those of wrapped prose do.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option("--column", metavar="NAME", help="The column of a .csv or .jsonl file that holds the text."),
]
Label = Annotated[
    str | None,
    typer.Option("--label", metavar="NAME", help="The column whose values get figures of their own."),
]
Group = Annotated[
    list[str] | None,
    typer.Option(
        "--group", metavar="LABEL=V,V", help="Put values of the label column together, such as negative=1,2."
    ),
]
Method = Annotated[
    Literal["pad", "overlay"] | None,
    typer.Option(
        "--method",
        help="pad (else): spaces keep the vector apart from the text; overlay: it lies on the text itself.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="Also draw it to a .png or .svg file (needs the extra `plot`)."
    ),
]
Want = Annotated[
    list[str] | None,
    typer.Option("--want", metavar="WORD", help="With KL: a word whose mass gives effect and damage."),
]
