"""Lay out a recipe on its evidence: sentences, choices and prompts. Needs the tokenizer, but no weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steer_cli.errors import CorpusError, PlanError, SteerError
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.evidence import FEWEST_UNEQUAL, Choice, Evidence, fewest
from steer_cli.measure.lines import Line, check_fit, fit, lay_out, pads_in_front
from steer_cli.measure.prompting import Fronted, before_prompts, before_sentences
from steer_cli.planning.placement import Alignment
from steer_cli.planning.plan import ModelFacts, Plan, align, plan_recipe
from steer_cli.recipe.schema import Recipe

SAMPLES = 24  # completions of each prompt in each arm, where prompts are too few for an interval


def on_texts(alignments: Iterable[Alignment]) -> tuple[Alignment, ...]:
    """The additions as they act on a text that is read instead of written: {every: new} acts on all of it."""
    return tuple(
        replace(alignment, addition=alignment.addition.model_copy(update={"position": "every"}))
        if alignment.addition.every == "new"
        else alignment
        for alignment in alignments
    )


def method_of(alignments: Sequence[Alignment]) -> str:
    """How sentences make room: `pad` for vectors at the front, `overlay` if any acts elsewhere."""
    at_front = all(alignment.addition.position == "front" for alignment in alignments)
    return "pad" if at_front else "overlay"


def lines_of(
    corpora: Sequence[Corpus], alignments: tuple[Alignment, ...], facts: ModelFacts
) -> tuple[Line, ...]:
    """The sentences as tokens, with room for the additions; needs no weights.

    Raises:
        CorpusError: a sentence is longer than the model's context.
        PlanError: the additions fit no sentence, or no text follows one of them in any.
    """
    alignments = on_texts(alignments)
    front = pads_in_front(alignments, facts.tokenizer) if method_of(alignments) == "pad" else ()
    lines = lay_out(corpora, facts.tokenizer, front, facts.context)
    check_fit(lines, alignments, facts.tokenizer)
    return lines


def measurable(evidence: Evidence, alignments: tuple[Alignment, ...], facts: ModelFacts) -> Evidence:
    """Half of some evidence, without sentences that additions do not fit or leave no prediction in.

    Raises:
        CorpusError: too few of a set are left, or a sentence is longer than the model's context.
        PlanError: the additions fit no sentence.
    """
    kept: set[tuple[str, str]] = set()
    reasons: dict[str, str] = {}
    for line in lines_of(evidence.corpora, alignments, facts):
        try:
            fitted = fit(line, on_texts(alignments), facts.tokenizer)
        except PlanError as error:
            reasons.setdefault(line.corpus, str(error))
            continue
        if fitted.kept:
            kept.add((line.corpus, line.text))

    def part(corpus: Corpus | None) -> Corpus | None:
        if corpus is None:
            return None
        sentences = [sentence for sentence in corpus.sentences if (corpus.name, sentence.text) in kept]
        of = f"{len(corpus.sentences)} sentences of one half"
        check_enough(corpus.name, len(sentences), of, reasons.get(corpus.name))
        return Corpus.of(corpus.name, sentences)

    neutral = part(evidence.neutral)
    assert neutral is not None
    return replace(evidence, neutral=neutral, toward=part(evidence.toward), away=part(evidence.away))


def check_enough(name: str, kept: int, of: str, reason: str | None = None) -> None:
    """Raise CorpusError where too few sentences of a set can be measured.

    Args:
        of: how many there are, and of what.
        reason: why not, if it is not that they are too short.
    """
    if kept < fewest(name):
        why = reason or "the others have no prediction after the vector; give longer ones"
        raise CorpusError(f"{name}: {kept} of {of} can be measured, too few for an interval: {why}", name)


@dataclass(frozen=True)
class ChoicePlan:
    """The prompts of items with the additions placed on them, and the tokens of both answers of each."""

    plan: Plan
    answers: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]  # matching, not matching


def plan_choices(recipe: Recipe, facts: ModelFacts, items: Sequence[Choice]) -> ChoicePlan:
    """Place a recipe on the prompts of items; needs no weights.

    Raises:
        SteerError: the recipe does not fit a prompt, or a row would be too long.
    """
    answers = tuple(
        (facts.tokenizer.encode(item.matching), facts.tokenizer.encode(item.not_matching)) for item in items
    )
    longest = max(len(ids) for both in answers for ids in both)
    plan = plan_recipe(recipe.with_prompts([item.prompt for item in items]), facts, longest)
    return ChoicePlan(plan, answers)


@dataclass(frozen=True)
class ScorePlan:
    """All that a card measures; None where there is nothing of a kind, and `missing` says why.

    `fronted`, `choice_rows` and `writing_rows` are those of plain prompting; `front` is the text in front.
    """

    recipe: Recipe
    facts: ModelFacts
    evidence: Evidence
    alignments: tuple[Alignment, ...]
    lines: tuple[Line, ...]
    fronted: Fronted | None
    choices: ChoicePlan | None
    choice_rows: tuple[tuple[int, ...], ...]
    writing: Plan | None
    writing_rows: tuple[tuple[int, ...], ...]
    front: str | None
    missing: dict[str, str]


def plan_score(
    recipe: Recipe, facts: ModelFacts, evidence: Evidence, samples: int | None = None
) -> ScorePlan:
    """Lay out everything, so that what does not fit is said before any weights are loaded.

    Args:
        samples: completions per prompt and arm; by default enough for an interval.

    Raises:
        SteerError: the recipe does not fit the model, the evidence or a prompt, or there are too few samples.
    """
    alignments = align(recipe, facts)
    missing: dict[str, str] = {}
    lines = _lines(alignments, facts, evidence, missing)
    choices = None if evidence.choices is None else plan_choices(recipe, facts, evidence.choices.items)
    writing = _writing(recipe, facts, evidence, samples, missing)
    fronted, front = None, None
    rows: list[tuple[tuple[int, ...], ...]] = []
    try:
        if lines:
            fronted = before_sentences(lines, on_texts(alignments), facts)
            front = fronted.name
        counted = writing if evidence.count is not None else None
        for plan in (None if choices is None else choices.plan, counted):
            control = None if plan is None else before_prompts(plan)
            rows.append(() if control is None else control.rows)
            front = front if control is None else control.name.removeprefix("prompt ")
    except SteerError as error:
        # What follows is how to give `steer generate` another text.
        missing["prompt"] = str(error).partition(";")[0]
        fronted, front, rows = None, None, [(), ()]
    return ScorePlan(
        *(recipe, facts, evidence, alignments, lines, fronted),
        *(choices, rows[0], writing, rows[1], front, missing),
    )


def _lines(
    alignments: tuple[Alignment, ...], facts: ModelFacts, evidence: Evidence, missing: dict[str, str]
) -> tuple[Line, ...]:
    """The sentences; none where the recipe fits no neutral text and no other sentences are asked for."""
    try:
        return lines_of(evidence.corpora, alignments, facts)
    except PlanError as error:
        if evidence.toward is not None:
            raise
        missing["damage"] = str(error)
        return ()


def _writing(
    recipe: Recipe, facts: ModelFacts, evidence: Evidence, samples: int | None, missing: dict[str, str]
) -> Plan | None:
    """The prompts to complete, with enough samples for an interval; None where there are none."""
    prompts, sampling, least = len(recipe.all_prompts), recipe.sampling, FEWEST_UNEQUAL
    fault = ""
    if not prompts:
        fault = "the recipe has no prompt; add one with `prompt=TEXT`"
    elif prompts < least and sampling.temperature == 0:
        fault = f"at temperature 0 all samples are the same; give {least} prompts or more, or a temperature"
    if fault and evidence.count is not None:
        raise CorpusError(f"count {evidence.count}: {fault}", "count")
    if fault:
        missing["fluency"] = fault
        return None
    few = prompts < least
    count = samples or (max(SAMPLES, sampling.samples) if few else sampling.samples)
    if few and count < least:
        raise CorpusError(
            f"samples {count}: too few for an interval; give {least} or more, or {least} prompts", "samples"
        )
    return plan_recipe(recipe.with_sampling(samples=count), facts, sampling.max_new_tokens)
