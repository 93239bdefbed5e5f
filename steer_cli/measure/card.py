"""Figures -> the card: which arm has them, and what they allow to be said."""

from __future__ import annotations

from steer_cli.measure import effects
from steer_cli.measure.evidence import Evidence
from steer_cli.measure.score import Arms
from steer_cli.measure.score_plan import ScorePlan, method_of
from steer_cli.measure.verdicts import verdict
from steer_cli.planning.alignment import files_of
from steer_cli.results import Card, Estimate, ScoredArm, Source, Verdict
from steer_cli.version import __version__


def card_of(plan: ScorePlan, found: Arms, revision: str, dtype: str, tried: int = 1) -> Card:
    """The card of what was measured.

    Args:
        revision, dtype: of the model.
        tried: number of candidates this recipe was selected from on held-out evidence; 1 if none.
    """
    changes = found.changes
    recipe = plan.recipe
    return Card(
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        model=plan.facts.name,
        revision=revision,
        dtype=dtype,
        version=__version__,
        method=method_of(plan.alignments),
        arms=_arms(plan, found),
        verdicts={kind: _verdict(kind, found, tried) for kind in found.effects},
        gains={name: effects.gain(changes, name) for name in ("toward", "away") if name in changes}
        if changes
        else {},
        answers=found.answers,
        fluency=found.fluency,
        curve=found.curve,
        sources=tuple(_sources(plan.evidence, found)),
        missing=plan.missing,
        files=files_of(plan.alignments),
    )


def _arms(plan: ScorePlan, found: Arms) -> tuple[ScoredArm, ...]:
    names: list[tuple[str, int | None]] = [("steered", None), *(("random", seed) for seed in found.seeds)]
    counts = [*map(len, found.effects.values()), len(found.neutral)]
    prompted = max(counts) > len(names)
    names += [("prompt", None)] if prompted else []
    arms = []
    for number, (name, seed) in enumerate(names):
        kinds = [kind for kind, values in found.effects.items() if number < len(values)]
        beyond = {kind: found.beyond[kind][number - 1] for kind in kinds} if number else {}
        neutral = found.neutral[number] if number < len(found.neutral) else None
        own = {kind: found.effects[kind][number] for kind in kinds}
        arms.append(ScoredArm(name, own, beyond, neutral, seed, plan.front if name == "prompt" else None))
    return tuple(arms)


def _verdict(kind: str, found: Arms, tried: int) -> Verdict:
    effect, *others = found.effects[kind]
    randoms = [other.value for other in others[: len(found.seeds)]]
    return verdict(effect, found.beyond[kind][: len(found.seeds)], randoms, _conditions(kind, found), tried)


def _conditions(kind: str, found: Arms) -> list[tuple[bool, str]]:
    """What else must hold on sentences: that the toward ones gain, and not merely lose less than others."""
    if kind != "sentences" or found.changes is None:
        return []
    toward: Estimate = effects.gain(found.changes, "toward")
    conditions = [(not toward.below_zero, "the toward sentences lose too, only less than the away ones")]
    if "away" not in found.changes:
        more = effects.gain_beyond_neutral(found.changes)
        conditions.append((more.above_zero, "neutral text gains as much"))
    return conditions


def _sources(evidence: Evidence, found: Arms) -> list[Source]:
    sources = []
    for corpus in evidence.corpora:
        measured = len(found.changes[corpus.name].change.sums) if found.changes else 0
        sources.append(Source(corpus.name, len(corpus.sentences), measured, corpus.sha256))
    if evidence.choices is not None:
        count = len(evidence.choices.items)
        sources.append(Source("choices", count, count, evidence.choices.sha256))
    return sources
