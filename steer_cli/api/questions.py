"""The library's functions, each end to end on a model that is loaded once.

Planning comes first and needs no torch, so bad recipes raise at the call, before any slow work begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steer_cli.errors import PlanError
from steer_cli.events import Note, Progress, silent
from steer_cli.exports.export import plan_export
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.lines import plan_corpora
from steer_cli.models.hardware import Hardware
from steer_cli.models.resolve import locate
from steer_cli.planning.plan import align, plan_recipe
from steer_cli.planning.prediction import place_in, wanted_ids
from steer_cli.recipe.chat import Chat
from steer_cli.recipe.load import checked
from steer_cli.recipe.load import load as load_file
from steer_cli.recipe.overrides import value_override
from steer_cli.recipe.schema import Recipe
from steer_cli.results import Baked, Comparison, CorpusFindings, Exported, Norms, Shift, SweepPoint, Watch
from steer_cli.run_plan import complete, exported, load, norms_of, perplexity_of, prepared, shifts, vectors_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from steer_cli.models.load import Model


def load_model(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    note: Note = silent,
) -> Model:
    """Load a model's weights and tokenizer, once for many calls.

    Args:
        name: a catalogue name, a folder, a .gguf file or a hub id.
        dtype: float32, bfloat16 or float16; auto is float32 on a CPU and the checkpoint's elsewhere.
        device: cuda, cuda:1, mps or cpu; auto is the first available of these.
        device_map: auto spreads a model over all accelerators and the CPU's memory.
        threads: torch's CPU threads, for the whole process; None leaves the number unchanged.

    Raises:
        ModelError: no such model or device, or weights that do not fit.
        CatalogueError: a catalogue model cannot be fetched.
    """
    located = locate(name, True, progress, note)
    return load(located, Hardware(dtype, device, device_map, threads), progress)


def load_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read and validate a recipe, given a path or a shipped name.

    Args:
        changes: values by their paths, such as `{"additions.0.coefficient": 3}`.

    Raises:
        RecipeError: the file cannot be read or is not a recipe.
    """
    overrides = [value_override(path, value) for path, value in (changes or {}).items()]
    return load_file(name, overrides)


def vectors(model: Model, recipe: Recipe) -> list[Tensor]:
    """The vector of each addition at each of its layers, unscaled.

    Returns:
        [positions, width] for each, or [1, width] for `every`.

    Raises:
        SteerError: the recipe does not fit the model, or a vector does nothing.
    """
    return list(vectors_of(model.network, align(checked(recipe), model.facts(recipe.bos))).vectors)


def export(
    model: Model, recipe: Recipe, file: str | Path, approximate: bool = False, note: Note = silent
) -> Exported:
    """Write a recipe's vectors to a new .gguf or .safetensors file; docs/files.md says what stands in each.

    Args:
        approximate: write the nearest that a .gguf file can say; `note` and the result say what differs.

    Raises:
        SteerError: the file cannot be written, or cannot say what the recipe does.
    """
    return exported(
        model, plan_export(checked(recipe), model.facts(recipe.bos), file, approximate), note=note
    )


def bake(model: Model, recipe: Recipe, folder: str | Path, dtype: str = "auto", note: Note = silent) -> Baked:
    """Write a new checkpoint that is steered by itself; docs/bake.md has what can be baked, and what cannot.

    The model has to be loaded in float32; `dtype` is that of the written weights.
    """
    from steer_cli.exports.bake import plan_bake, write_bake

    plan = plan_bake(checked(recipe), model.facts(recipe.bos), model.located, folder, dtype)
    return write_bake(prepared(model, plan, note=note), note=note)


def generate(
    model: Model,
    recipe: Recipe,
    prompts: Sequence[str | Chat | Mapping[str, Any]] = (),
    samples: int | None = None,
    seed: int | None = None,
    control: str | None = None,
    progress: Progress = silent,
    watch: Watch | None = None,
    note: Note = silent,
) -> tuple[Comparison, ...]:
    """Completions of every prompt, unsteered and steered.

    Args:
        prompts: instead of the recipe's; a chat as {"chat": [{"role": ..., "content": ...}]}.
        samples, seed: instead of the recipe's.
        control: a third arm: random, shuffled, embedding, prompt (the plus texts in front of the prompt) or
            `prompt=TEXT` (that text in front); see `activations.baselines`.
        watch: called with a `results.Partial` whenever the first completions of a prompt have grown; of
            several prompts, the oldest unfinished one is watched.
        note: called with a line for the user, as where the texts of an addition do not agree.

    Raises:
        SteerError: the recipe does not fit the model or a prompt, or steering does nothing.
    """
    recipe = checked(recipe).with_prompts(list(prompts)).with_sampling(samples=samples, seed=seed)
    plan = plan_recipe(recipe, model.facts(recipe.bos), recipe.sampling.max_new_tokens)
    return tuple(complete(model, plan, control=control, progress=progress, watch=watch, note=note))


