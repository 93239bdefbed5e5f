"""What a model writes in many arms: which words it uses, how fluent it is, and whether it repeats itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from steer_cli.activations.arms import UNSTEERED, Steering
from steer_cli.activations.relative import stream_lengths
from steer_cli.decoding.engine import decode
from steer_cli.decoding.request import Decoded, Request
from steer_cli.events import Progress
from steer_cli.measure.bootstrap import Draws
from steer_cli.measure.evidence import FEWEST_UNEQUAL
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.measure.words import count_words
from steer_cli.networks.network import Network
from steer_cli.planning.plan import Plan

GRAM = 3  # tokens whose repetition counts


@dataclass(frozen=True)
class Written:
    """Figures of one arm's completions: for each prompt, one value per sample.

    `logprob` is the mean log probability per token under the unsteered model, in nats; `repeated` the share
    of runs of three tokens that the completion has had before; `words` the uses of counted words.
    """

    logprob: list[list[float]]
    repeated: list[list[float]]
    words: list[list[float]]


def written(
    network: Network,
    plan: Plan,
    steerings: Sequence[Steering],
    fronted: Sequence[tuple[int, ...]] = (),
    label: str | None = None,
    progress: Progress = lambda *_: None,
) -> list[Written]:
    """Complete every prompt of a plan unsteered, under each steering, and after `fronted`, in this order.

    Sample i uses the same random numbers in all arms.

    Args:
        fronted: each prompt with a text in front, as tokens; completions are scored after the prompt alone.
        label: of the recipe's word lists; None counts nothing.

    Raises:
        VectorError: an arm changes nothing, or logits are no longer finite.
    """
    texts = [prompt.ids for prompt in plan.prompts]
    relative = frozenset[int]().union(*(steering.relative_layers for steering in steerings))
    lengths = stream_lengths(network, texts, relative)

    def requests() -> Iterator[Request]:
        for index, prompt in enumerate(plan.prompts):
            arms = [steering.on(prompt.placements, lengths[index]) for steering in steerings]
            yield Request(prompt.ids, (UNSTEERED, *arms))
            if fronted:
                yield Request(fronted[index], (UNSTEERED,))

    sampling, done = plan.recipe.sampling, 0
    arms = 1 + len(steerings) + bool(fronted)
    total = arms * sampling.samples * len(texts)

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress("decode", done, total)

    longest = max(map(len, [*texts, *fronted]))
    eos = plan.facts.tokenizer.eos
    finished = decode(network, requests(), sampling, eos, longest, ended=count)
    found = [Written([], [], []) for _ in range(arms)]
    for prompt in plan.prompts:
        first = next(finished)
        columns = [*first.arms, *(next(finished).arms if fronted else ())]
        rows = [row.ids for column in columns for row in column]
        started = first.started
        means = iter(mean_logprobs(network, started.prefixes[0], started.logits[0], rows))
        for arm, column in zip(found, columns, strict=True):
            arm.logprob.append([next(means) for _ in column])
            arm.repeated.append([repeated(row.ids) for row in column])
            arm.words.append([_words(plan, prompt.ids, row, label) for row in column])
    return found


def _words(plan: Plan, prompt: tuple[int, ...], row: Decoded, label: str | None) -> float:
    if label is None:
        return 0.0
    text = plan.facts.tokenizer.completion(prompt, row.ids)
    return float(count_words(text, {label: plan.recipe.count[label]})[label])


def repeated(ids: Sequence[int]) -> float:
    """The share of runs of three tokens that occurred earlier; 0 of a completion that has none."""
    grams = [tuple(ids[start : start + GRAM]) for start in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def draws_of(values: Sequence[Sequence[float]]) -> Draws:
    """Completions as independent draws: the means of the prompts, or of the samples where prompts are few.

    Of few prompts, an interval over samples holds for these prompts only.
    """
    if len(values) >= FEWEST_UNEQUAL:
        return Draws.of([fmean(of_prompt) for of_prompt in values])
    return Draws.of([fmean(sample) for sample in zip(*values, strict=True)])
