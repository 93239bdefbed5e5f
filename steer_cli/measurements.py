"""The measurements' stories, each stage called once, in order; `run` holds that of generation.

Everything that can be wrong with the input is found before torch is imported. This module does not
know the terminal: progress and notes are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steer_cli.catalogue import Note, Progress, silent
from steer_cli.corpus import Corpus
from steer_cli.document import show
from steer_cli.errors import CorpusError, PlanError, TokenError
from steer_cli.findings import Norms, Perplexity, SentenceChange, Shift, figure_name
from steer_cli.plan import align_additions
from steer_cli.recipe import Recipe
from steer_cli.run import Hardware, Planned, find, load_model, plan
from steer_cli.tokens import Tokenizer


def _planned(recipe: Recipe, progress: Progress, note: Note) -> Planned:
    """A plan for passes over the prompts, which generate no token."""
    nothing_new = recipe.sampling.model_copy(update={"max_new_tokens": 0})
    return plan(recipe.model_copy(update={"sampling": nothing_new}), True, progress, note)


def wanted_ids(words: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that a word may be: as it is written, and with a space before it.

    Raises:
        TokenError: neither is one token of the model.
    """
    ids: list[int] = []
    for word in words:
        forms = {tokenizer.encode(form) for form in (word, " " + word.lstrip())}
        single = sorted(form[0] for form in forms if len(form) == 1) if word else []
        if not single:
            pieces = ", ".join(show(tokenizer.piece(id)) for id in tokenizer.encode(word)) or "none"
            raise TokenError(
                f"--want {show(word)}: not one token of this model but {pieces}; choose another word"
            )
        ids += single
    return tuple(dict.fromkeys(ids))


def shift(
    recipe: Recipe,
    hardware: Hardware,
    at: int | None = None,
    want: Sequence[str] = (),
    top: int = 10,
    progress: Progress = silent,
    note: Note = silent,
) -> Iterator[Shift]:
    """The next-token distributions of every prompt, steered against unsteered.

    Args:
        at: the position to predict from, BOS being 0; negative ones count from the end. None is the last.
        want: words whose mass gives effect and damage.

    Raises:
        SteerError: the input is at fault.
    """
    planned = _planned(recipe, progress, note)
    wanted = wanted_ids(want, planned.tokenizer)
    places = [_position(at, prompt.ids, prompt.text) for prompt in planned.prompts]
    from steer_cli.arms import NOTHING, Placed
    from steer_cli.measure.scoring import next_logits
    from steer_cli.measure.shift import Distributions, figures
    from steer_cli.measure.shift import top as likeliest
    from steer_cli.vectors import compute

    model = load_model(planned.located, hardware, progress)
    vectors = tuple(compute(model, [placement.alignment for placement in planned.prompts[0].placements]))
    for prompt, place in zip(planned.prompts, places, strict=True):
        # A coefficient of 0 is no arm of its own: rounding may differ between the rows of a batch.
        acts = any(at.alignment.addition.coefficient for at in prompt.placements)
        arms = [NOTHING, *([Placed(prompt.placements, vectors)] if acts else [])]
        logits = next_logits(model, prompt.ids, arms, place)
        both = Distributions.from_logits(logits[-1], logits[0])
        yield Shift(
            recipe=recipe.name,
            model=planned.located.name,
            prompt=prompt.text,
            pieces=tuple(planned.tokenizer.piece(id) for id in prompt.ids[: place + 1]),
            position=place,
            **figures(both, wanted),
            tokens=likeliest(both, top, planned.tokenizer.piece),
        )


def _position(at: int | None, ids: Sequence[int], text: str) -> int:
    place = len(ids) - 1 if at is None else at + len(ids) if at < 0 else at
    if not 0 <= place < len(ids):
        raise PlanError(
            f"--at {at}: prompt {show(text)} has positions 0 to {len(ids) - 1}; choose one of them"
        )
    return place