def shift(
    model: Model,
    recipe: Recipe,
    prompt: str | Chat | Mapping[str, Any] | None = None,
    want: Sequence[str] = (),
    position: int | None = None,
    top: int = 10,
    note: Note = silent,
) -> Shift:
    """Compare the steered and unsteered next-token distributions of one prompt.

    Args:
        prompt: replaces the recipe's; required if the recipe has several.
        want: words for effect and damage.
        position: predict from here; BOS is 0, negative positions count from the end, None is the last.
        top: how many of the likeliest tokens of each arm to include.
        note: called with a line for the user, as where the texts of an addition do not agree.

    Raises:
        SteerError: the recipe does not fit the model or the prompt, or steering does nothing.
    """
    recipe = checked(recipe).with_prompts([prompt] if prompt is not None else [])
    plan = plan_recipe(recipe, model.facts(recipe.bos), 0)
    if len(plan.prompts) != 1:
        raise PlanError(f"{recipe.label}: it has {len(plan.prompts)} prompts; choose one with `prompt`")
    wanted, positions = wanted_ids(want, plan.facts.tokenizer), [place_in(plan.prompts[0], position)]
    return next(shifts(model, plan, positions, wanted, top, note))


def norms(model: Model, recipe: Recipe, centre: bool = False, note: Note = silent) -> tuple[Norms, ...]:
    """|vector| and |stream| of every addition at every layer, on every prompt.

    Args:
        centre: subtract the mean over the width first; for models with LayerNorm.
        note: as in `shift`.

    Raises:
        SteerError: the recipe does not fit the model or a prompt.
    """
    return tuple(norms_of(model, plan_recipe(checked(recipe), model.facts(recipe.bos), 0), centre, note))


def perplexity(
    model: Model,
    recipe: Recipe,
    corpora: Iterable[Corpus],
    method: str = "pad",
    baseline: bool = False,
    sentences: bool = False,
    note: Note = silent,
) -> CorpusFindings:
    """Perplexity of every corpus, steered compared with unsteered.

    Args:
        method: `pad` keeps vector and text apart by spaces after BOS; `overlay` lays the one on the other.
        baseline: add figures of the plus text as tokens in front, without a vector, as method `prompt`;
            several different ones stand one after the other, as many as the context holds.
        sentences: keep the change of every token.

    Raises:
        SteerError: the recipe does not fit the model or any sentence, or nothing can be compared.
    """
    plan = plan_corpora(checked(recipe), model.facts(recipe.bos), tuple(corpora), method, baseline)
    return perplexity_of(model, plan, sentences, note)


def sweep(
    model: Model,
    recipe: Recipe,
    layers: str,
    coefficients: str | None = None,
    positions: str | None = None,
    dims: str | None = None,
    measures: Sequence[str] = (),
    corpora: Iterable[Corpus] = (),
    want: Sequence[str] = (),
    method: str | None = None,
    store: Path | None = None,
    progress: Progress = silent,
    note: Note = silent,
    relative: str | None = None,
) -> tuple[SweepPoint, ...]:
    """Measure a recipe over layers, coefficients, positions and shares of the width.

    Args:
        layers, coefficients, positions, dims: ranges as on the command line, such as 0:30 or 1,2,4; a range
            of layers excludes its stop, other ranges include it.
        measures: perplexity, kl, counts; by default perplexity with corpora, kl without.
        store: a file that keeps finished points, from which the same sweep continues.
        relative: a range of relative coefficients, such as 0.2:1:0.2, instead of plain ones.

    Raises:
        SteerError: the recipe or a range does not fit, or a point cannot be run.
    """
    from steer_cli.sweeps.plan import SweepOptions, plan_sweep
    from steer_cli.sweeps.sweep import sweep

    options = SweepOptions(
        layers,
        coefficients,
        positions,
        dims,
        tuple(measures),
        want=tuple(want),
        method=method,
        relative=relative,
    )
    plan = plan_sweep(checked(recipe), tuple(corpora), options, model.located)
    return tuple(sweep(plan, model, store, progress, note))
