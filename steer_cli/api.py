"""Each question from end to end: plan, load, steer, measure.

Everything that can be wrong with the input is found before torch is imported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli.errors import CorpusError, PlanError, TokenError
from steer_cli.events import Note, Progress, silent
from steer_cli.measure.corpus import Corpus
from steer_cli.measure.words import find_words
from steer_cli.models import catalogue
from steer_cli.models.resolve import Located, locate
from steer_cli.planning.alignment_table import TableRow, table_rows
from steer_cli.planning.placement import Placement, align_additions, check_length, place
from steer_cli.planning.tokens import Tokenizer, open_tokenizer
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import show
from steer_cli.results import Completion, Norms, Outcome, Perplexity, SentenceChange, Shift, figure_name
from steer_cli.steering.baselines import control_vectors, prompted

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.decoding.engine import Finished
    from steer_cli.decoding.request import Row
    from steer_cli.models.load import Model
    from steer_cli.steering.arms import Observer


@dataclass(frozen=True)
class Hardware:
    """Where the weights go and in which precision; see `model.load`."""

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None


@dataclass(frozen=True)
class PlannedPrompt:
    """A prompt, its ids with BOS, and where every addition acts on it."""

    text: str
    ids: tuple[int, ...]
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class Planned:
    """A recipe put onto a model's tokens: all that can be known without activations."""

    recipe: Recipe
    located: Located
    tokenizer: Tokenizer
    prompts: tuple[PlannedPrompt, ...]

    def table(self, prompt: PlannedPrompt) -> tuple[TableRow, ...]:
        return tuple(table_rows(self.tokenizer, prompt.ids, prompt.placements))


def plan(recipe: Recipe, weights: bool, progress: Progress = silent, note: Note = silent) -> Planned:
    """Find the model, tokenise and place every addition on every prompt.

    Raises:
        SteerError: anything that is wrong with the recipe, the prompts or the model's files.
    """
    recipe = recipe.with_prompts([])
    located, tokenizer = find(recipe, weights, progress, note)
    alignments = align_additions(recipe, tokenizer, located.blocks, located.context)
    prompts = []
    for text in recipe.all_prompts:
        ids = tokenizer.prompt(text)
        if weights:
            check_length(ids, text, recipe.sampling.max_new_tokens, located.context, located.limited)
        prompts.append(PlannedPrompt(text, ids, place(alignments, tokenizer, ids, text)))
    return Planned(recipe, located, tokenizer, tuple(prompts))


def find(
    recipe: Recipe, weights: bool, progress: Progress = silent, note: Note = silent
) -> tuple[Located, Tokenizer]:
    """The recipe's model and tokenizer; whether the recipe fits them is not looked at.

    Raises:
        SteerError: there is no such model, or it has no usable tokenizer.
    """
    located = locate(recipe.model, _convert_gguf, weights, progress, note)
    bos = located.bos if recipe.bos == "auto" else recipe.bos
    return located, open_tokenizer(located.folder, bos, located.also_eos)


def _convert_gguf(gguf: Path, folder: Path) -> None:
    from steer_cli.models.load import convert_gguf

    convert_gguf(gguf, folder)


def pull(name: str, progress: Progress = silent, note: Note = silent) -> Path:
    """Fetch and convert a model of the catalogue unless it is there; returns its folder.

    Raises:
        CatalogueError: there is no such model, or it cannot be fetched.
    """
    return catalogue.pull(name, _convert_gguf, progress, note)


def load_model(located: Located, hardware: Hardware, progress: Progress) -> Model:
    """Load the weights, which takes seconds."""
    from steer_cli.models.load import load

    progress("load", 0, None)
    model = load(located.folder, located.name, **vars(hardware))
    progress("load", 1, 1)
    return model


def generate(
    recipe: Recipe,
    hardware: Hardware,
    score: bool = True,
    batch_rows: int | None = None,
    progress: Progress = silent,
    note: Note = silent,
    control: str | None = None,
) -> Iterator[Outcome]:
    """Completions of every prompt, unsteered and steered, a prompt at a time.

    Args:
        score: also take each completion's mean log probability under the unsteered model, by one more pass.
        batch_rows: rows that decode together; None fits them to a memory budget.
        control: a third arm, random, embedding, prompt or shuffled; see `controls`.

    Raises:
        SteerError: the input is at fault.
    """
    planned = plan(recipe, weights=True, progress=progress, note=note)
    fronted = _fronted(planned) if control == "prompt" else ()
    from steer_cli.steering.vectors import compute

    model = load_model(planned.located, hardware, progress)
    alignments = [placement.alignment for placement in planned.prompts[0].placements]
    vectors = [compute(model, alignments)]
    if control not in (None, "prompt"):
        vectors.append(control_vectors(model, alignments, vectors[0], control, recipe.sampling.seed))
    outcomes = _complete(planned, model, vectors, fronted, score, batch_rows, progress)
    yield from (replace(outcome, control_kind=control) for outcome in outcomes)


