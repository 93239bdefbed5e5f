"""Run a plan on a loaded model. Commands and `api` both call this; results come as they are ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from steer_cli.activations.baselines import Control, planned
from steer_cli.events import Note, Progress, silent
from steer_cli.exports.export import ExportPlan, write_export
from steer_cli.measure.lines import CorpusPlan
from steer_cli.models.hardware import Hardware
from steer_cli.models.located import Located
from steer_cli.planning.alignment import Alignment, files_of
from steer_cli.planning.plan import Plan
from steer_cli.results import Card, Comparison, CorpusFindings, Exported, Norms, Shift, Watch, came_to

if TYPE_CHECKING:
    from steer_cli.activations.arms import Steering
    from steer_cli.exports.bake import BakePlan, Baking
    from steer_cli.measure.score_plan import ScorePlan
    from steer_cli.models.load import Model
    from steer_cli.networks.network import Network


def load(located: Located, hardware: Hardware, progress: Progress = silent) -> Model:
    """Load the weights of a located model, which takes seconds; see `load_model`."""
    from steer_cli.models.load import load

    return load(located, hardware, progress)


def vectors_of(
    network: Network, alignments: Sequence[Alignment], progress: Progress = silent, note: Note = silent
) -> Steering:
    """The vectors of a plan's additions, and how far their texts agree; a note says where they do not."""
    from steer_cli.activations.agreement import agreement, warn
    from steer_cli.activations.arms import Steering
    from steer_cli.activations.vectors import vector_of, with_streams

    vectors, agreements = [], []
    for alignment, streams in with_streams(network, alignments, progress):
        vectors.append(vector_of(alignment, streams, network))
        agreements.append(agreement(alignment, streams, network))
    warn(agreements, note)
    return Steering(tuple(alignments), tuple(vectors), tuple(agreements))


def complete(
    model: Model,
    plan: Plan,
    control: str | None = None,
    batch_rows: int | None = None,
    score: bool = True,
    progress: Progress = silent,
    watch: Watch | None = None,
    note: Note = silent,
) -> Iterator[Comparison]:
    """Completions of a plan's prompts, one prompt at a time.

    Args:
        control: a third arm, as `generate` takes it.
        batch_rows: rows that decode together; None fits them to a memory budget.
        score: also compute each completion's mean log probability under the unsteered model.
        watch: told how the first completions of a prompt grow; of several prompts, the oldest unfinished one.
        note: told where texts do not agree, and at the end where samples are too few to compare counts.
    """
    return _complete(model, plan, planned(plan, control), batch_rows, score, progress, watch, note)


def _complete(
    model: Model,
    plan: Plan,
    control: Control | None,
    batch_rows: int | None,
    score: bool,
    progress: Progress,
    watch: Watch | None,
    note: Note,
) -> Iterator[Comparison]:
    from steer_cli.activations.arms import Steering
    from steer_cli.activations.baselines import control_vectors
    from steer_cli.measure.completions import completions
    from steer_cli.measure.too_few import too_few, undecided

    steerings = [vectors_of(model.network, plan.alignments, progress, note)]
    if control is not None and not control.rows:
        seed, found = plan.recipe.sampling.seed, steerings[0].vectors
        changed = control_vectors(model.network, plan.alignments, found, control.kind, seed)
        steerings.append(Steering(plan.alignments, tuple(changed)))
    labels = []
    for comparison in completions(
        model.network, plan, steerings, control, batch_rows, score, progress, watch
    ):
        labels += undecided(comparison)
        yield comparison
    if labels:
        note(too_few(labels, plan.recipe.sampling.samples))


