"""What does the model write, unsteered and steered? Completions with receipts and cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steer_cli.activations.arms import UNSTEERED, Steering
from steer_cli.activations.baselines import Control
from steer_cli.activations.relative import stream_lengths
from steer_cli.decoding.engine import Finished, decode
from steer_cli.decoding.request import Decoded, Request
from steer_cli.events import Progress
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.measure.partials import Partials
from steer_cli.measure.words import find_words
from steer_cli.networks.network import Network
from steer_cli.planning.plan import Plan, PlannedPrompt
from steer_cli.planning.scan import ScanPlan
from steer_cli.results import Comparison, Completion, Watch


def completions(
    network: Network,
    plan: Plan,
    steerings: Sequence[Steering],
    control: Control | None,
    batch_rows: int | None,
    score: bool,
    progress: Progress,
    watch: Watch | None = None,
) -> Iterator[Comparison]:
    """Completions of a plan's prompts, one prompt at a time.

    Args:
        steerings: the recipe's, and a control's where that is a vector; the control keeps the numbers that
            the recipe's relative coefficients come to.
        control: the third arm, if there is one.
        batch_rows: rows that decode together; None fits them to a memory budget.
        score: also compute each completion's mean log probability under the unsteered model.
        watch: told how the first completions of a prompt grow; of several prompts, the oldest unfinished one.
    """
    sampling = plan.recipe.sampling
    fronted = () if control is None else control.rows

    texts = [prompt.ids for prompt in plan.prompts]
    lengths = stream_lengths(network, texts, steerings[0].relative_layers, progress)

    def requests() -> Iterator[Request]:
        for index, prompt in enumerate(plan.prompts):
            steered = steerings[0].on(prompt.placements, lengths[index])
            others = (steering.on(steered.placements) for steering in steerings[1:])
            yield Request(prompt.ids, (UNSTEERED, steered, *others), receipts=True)
            if fronted:
                yield Request(fronted[index], (UNSTEERED,))

    total = (1 + len(steerings) + bool(fronted)) * sampling.samples * len(plan.prompts)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress("decode", done, total)

    longest = max(map(len, [*texts, *fronted]))
    together = None if batch_rows is None else min(batch_rows, total)
    partials = (
        None
        if watch is None
        else Partials(plan, None if control is None else control.name, 2 if fronted else 1, watch)
    )
    eos = plan.facts.tokenizer.eos
    finished = decode(network, requests(), sampling, eos, longest, together, count, watch=partials)
    finished = finished if partials is None else partials.counting(finished)
    for prompt in plan.prompts:
        first = next(finished)
        arms = [*first.arms, *(next(finished).arms if fronted else ())]
        logprobs = _mean_logprobs(network, first, arms) if score else None
        yield _outcome(plan, prompt, first, arms, logprobs, control, steerings[0])


def completion_of(
    plan: Plan | ScanPlan, prompt: PlannedPrompt, row: Decoded, mean_logprob: float | None
) -> Completion:
    """A row as text, with its counted words."""
    text = plan.facts.tokenizer.completion(prompt.ids, row.ids)
    return Completion(text, row.ids, row.finish, find_words(text, plan.recipe.count), mean_logprob)


def _mean_logprobs(
    network: Network, finished: Finished, arms: Sequence[Sequence[Decoded]]
) -> list[list[float]]:
    """Mean log probabilities of each arm's completions after the unsteered prompt."""
    # The unsteered arm was drawn from exactly these probabilities.
    known = [row.mean_logprob for row in arms[0] if row.mean_logprob is not None]
    rows = [row.ids for arm in arms[1:] for row in arm]
    started = finished.started
    scored = iter(mean_logprobs(network, started.prefixes[0], started.logits[0], rows))
    return [known, *([next(scored) for _ in arm] for arm in arms[1:])]


def _outcome(
    plan: Plan,
    prompt: PlannedPrompt,
    finished: Finished,
    arms: Sequence[Sequence[Decoded]],
    logprobs: Sequence[Sequence[float]] | None,
    control: Control | None,
    steering: Steering,
) -> Comparison:
    recipe = plan.recipe
    columns = []
    for index, arm in enumerate(arms):
        column = []
        for sample, row in enumerate(arm):
            logprob = None if logprobs is None else logprobs[index][sample]
            column.append(completion_of(plan, prompt, row, logprob))
        columns.append(tuple(column))
    steered = finished.started.receipts[1]
    return Comparison(
        recipe=recipe,
        model=plan.facts.name,
        prompt=prompt.text,
        pieces=plan.pieces(prompt.ids),
        table=plan.table(prompt),
        receipts=steered.receipts,
        sums=steered.sums,
        agreements=steering.agreements,
        unsteered=columns[0],
        steered=columns[1],
        control=columns[2] if control else (),
        control_kind=None if control is None else control.kind,
        control_name=None if control is None else control.name,
        control_text=None if control is None else control.text,
        chat=prompt.chat,
    )