def norms(
    recipe: Recipe, hardware: Hardware, centre: bool = False, progress: Progress = silent, note: Note = silent
) -> Iterator[Norms]:
    """|vector| and |stream| of every addition at every layer, on every prompt.

    Args:
        centre: take the mean over the width away first; for LayerNorm models.

    Raises:
        SteerError: the input is at fault.
    """
    planned = _planned(recipe, progress, note)
    from steer_cli.measure.norms import norms as measure

    model = load_model(planned.located, hardware, progress)
    for prompt in planned.prompts:
        for placement, vector, stream in measure(model, prompt.ids, prompt.placements, centre):
            inside = prompt.ids[placement.start : placement.end]
            yield Norms(
                recipe=recipe.name,
                model=planned.located.name,
                prompt=prompt.text,
                addition=placement.alignment.index,
                label=placement.alignment.label,
                layer=placement.alignment.layer,
                start=placement.start,
                tokens=tuple(planned.tokenizer.piece(id) for id in inside),
                vector=tuple(vector.tolist()),
                stream=tuple(stream.tolist()),
                ratio=tuple((vector / stream).tolist()),
                centred=centre,
            )


@dataclass(frozen=True)
class CorpusFindings:
    """What `perplexity` found: figures in the order of the corpora, and each sentence's changes."""

    model: str
    figures: tuple[Perplexity, ...]
    sentences: tuple[SentenceChange, ...]


def perplexity(
    recipe: Recipe,
    corpora: Sequence[Corpus],
    hardware: Hardware,
    method: str = "pad",
    baseline: bool = False,
    sentences: bool = False,
    progress: Progress = silent,
    note: Note = silent,
) -> CorpusFindings:
    """Perplexity of every corpus, steered against unsteered.

    Args:
        method: `pad` keeps vector and text apart by spaces behind BOS; `overlay` lays the one on the other.
        baseline: add figures of the plus text as tokens in front, without a vector, as method `prompt`.
        sentences: keep the change of every token.

    Raises:
        SteerError: the input is at fault.
    """
    check_names(corpora)
    located, tokenizer = find(recipe, True, progress, note)
    alignments = align_additions(recipe, tokenizer, located.blocks, located.context)
    from steer_cli.arms import Unplaced
    from steer_cli.measure import lines
    from steer_cli.measure import perplexity as measure
    from steer_cli.vectors import compute

    front = lines.pads_in_front(alignments, tokenizer) if method == "pad" else ()
    rows = lines.lay_out(corpora, tokenizer, front, located.context)
    lines.check_fit(rows, alignments, tokenizer)
    fronted = lines.prompted(rows, alignments, located.context) if baseline else ()
    for each in filter(None, (corpus.split for corpus in corpora)):
        note(each)
    model = load_model(located, hardware, progress)
    arm = Unplaced(alignments, tuple(compute(model, alignments)))
    sheet = measure.Sheet(model, tokenizer, rows)
    [compared] = sheet.compare([arm], keep_changes=sentences or baseline)
    figures = measure.figures(sheet, compared, corpora, method)
    if baseline:
        figures += measure.figures(sheet, sheet.prompted(fronted, compared), corpora, "prompt")
    # The baseline leaves out the same sentences.
    for each in dict.fromkeys(left_out_notes(figures)):
        note(each)
    changes = measure.sentence_changes(sheet, compared, tokenizer.piece) if sentences else ()
    return CorpusFindings(located.name, tuple(figures), tuple(changes))


def check_names(corpora: Sequence[Corpus]) -> None:
    """Raises CorpusError where two corpora have one name, or there is none at all."""
    names = [corpus.name for corpus in corpora]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CorpusError(
            f"--corpus {twice}: two corpora have this name; write NAME=FILE with names of their own"
        )
    if not names:
        raise CorpusError("no corpus; add --corpus NAME=FILE")


def left_out_notes(figures: Sequence[Perplexity]) -> Iterator[str]:
    """A note for every corpus of which sentences could not be measured."""
    for each in figures:
        if each.left_out:
            why = each.reason or "they are too short for the vector"
            yield (
                f"{figure_name(each.corpus, each.label)}: {each.left_out} of "
                f"{each.left_out + each.sentences} sentences are left out: {why}"
            )