def shifts(
    model: Model,
    plan: Plan,
    positions: Sequence[int],
    wanted: Sequence[int] = (),
    top: int = 10,
    note: Note = silent,
) -> Iterator[Shift]:
    """The next-token distributions of every prompt of a plan; see `shift`.

    Args:
        positions: for each prompt, the position to predict from.
        wanted: token ids for effect and damage.
    """
    from steer_cli.activations.arms import UNSTEERED
    from steer_cli.activations.relative import stream_lengths
    from steer_cli.measure.next_token import next_logits
    from steer_cli.measure.shift import Distributions, figures
    from steer_cli.measure.shift import top as likeliest

    steering = vectors_of(model.network, plan.alignments, note=note)
    for prompt, position in zip(plan.prompts, positions, strict=True):
        # With coefficient 0, reuse the unsteered arm: rounding may differ between rows of a batch.
        [lengths] = stream_lengths(model.network, [prompt.ids], steering.relative_layers)
        arm = steering.on(prompt.placements, lengths)
        arms = [UNSTEERED, *([] if steering.adds_nothing else [arm])]
        logits = next_logits(model.network, prompt.ids, arms, position)
        both = Distributions.from_logits(logits[-1], logits[0])
        yield Shift(
            recipe=plan.recipe.name,
            model=model.name,
            prompt=prompt.text,
            pieces=plan.pieces(prompt.ids[: position + 1]),
            position=position,
            **figures(both, wanted),
            tokens=likeliest(both, top, plan.facts.tokenizer.piece),
            chat=prompt.chat,
            files=files_of(plan.alignments),
            coefficients=came_to(arm.placements),
        )


def norms_of(model: Model, plan: Plan, centre: bool = False, note: Note = silent) -> Iterator[Norms]:
    """The norms of a plan; see `norms`."""
    from steer_cli.measure.norms import norms

    for index, prompt in enumerate(plan.prompts):
        once = silent if index else note  # the texts are the same for all prompts
        for placement, vector, stream in norms(model.network, prompt.ids, prompt.placements, centre, once):
            yield Norms(
                recipe=plan.recipe.name,
                model=model.name,
                prompt=prompt.text,
                addition=placement.alignment.index,
                label=placement.alignment.label,
                layer=placement.layer,
                start=placement.start,
                tokens=plan.pieces(prompt.ids[placement.start : placement.end]),
                vector=tuple(vector.tolist()),
                stream=tuple(stream.tolist()),
                ratio=tuple((vector / stream).tolist()),
                centred=centre,
                chat=prompt.chat,
                files=placement.alignment.files,
                came_to=next(iter(came_to([placement])), None),
            )


def perplexity_of(
    model: Model, plan: CorpusPlan, sentences: bool = False, note: Note = silent
) -> CorpusFindings:
    """The perplexities of a plan's corpora; see `perplexity`."""
    from steer_cli.measure.perplexity import compare_corpora

    steering = vectors_of(model.network, plan.alignments, note=note)
    return compare_corpora(model.network, plan, steering, sentences, note)


def exported(model: Model, plan: ExportPlan, progress: Progress = silent, note: Note = silent) -> Exported:
    """Compute a plan's vectors and write them to its file; see `export`."""
    return write_export(model, plan, vectors_of(model.network, plan.alignments, progress, note), note)


def prepared(model: Model, plan: BakePlan, progress: Progress = silent, note: Note = silent) -> Baking:
    """All of a checkpoint that needs the loaded model; `exports.bake.write_bake` writes it."""
    from steer_cli.exports.bake import prepare

    return prepare(model, plan, vectors_of(model.network, plan.alignments, progress, note))


def score_of(
    model: Model,
    plan: ScorePlan,
    curve: bool = False,
    progress: Progress = silent,
    note: Note = silent,
    tried: int = 1,
    seeds: Sequence[int] | None = None,
) -> Card:
    """The card of a plan; see `score`.

    Args:
        curve: also measure multiples of the coefficient on sentences.
        tried: how many places a search has chosen the recipe from, by other evidence.
        seeds: of the random vectors; more of them tell more narrowly what chance does.
    """
    from steer_cli.measure.card import card_of
    from steer_cli.measure.score import SEEDS, measured
    from steer_cli.models.identity import WEIGHTS, fingerprint

    for missing, reason in plan.missing.items():
        note(f"{missing} is not measured: {reason}")
    steering = vectors_of(model.network, plan.alignments, progress, note)
    found = measured(model.network, plan, steering, curve, progress, seeds or SEEDS)
    return card_of(plan, found, fingerprint(model.located, WEIGHTS), model.dtype, tried)
