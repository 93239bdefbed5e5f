"""The story on one page: each stage called once, in order.

Everything that can be wrong with the input is found before torch is imported. This module does not
know the terminal: progress and notes are handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steer_cli import catalogue
from steer_cli.catalogue import Note, Progress, silent
from steer_cli.locate import Located, locate
from steer_cli.measure.words import count_words
from steer_cli.outcome import Completion, Outcome
from steer_cli.plan import Placement, align_additions, check_length, place
from steer_cli.recipe import Recipe
from steer_cli.table import TableRow, table_rows
from steer_cli.tokens import Tokenizer, open_tokenizer

# Samples of one prompt that are decoded together.
BATCH_SAMPLES = 32


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
    alignments = align_additions(recipe, tokenizer, located.blocks)
    prompts = []
    for text in recipe.all_prompts:
        ids = tokenizer.prompt(text)
        if weights:
            check_length(ids, text, recipe.sampling.max_new_tokens, located.context, located.name)
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


def generate(
    recipe: Recipe, hardware: Hardware, score: bool = False, progress: Progress = silent, note: Note = silent
) -> Iterator[Outcome]:
    """Completions of every prompt, unsteered and steered, a prompt at a time.

    Args:
        score: also take each completion's mean log probability under the unsteered model.

    Raises:
        SteerError: the input is at fault.
    """
    planned = plan(recipe, weights=True, progress=progress, note=note)
    from steer_cli.model import load
    from steer_cli.vectors import compute

    progress("load", 0, None)
    model = load(planned.located.folder, planned.located.name, **vars(hardware))
    progress("load", 1, 1)
    alignments = [placement.alignment for placement in planned.prompts[0].placements]
    vectors = compute(model, alignments)
    for number, prompt in enumerate(planned.prompts):
        yield _complete(planned, prompt, model, vectors, score, _part(progress, number, len(planned.prompts)))


def _part(progress: Progress, number: int, prompts: int) -> Progress:
    return lambda stage, done, total: progress(stage, number * total + done, prompts * total)


def _complete(
    planned: Planned, prompt: PlannedPrompt, model, vectors, score: bool, progress: Progress
) -> Outcome:
    from steer_cli.arms import Observer, arm_of
    from steer_cli.generate import UNSTEERED, decode, mean_logprobs, prefill

    sampling = planned.recipe.sampling
    arms = [UNSTEERED, arm_of(model, prompt.placements, vectors, len(prompt.ids))]
    observer = Observer(1, prompt.placements, vectors)
    start = prefill(model, prompt.ids, arms, observer.see)
    rows: list[list] = [[] for _ in arms]
    for first in range(0, sampling.samples, BATCH_SAMPLES):
        batch = range(first, min(first + BATCH_SAMPLES, sampling.samples))

        def step(number: int, batch: range = batch) -> None:
            done = batch.start * sampling.max_new_tokens + len(batch) * (number + 1)
            progress("decode", done, sampling.samples * sampling.max_new_tokens)

        for arm, more in enumerate(
            decode(model, prompt.ids, arms, start, batch, sampling, planned.tokenizer.eos, step)
        ):
            rows[arm] += more
    flat = [row for arm in rows for row in arm]
    odd = mean_logprobs(model, start, 0, flat) if score else [None] * len(flat)
    texts = []
    for row, mean_logprob in zip(flat, odd, strict=True):
        text = planned.tokenizer.completion(prompt.ids, row.ids)
        texts.append(
            Completion(text, row.ids, row.finish, count_words(text, planned.recipe.count), mean_logprob)
        )
    return Outcome(
        recipe=planned.recipe,
        model=planned.located.name,
        prompt=prompt.text,
        pieces=tuple(planned.tokenizer.piece(id) for id in prompt.ids),
        table=planned.table(prompt),
        receipts=observer.taken(),
        unsteered=tuple(texts[: sampling.samples]),
        steered=tuple(texts[sampling.samples :]),
    )