def _fronted(planned: Planned) -> tuple[tuple[int, ...], ...]:
    """Each prompt's ids with the plus text in front, for the control `prompt`."""
    recipe, located = planned.recipe, planned.located
    rows = tuple(prompted(recipe, prompt.ids, planned.tokenizer) for prompt in planned.prompts)
    for prompt, ids in zip(planned.prompts, rows, strict=True):
        check_length(ids, prompt.text, recipe.sampling.max_new_tokens, located.context, located.limited)
    return rows


def _complete(
    planned: Planned,
    model: Model,
    vectors: list[list[Tensor]],
    fronted: tuple[tuple[int, ...], ...],
    score: bool,
    batch_rows: int | None,
    progress: Progress,
) -> Iterator[Outcome]:
    from steer_cli.decoding.engine import generate as decode
    from steer_cli.decoding.prefill import UNSTEERED, Job
    from steer_cli.steering.arms import Observer, arm_of

    sampling, observers = planned.recipe.sampling, deque()

    def jobs() -> Iterator[Job]:
        for number, prompt in enumerate(planned.prompts):
            observers.append(Observer(1, prompt.placements, vectors[0]))
            arms = (arm_of(model, prompt.placements, each, len(prompt.ids)) for each in vectors)
            yield Job(prompt.ids, (UNSTEERED, *arms), observers[-1].see)
            if fronted:
                yield Job(fronted[number], (UNSTEERED,))

    rows = (1 + len(vectors) + bool(fronted)) * sampling.samples * len(planned.prompts)
    ended = 0

    def count(more: int) -> None:
        nonlocal ended
        ended += more
        progress("decode", ended, rows)

    longest = max(map(len, [*(prompt.ids for prompt in planned.prompts), *fronted]))
    together = None if batch_rows is None else min(batch_rows, rows)
    finished = decode(model, jobs(), sampling, planned.tokenizer.eos, longest, together, count)
    for prompt in planned.prompts:
        done = next(finished)
        arms = [*done.rows, *(next(finished).rows if fronted else ())]
        oddness = _oddness(model, done, arms) if score else None
        yield _outcome(planned, prompt, observers.popleft(), arms, oddness)


def _oddness(model: Model, done: Finished, arms: Sequence[Sequence[Row]]) -> list[float]:
    from steer_cli.measure.logprob import mean_logprobs

    rows = [row.ids for arm in arms for row in arm]
    return mean_logprobs(model, done.started.prefixes[0], done.started.logits[0], rows)


def _outcome(
    planned: Planned,
    prompt: PlannedPrompt,
    observer: Observer,
    arms: Sequence[Sequence[Row]],
    oddness: list[float] | None,
) -> Outcome:
    tokenizer, recipe = planned.tokenizer, planned.recipe
    samples = recipe.sampling.samples
    rows = [row for arm in arms for row in arm]
    texts = []
    for row, mean_logprob in zip(rows, oddness or [None] * len(rows), strict=True):
        text = tokenizer.completion(prompt.ids, row.ids)
        texts.append(Completion(text, row.ids, row.finish, find_words(text, recipe.count), mean_logprob))
    return Outcome(
        recipe=recipe,
        model=planned.located.name,
        prompt=prompt.text,
        pieces=tuple(tokenizer.piece(id) for id in prompt.ids),
        table=planned.table(prompt),
        receipts=observer.taken(),
        sums=tuple(observer.sums),
        unsteered=tuple(texts[:samples]),
        steered=tuple(texts[samples : 2 * samples]),
        control=tuple(texts[2 * samples :]),
    )


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
    from steer_cli.measure.scoring import next_logits
    from steer_cli.measure.shift import Distributions, figures
    from steer_cli.measure.shift import top as likeliest
    from steer_cli.steering.arms import NOTHING, Placed
    from steer_cli.steering.vectors import compute

    model = load_model(planned.located, hardware, progress)
    vectors = tuple(compute(model, [placement.alignment for placement in planned.prompts[0].placements]))
    for prompt, position in zip(planned.prompts, places, strict=True):
        # A coefficient of 0 is no arm of its own: rounding may differ between the rows of a batch.
        acts = any(at.alignment.addition.coefficient for at in prompt.placements)
        arms = [NOTHING, *([Placed(prompt.placements, vectors)] if acts else [])]
        logits = next_logits(model, prompt.ids, arms, position)
        both = Distributions.from_logits(logits[-1], logits[0])
        yield Shift(
            recipe=recipe.name,
            model=planned.located.name,
            prompt=prompt.text,
            pieces=tuple(planned.tokenizer.piece(id) for id in prompt.ids[: position + 1]),
            position=position,
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
    from steer_cli.measure import lines
    from steer_cli.measure import perplexity as measure
    from steer_cli.steering.arms import Unplaced
    from steer_cli.steering.vectors import compute

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
