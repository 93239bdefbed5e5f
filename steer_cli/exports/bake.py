"""Bake a recipe into a checkpoint: constants at every position become biases that any code runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import ModelError, PlanError
from steer_cli.events import Note, Progress, silent
from steer_cli.exports.constant import check_acts, check_constant, constants
from steer_cli.exports.new_folder import check_new, check_room, fault, new_folder
from steer_cli.exports.places import Places, places
from steer_cli.exports.provenance import digest_of, provenance
from steer_cli.models.inspect_folder import read_config, weight_names
from steer_cli.models.located import Located
from steer_cli.planning.alignment import Alignment, files_of
from steer_cli.planning.json_file import text_part
from steer_cli.planning.plan import ModelFacts, align
from steer_cli.planning.span import name_of
from steer_cli.recipe.quoting import show
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Baked
from steer_cli.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.activations.arms import Steering
    from steer_cli.exports.tensors import Tensors
    from steer_cli.models.load import Model

TYPES = ("auto", "float32", "bfloat16", "float16")
WORTH_A_NOTE = 1e-3  # share of a constant's length
WAY_OUT = "keep the recipe, or write its vectors with `steer export`"


@dataclass(frozen=True)
class BakePlan:
    """What to bake, where its constants go, and the type of the written weights."""

    recipe: Recipe
    located: Located
    alignments: tuple[Alignment, ...]
    folder: Path
    places: Places
    dtype: str = "auto"


@dataclass(frozen=True)
class Baking:
    """What is left to do without the model: its tensors, and what the probes give when it is steered."""

    plan: BakePlan
    tensors: Tensors
    wanted: list[Tensor]
    device: str
    about: Mapping[str, str]


def plan_bake(
    recipe: Recipe, facts: ModelFacts, located: Located, folder: str | Path, dtype: str = "auto"
) -> BakePlan:
    """Everything that can be checked before weights are read.

    Raises:
        ExportError: the folder exists, or could not be made.
        PlanError: an addition is not a constant at every position, or has no place in this network.
        SteerError: the recipe does not fit the model.
    """
    from steer_cli.exports.shards import list_tensors

    folder = Path(folder)
    check_new(folder)
    if dtype not in TYPES:
        raise ModelError(f"dtype {show(dtype)}: use one of {', '.join(TYPES)}", "dtype")
    check_position(recipe)
    alignments = align(recipe, facts)
    layers = {one.block for one in alignments if not one.addition.adds_nothing}
    config = read_config(located.folder, located.name)
    try:
        if text_part(config) is not config:
            raise ValueError("its config.json has parts for several networks")
        where = places(config, list_tensors(files_in(located)), layers, located.blocks or 0)
    except ValueError as error:
        raise PlanError(f"{recipe.label}: cannot be baked into {located.name}: {error}; {WAY_OUT}") from None
    return BakePlan(recipe, located, alignments, folder, where, dtype)


def check_position(recipe: Recipe) -> None:
    """Raise PlanError if an addition acts elsewhere than at every position, or is no constant."""
    for index, addition in enumerate(recipe.additions):
        if addition.operation == "ablate" or addition.adds_nothing or addition.every == "all":
            continue
        raise PlanError(
            f"{recipe.label}: additions.{index}: `position: {name_of(addition.position)}` is not every "
            "position, where a bias acts; write `position: {every: all}`, for BOS and new tokens too"
        )
    check_constant(recipe)


def files_in(located: Located) -> list[Path]:
    """The files of a model's weights."""
    return [located.folder / name for name in weight_names(located.folder, located.name)]


def prepare(model: Model, plan: BakePlan, steering: Steering) -> Baking:
    """Compute what `write_bake` needs of the loaded model, which may be dropped afterwards.

    Raises:
        ModelError: the model computes in half precision, in which nothing could be compared.
        VectorError: the additions of a layer sum to zeros, change nothing, or are not finite.
    """
    import torch

    from steer_cli.exports.probe import probe
    from steer_cli.exports.tensors import changed_tensors

    if model.network.dtype != torch.float32:
        raise ModelError(
            f"model {show(model.name)}: a checkpoint is compared in float32; load it with `dtype=float32`"
        )
    sums = constants(plan.recipe, steering)
    check_acts(plan.recipe, model.network, sums)
    tensors = changed_tensors(files_in(plan.located), plan.places, sums, plan.dtype)
    wanted = probe(model.network, tensors.added)
    return Baking(plan, tensors, wanted, str(model.network.device), provenance(plan.recipe, model))


def write_bake(baking: Baking, progress: Progress = silent, note: Note = silent) -> Baked:
    """Write the checkpoint, compare it with the steered network, and only then let it appear.

    Raises:
        ExportError: the folder cannot be written, or what was written is not the steered network.
    """
    from steer_cli.exports.beside_weights import config_for, write_beside
    from steer_cli.exports.probe import EXACT, ROUNDED, baked_probe, check_difference
    from steer_cli.models.hardware import Hardware

    plan, tensors = baking.plan, baking.tensors
    check_room(plan.folder, tensors.size)
    hardware = Hardware("float32", baking.device)
    config = config_for(plan.places.config, plan.dtype)
    bos = plan.located.bos
    with new_folder(plan.folder, note) as work:
        write_beside(plan.located.folder, work, config, plan.places.layers, baking.about, bos)
        try:
            tensors.write(work, not tensors.two_steps, progress)
            share = check_difference(baked_probe(work, hardware), baking.wanted, EXACT)
            if tensors.two_steps:
                tensors.write(work, True, progress)
                most = ROUNDED[tensors.narrowest]
                share = check_difference(baked_probe(work, hardware), baking.wanted, most)
        except ModelError as error:
            raise fault(plan.folder, f"not made: {error}") from None
    if tensors.lost >= WORTH_A_NOTE:
        note(f"{tensors.kind} loses {tensors.lost:.1%} of a constant's length to rounding; float32 keeps all")
    return _result(baking, share)


def _result(baking: Baking, share: float) -> Baked:
    plan, about = baking.plan, baking.about
    return Baked(
        recipe=plan.recipe.name,
        recipe_sha256=digest_of(plan.recipe),
        folder=str(plan.folder),
        places=plan.places.layers,
        network=str(plan.places.config["model_type"]),
        model=plan.located.name,
        revision=about.get("revision"),
        dtype=baking.tensors.kind,
        difference=share,
        rounding=baking.tensors.lost,
        bos=plan.located.bos,
        version=__version__,
        files=files_of(plan.alignments),
    )
