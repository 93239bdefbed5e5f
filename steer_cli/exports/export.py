"""Export a recipe's vectors: check what is asked before slow work, then write the file whole."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import ExportError
from steer_cli.events import Note, silent
from steer_cli.exchange.stored import MOST_BYTES
from steer_cli.exchange.whole_file import write_whole
from steer_cli.exports.control_vector import FIRST_LAYER, check_control_vector, control_vector
from steer_cli.exports.provenance import digest_of
from steer_cli.exports.vectors_file import vectors_file
from steer_cli.planning.alignment import Alignment, files_of
from steer_cli.planning.plan import ModelFacts, align
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Exported
from steer_cli.version import __version__

if TYPE_CHECKING:
    from steer_cli.activations.arms import Steering
    from steer_cli.models.load import Model

GGUF, SAFETENSORS = "gguf", "safetensors"
SUFFIXES = ".gguf (a control vector for llama.cpp) or .safetensors (all positions, for steer)"


@dataclass(frozen=True)
class ExportPlan:
    """What to write, where, and how it will differ from the recipe, which `approximate` allows."""

    recipe: Recipe
    alignments: tuple[Alignment, ...]
    file: Path
    format: str
    approximate: bool = False
    approximations: tuple[str, ...] = ()


def check_file(file: Path) -> str:
    """The format of a file to write, which must be new.

    Raises:
        ExportError: its name has no known suffix, it exists, or it could not be written.
    """
    suffix = file.suffix.lower()[1:]
    if suffix not in (GGUF, SAFETENSORS):
        raise _fault(file, f"write a name that ends in {SUFFIXES}")
    if "\0" in str(file):
        raise _fault(file, "the name of a file holds no NUL; choose another name")
    if os.path.isdir(file):  # unlike `file.is_dir()`, it takes a name of any length
        raise _fault(file, "is a folder; write the name of a file in it")
    if os.path.lexists(file):
        raise _taken(file)
    folder = file.absolute().parent
    if not folder.is_dir():
        raise _fault(file, f"there is no folder {file.parent}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _fault(file, "cannot be written; choose another place")
    return suffix


def plan_export(recipe: Recipe, facts: ModelFacts, file: str | Path, approximate: bool = False) -> ExportPlan:
    """Everything that can be checked before vectors are computed.

    Raises:
        ExportError: as `check_file`.
        SteerError: the recipe does not fit the model, or the format cannot say what it does.
    """
    file = Path(file)
    kind = check_file(file)
    alignments = align(recipe, facts)
    notes: tuple[str, ...] = ()
    if kind == GGUF:
        notes = check_control_vector(recipe, alignments, approximate)
        # Of those that are left out no vector is computed: at layer 0 there may be none.
        alignments = tuple(one for one in alignments if one.block >= FIRST_LAYER)
    return ExportPlan(recipe, alignments, file, kind, approximate, notes)


def write_export(model: Model, plan: ExportPlan, steering: Steering, note: Note = silent) -> Exported:
    """Write a plan's vectors; the file appears whole, and never in place of another.

    Raises:
        ExportError: the file cannot be written.
        VectorError: the vectors are zeros, or not finite.
    """
    recipe, file = plan.recipe, plan.file
    for text in plan.approximations:
        note(f"approximate: {text}")
    if plan.approximate and not plan.approximations:
        note(f"`approximate` changes nothing: {file.name} holds exactly what the recipe says")
    try:
        if plan.format == GGUF:
            content, layers, source = control_vector(recipe, model, steering, plan.approximations)
        else:
            content, layers, source = vectors_file(recipe, model, steering)
        _check_size(file, len(content))
        write_whole(file, content)
    except FileExistsError:
        raise _taken(file) from None
    except OSError as error:
        raise _fault(file, f"{error.strerror or error}; choose another place") from None
    if source is not None:
        note(f"the vectors are those of the recipe's own file, so {file.name} says of them what that does")
    return Exported(
        recipe=recipe.name,
        recipe_sha256=digest_of(recipe),
        file=str(file),
        format=plan.format,
        sha256=hashlib.sha256(content).hexdigest(),
        additions=_held(plan),
        layers=layers,
        width=model.network.width,
        model=model.name,
        revision=model.located.revision,
        dtype=model.dtype,
        version=__version__,
        approximations=plan.approximations,
        files=files_of(plan.alignments),
    )


def _held(plan: ExportPlan) -> tuple[int, ...]:
    """The additions that a file holds: in a control vector, those that add anything."""
    kept = [
        alignment.index
        for alignment in plan.alignments
        if plan.format != GGUF or not alignment.addition.adds_nothing
    ]
    return tuple(dict.fromkeys(kept))


def _check_size(file: Path, size: int) -> None:
    """Raise ExportError if the file would be larger than those that are read."""
    if size > MOST_BYTES:
        raise _fault(file, f"would have {size} bytes, and at most {MOST_BYTES} are read; choose fewer layers")


def _fault(file: Path, what: str) -> ExportError:
    return ExportError(f"file {file}: {what}", "file")


def _taken(file: Path) -> ExportError:
    return _fault(file, "the file already exists; choose another name, or remove it first")
