"""The story on one page: each stage called once, in order.

Everything that can be wrong with the input is found before torch is imported. This module does not
know the terminal: progress and notes are handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steer_cli import catalogue
from steer_cli.catalogue import Note, Progress, silent
from steer_cli.controls import control_vectors, prompted
from steer_cli.locate import Located, locate
from steer_cli.measure.words import find_words
from steer_cli.outcome import Completion, Outcome
from steer_cli.plan import Placement, align_additions, check_length, place
from steer_cli.recipe import Recipe
from steer_cli.table import TableRow, table_rows
from steer_cli.tokens import Tokenizer, open_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from steer_cli.arms import Observer
    from steer_cli.generate import Finished
    from steer_cli.model import Model
    from steer_cli.task import Row


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
    from steer_cli.model import convert_gguf

    convert_gguf(gguf, folder)


def pull(name: str, progress: Progress = silent, note: Note = silent) -> Path:
    """Fetch and convert a model of the catalogue unless it is there; returns its folder.

    Raises:
        CatalogueError: there is no such model, or it cannot be fetched.
    """
    return catalogue.pull(name, _convert_gguf, progress, note)


def load_model(located: Located, hardware: Hardware, progress: Progress) -> Model:
    """Load the weights, which takes seconds."""
    from steer_cli.model import load

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
    from steer_cli.vectors import compute

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
    from steer_cli.arms import Observer, arm_of
    from steer_cli.generate import generate as decode
    from steer_cli.prefill import UNSTEERED, Job

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
