"""Options shared by several commands, their completion, and their names in errors."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from steer_cli.errors import ModelError, SteerError
from steer_cli.models.hardware import MOST_THREADS

# Upper limits, so that numbers fit the types they are converted to.
MOST_ROWS = 1_000_000
MOST_TOKENS = 10_000_000


# The option for each parameter named in library messages.
NAMES = {
    **{"want": "--want", "at": "--at", "position": "--at", "top": "--top", "centre": "--centre"},
    **{"corpus": "--corpus", "corpora": "--corpus", "lines": "--lines", "column": "--column"},
    **{"label": "--label", "group": "--group", "groups": "--group", "method": "--method"},
    **{"baseline": "--baseline", "sentences": "--sentences", "control": "--control", "plot": "--plot"},
    **{"layers": "--layers", "coefficients": "--coefficients", "positions": "--positions", "dims": "--dims"},
    **{"measure": "--measure", "measures": "--measure", "addition": "--addition", "store": "--store"},
    **{"best": "--best", "samples": "--samples", "seed": "--seed", "batch_rows": "--batch-rows"},
    **{"prompt": "--prompt", "prompts": "--prompts", "model": "--model", "set": "--set"},
    **{"dtype": "--dtype", "device": "--device", "device_map": "--device-map"},
    **{"explain": "--explain", "coefficient": "--coefficient", "layer": "--layer"},
    **{"relative": "--relative", "ray": "--ray", "count": "--count"},
    **{"file": "--output", "folder": "--output", "approximate": "--approximate"},
    **{"budget": "--budget", "oddness": "--oddness"},
    **{"toward": "--toward", "away": "--away", "neutral": "--neutral", "choices": "--choices"},
    **{"threads": "--threads", "scan": "--scan", "scan_layers": "--scan-layers"},
}


def in_options(message: str) -> str:
    """Rewrite parameters in a library message as options: `dtype=float32` becomes --dtype float32."""

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in NAMES:
            return found[0]
        return NAMES[name] if value is None else f"{NAMES[name]} {value}"

    return re.sub(r"`([a-z_]+)(?:=([^`]+))?`", option, message)


def error_text(error: SteerError) -> str:
    """An error's text on the command line, with its parameter as an option."""
    message = str(error)
    if error.parameter in NAMES:
        message = NAMES[error.parameter] + message.removeprefix(error.parameter)
    return in_options(message)


@dataclass(frozen=True)
class Help:
    """A command's help: paragraphs of text, and examples to paste, one per line."""

    text: str
    examples: tuple[str, ...]


# Of helps whose examples name files: not all of them come with the package.
THEIR_FILES = (
    "In the examples, benchmarks/corpora is a folder of steer's repository, which is not installed with the "
    "command; files called mine are yours."
)


def help_text(text: str, *examples: str) -> Help:
    return Help(text, examples)


class Debug:
    """Whether expected errors show a traceback; the option may come before or after the command."""

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


def _needs_accelerate(device_map: str | None) -> str | None:
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise ModelError(
            f"device_map {device_map}: needs accelerate; install it with: pip install accelerate",
            "device_map",
        )
    return device_map


Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe file, the name of a shipped recipe (see `steer recipes`), or - for standard input.",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option("--prompt", "-p", metavar="TEXT", help="Use this prompt; repeatable."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Hub id, folder, .gguf file or catalogue name (see `steer models`).",
        autocompletion=model_names,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change any value, such as additions.0.coefficient=3; repeatable.",
    ),
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        "--dtype", help="Type of the weights; auto is float32 on a CPU and the checkpoint's type elsewhere."
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="cuda, mps or cpu; auto takes the first available."),
]
DeviceMap = Annotated[
    Literal["auto"] | None,
    typer.Option(
        "--device-map",
        callback=_needs_accelerate,
        help="Spread a model that is too large for one accelerator.",
    ),
]


def _needs_ray(address: str | None) -> str | None:
    if address is not None:
        from steer_cli.workers.cluster import check_installed

        check_installed(address)
    return address


Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        callback=_needs_ray,
        help="Compute on the workers of this Ray cluster, each with --threads; local starts one here.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="COUNT",
        min=1,
        max=MOST_THREADS,
        help="Threads to compute with on the CPU; by default as many as torch chooses.",
    ),
]
Corpora = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        metavar="NAME=FILE",
        help="Sentences to measure: a plain text, .jsonl or .csv file; repeatable.",
    ),
]
Lines = Annotated[
    bool,
    typer.Option(
        "--lines",
        help="Take each line (in a table, each cell) as one sentence. By default texts are split into "
        "sentences; a line break also ends one, unless most lines end in mid-sentence, as in wrapped prose.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option("--column", metavar="NAME", help="The column of a .csv or .jsonl file that holds the text."),
]
Label = Annotated[
    str | None,
    typer.Option("--label", metavar="NAME", help="Report figures for each value of this column."),
]
Group = Annotated[
    list[str] | None,
    typer.Option(
        "--group", metavar="LABEL=VALUES", help="Merge values of the label column, such as negative=1,2."
    ),
]
Method = Annotated[
    Literal["pad", "overlay"] | None,
    typer.Option(
        "--method",
        help="pad (the default): spaces in front of the text take the vector; overlay: the text itself does.",
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot", metavar="FILE", help="Also draw a plot into a .png or .svg file (needs the extra `plot`)."
    ),
]
Want = Annotated[
    list[str] | None,
    typer.Option(
        "--want", metavar="WORD", help="With KL: a word to compute effect and damage for; repeatable."
    ),
]
