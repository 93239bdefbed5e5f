"""Measure the points of a grid, computing shared work once.

The unsteered arm runs once. Points of the same layer start from the same recorded stream, which moves up
layer by layer, and run as rows of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from steer_cli.activations.arms import UNSTEERED, Arm, Steering
from steer_cli.activations.relative import StreamLengths, stream_lengths
from steer_cli.activations.vectors import compute
from steer_cli.decoding.engine import decode
from steer_cli.decoding.prefill import prefill
from steer_cli.decoding.request import Decoded, Request
from steer_cli.events import Note, silent
from steer_cli.measure import shift
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.measure.next_token import next_logits
from steer_cli.measure.perplexity import figures, left_out_notes
from steer_cli.measure.sheet import Sheet
from steer_cli.measure.words import count_words
from steer_cli.models.load import Model
from steer_cli.planning.placement import place
from steer_cli.planning.plan import PlannedPrompt, align
from steer_cli.results import (
    ArmMeans,
    Cost,
    Perplexity,
    PromptShift,
    SweepPoint,
    came_to,
    compare_arms,
    steering_cost,
)
from steer_cli.sweeps.grid import GridPoint
from steer_cli.sweeps.plan import SweepPlan


@dataclass(frozen=True)
class Completed:
    """Figures of one arm's completions: for each prompt, one value per sample.

    `uses`: label -> uses of its words; `logprobs`: mean log probabilities under the unsteered model.
    """

    uses: dict[str, list[list[int]]]
    logprobs: list[list[float]]


@dataclass
class Runner:
    """A model and the results of its unsteered arm, computed when the first point needs them."""

    model: Model
    plan: SweepPlan
    note: Note = silent
    _sheet: Sheet | None = field(default=None, init=False)
    _unsteered: Completed | None = field(default=None, init=False)
    # Of each prompt's stream, where the relative coefficients of the points in hand are.
    _lengths: dict[tuple[int, ...], StreamLengths] = field(default_factory=dict, init=False)
    _noted: set[str] = field(default_factory=set, init=False)

    def measure(self, group: Sequence[GridPoint]) -> list[SweepPoint]:
        """Measure some points of one layer; going through layers in rising order is cheapest.

        Raises:
            SteerError: a point cannot be run.
        """
        plan, arms = self.plan, self._arms(group)
        if plan.measures != ("perplexity",):
            texts = [prompt.ids for prompt in plan.prompts]
            layers = frozenset[int]().union(*(arm.relative_layers for arm in arms))
            self._lengths = dict(zip(texts, stream_lengths(self.model.network, texts, layers), strict=True))
        run: dict[str, Any] = {"perplexity": self._perplexity, "kl": self._kl, "counts": self._counts}
        # In the order of the measures, so that the first measure's error is reported.
        found = {measure: run[measure](arms) for measure in plan.measures}
        points = []
        for index, point in enumerate(group):
            counts, cost = found["counts"][index] if "counts" in found else ({}, None)
            points.append(
                SweepPoint(
                    recipe=plan.recipe.name,
                    model=plan.located.name,
                    coordinates=plan.coordinates(point),
                    measures=plan.measures,
                    perplexity=found["perplexity"][index] if "perplexity" in found else (),
                    kl=found["kl"][index] if "kl" in found else (),
                    counts=counts,
                    cost=cost,
                )
            )
        return points

    def _arms(self, group: Sequence[GridPoint]) -> list[Steering]:
        recipes = [self.plan.recipe_at(point) for point in group]
        aligned = [align(recipe, self.plan.facts) for recipe in recipes]
        # All in one call, as points of one layer mostly read the same streams.
        together = [alignment for alignments in aligned for alignment in alignments]
        vectors = iter(compute(self.model.network, together, zero_dims=True))
        return [Steering(alignments, tuple(islice(vectors, len(alignments)))) for alignments in aligned]

    def _perplexity(self, arms: Sequence[Steering]) -> list[tuple[Perplexity, ...]]:
        plan = self.plan
        if self._sheet is None:
            self._sheet = Sheet(self.model.network, plan.tokenizer, plan.lines)
        found = [
            tuple(figures(self._sheet, compared, plan.corpora, plan.method))
            for compared in self._sheet.compare(arms)
        ]
        for message in (message for of_point in found for message in left_out_notes(of_point)):
            if message not in self._noted:
                self._noted.add(message)
                self.note(message)
        return found

    def _kl(self, arms: Sequence[Steering]) -> list[tuple[PromptShift, ...]]:
        found: list[list[PromptShift]] = [[] for _ in arms]
        for prompt in self.plan.prompts:
            placed = [self._on(arm, prompt) for arm in arms]
            last = len(prompt.ids) - 1
            unsteered, *steered = next_logits(self.model.network, prompt.ids, [UNSTEERED, *placed], last)
            for arm, on_prompt, logits, shifts in zip(arms, placed, steered, found, strict=True):
                # Reuse the unsteered arm if nothing is added: rounding may differ between rows.
                logits = unsteered if arm.adds_nothing else logits
                both = shift.Distributions.from_logits(logits, unsteered)
                moved = shift.figures(both, self.plan.wanted)
                numbers = came_to(on_prompt.placements)
                shifts.append(PromptShift(prompt.text, **moved, coefficients=numbers))
        return [tuple(shifts) for shifts in found]

    def _on(self, arm: Steering, prompt: PlannedPrompt) -> Arm:
        is_chat = prompt.chat is not None
        placements = place(arm.alignments, self.plan.tokenizer, prompt.ids, prompt.text, is_chat)
        return arm.on(placements, self._lengths[prompt.ids])

    def _counts(self, arms: Sequence[Steering]) -> list[tuple[dict[str, ArmMeans], Cost]]:
        """Uses of the recipe's words, and the cost of the texts, over all prompts and samples."""
        if self._unsteered is None:
            [self._unsteered] = self._completed([lambda _: UNSTEERED])
        unsteered = self._unsteered
        acting = [arm for arm in arms if not arm.adds_nothing]
        completed = iter(self._completed([partial(self._on, arm) for arm in acting]))
        found = []
        for arm in arms:
            steered = unsteered if arm.adds_nothing else next(completed)
            uses = steered.uses
            counts = {label: compare_arms(unsteered.uses[label], uses[label]) for label in uses}
            found.append((counts, steering_cost(unsteered.logprobs, steered.logprobs)))
        return found

    def _completed(self, arms: Sequence[Callable[[PlannedPrompt], Arm]]) -> list[Completed]:
        """Complete every prompt in every arm; count words in the texts and score them."""
        recipe, tokenizer, prompts = self.plan.recipe, self.plan.tokenizer, self.plan.prompts
        completed = [Completed({label: [] for label in recipe.count}, []) for _ in arms]
        rows: list[list[Sequence[Decoded]]] = [[] for _ in prompts]
        pairs = [(arm, index) for arm in range(len(arms)) for index in range(len(prompts))]
        requests = (Request(prompts[index].ids, (arms[arm](prompts[index]),)) for arm, index in pairs)
        longest = max(len(prompt.ids) for prompt in prompts)
        finished = decode(self.model.network, requests, recipe.sampling, tokenizer.eos, longest)
        for (arm, index), done in zip(pairs, finished, strict=True):
            rows[index] += done.arms
            texts = [tokenizer.completion(prompts[index].ids, row.ids) for row in done.arms[0]]
            counted = [count_words(text, recipe.count) for text in texts]
            for label, of_prompts in completed[arm].uses.items():
                of_prompts.append([counts[label] for counts in counted])
        # Score after decoding, when its memory is free.
        for prompt, of_arms in zip(prompts, rows, strict=True):
            for scores, logprobs in zip(completed, self._logprobs(prompt, of_arms), strict=True):
                scores.logprobs.append(logprobs)
        return completed

    def _logprobs(self, prompt: PlannedPrompt, arms: Sequence[Sequence[Decoded]]) -> list[list[float]]:
        """Mean log probability of each completion of a prompt, arm by arm, in one pass."""
        if not arms:
            return []
        [start] = prefill(self.model.network, [Request(prompt.ids, (UNSTEERED,))])
        rows = [row.ids for samples in arms for row in samples if row.logprob is None]
        means = iter(mean_logprobs(self.model.network, start.prefixes[0], start.logits[0], rows))
        return [
            [next(means) if row.logprob is None else row.logprob / len(row.ids) for row in samples]
            for samples in arms
        ]
