"""Measure the points of a grid; what they share is computed once.

The unsteered arm runs once. Points of one layer start from one recorded stream, which moves up with the
layers, and run as rows of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from steer_cli.api import left_out_notes
from steer_cli.decoding.engine import generate
from steer_cli.decoding.prefill import UNSTEERED, Arm, Job, prefill
from steer_cli.decoding.request import Row
from steer_cli.events import Note, silent
from steer_cli.measure import shift
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.measure.perplexity import Sheet, figures
from steer_cli.measure.scoring import next_logits
from steer_cli.measure.words import count_words
from steer_cli.models.load import Model
from steer_cli.planning.placement import Placement, align_additions, place
from steer_cli.results import ArmMeans, Cost, Perplexity, PromptShift, SweepPoint, compare_arms, steering_cost
from steer_cli.steering.arms import NOTHING, Placed, Unplaced, arm_of
from steer_cli.steering.vectors import compute
from steer_cli.sweep.grid import GridPoint
from steer_cli.sweep.plan import Prompt, SweepPlan


@dataclass(frozen=True)
class Completed:
    """Figures of one arm's completions: for each prompt, one value per sample.

    `uses`: label -> uses of its words; `logprobs`: mean log probabilities under the unsteered model.
    """

    uses: dict[str, list[list[int]]]
    logprobs: list[list[float]]


@dataclass
class Runner:
    """A model with the results of its unsteered arm, which are computed when the first point needs them."""

    model: Model
    plan: SweepPlan
    note: Note = silent
    _sheet: Sheet | None = field(default=None, init=False)
    _unsteered: Completed | None = field(default=None, init=False)
    _noted: set[str] = field(default_factory=set, init=False)

    def measure(self, group: Sequence[GridPoint]) -> list[SweepPoint]:
        """Measure some points of one layer; layers in rising order cost least.

        Raises:
            SteerError: a point cannot be run.
        """
        plan, arms = self.plan, self._arms(group)
        run = {"perplexity": self._perplexity, "kl": self._kl, "counts": self._counts}
        # In the order of the measures, as an error of the first is the one to report.
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

    def _arms(self, group: Sequence[GridPoint]) -> list[Unplaced]:
        recipes = [self.plan.recipe_at(point) for point in group]
        aligned = [align_additions(recipe, self.plan.tokenizer, self.model.depth) for recipe in recipes]
        # All in one call: points of one layer mostly read the same streams.
        vectors = iter(compute(self.model, [alignment for point in aligned for alignment in point]))
        return [Unplaced(alignments, tuple(islice(vectors, len(alignments)))) for alignments in aligned]

    def _perplexity(self, arms: Sequence[Unplaced]) -> list[tuple[Perplexity, ...]]:
        plan = self.plan
        if self._sheet is None:
            self._sheet = Sheet(self.model, plan.tokenizer, plan.lines)
        found = [
            tuple(figures(self._sheet, compared, plan.corpora, plan.method))
            for compared in self._sheet.compare(arms)
        ]
        for message in (message for of_point in found for message in left_out_notes(of_point)):
            if message not in self._noted:
                self._noted.add(message)
                self.note(message)
        return found

    def _kl(self, arms: Sequence[Unplaced]) -> list[tuple[PromptShift, ...]]:
        found: list[list[PromptShift]] = [[] for _ in arms]
        for prompt in self.plan.prompts:
            text, ids = prompt
            placed = [Placed(self._placements(arm, prompt), arm.vectors) for arm in arms]
            unsteered, *steered = next_logits(self.model, ids, [NOTHING, *placed], len(ids) - 1)
            for arm, logits, shifts in zip(arms, steered, found, strict=True):
                # An arm that adds nothing is the unsteered one: rounding may differ between rows of a batch.
                logits = unsteered if arm.nothing else logits
                both = shift.Distributions.from_logits(logits, unsteered)
                shifts.append(PromptShift(text, **shift.figures(both, self.plan.wanted)))
        return [tuple(shifts) for shifts in found]

    def _placements(self, arm: Unplaced, prompt: Prompt) -> tuple[Placement, ...]:
        return place(arm.alignments, self.plan.tokenizer, prompt[1], prompt[0])

    def _prompt_arm(self, arm: Unplaced, prompt: Prompt) -> Arm:
        return arm_of(self.model, self._placements(arm, prompt), arm.vectors, len(prompt[1]))

    def _counts(self, arms: Sequence[Unplaced]) -> list[tuple[dict[str, ArmMeans], Cost]]:
        """Uses of the recipe's words, and the cost of the texts, over all prompts and samples."""
        if self._unsteered is None:
            [self._unsteered] = self._completed([lambda _: UNSTEERED])
        unsteered = self._unsteered
        acting = [arm for arm in arms if not arm.nothing]
        completed = iter(self._completed([partial(self._prompt_arm, arm) for arm in acting]))
        found = []
        for arm in arms:
            steered = unsteered if arm.nothing else next(completed)
            uses = steered.uses
            counts = {label: compare_arms(unsteered.uses[label], uses[label]) for label in uses}
            found.append((counts, steering_cost(unsteered.logprobs, steered.logprobs)))
        return found

    def _completed(self, arms: Sequence[Callable[[Prompt], Arm]]) -> list[Completed]:
        """Complete every prompt in every arm; count words in the texts and score them."""
        recipe, tokenizer, prompts = self.plan.recipe, self.plan.tokenizer, self.plan.prompts
        completed = [Completed({label: [] for label in recipe.count}, []) for _ in arms]
        rows: list[list[Sequence[Row]]] = [[] for _ in prompts]
        pairs = [(arm, index) for arm in range(len(arms)) for index in range(len(prompts))]
        jobs = (Job(prompts[index][1], (arms[arm](prompts[index]),)) for arm, index in pairs)
        longest = max(len(prompt[1]) for prompt in prompts)
        # Packing would hold the weights twice, more memory than a sweep may use.
        finished = generate(self.model, jobs, recipe.sampling, tokenizer.eos, longest, pack=False)
        for (arm, index), done in zip(pairs, finished, strict=True):
            rows[index] += done.rows
            texts = [tokenizer.completion(prompts[index][1], row.ids) for row in done.rows[0]]
            counted = [count_words(text, recipe.count) for text in texts]
            for label, of_prompts in completed[arm].uses.items():
                of_prompts.append([counts[label] for counts in counted])
        # Scored afterwards, when the memory for decoding is free.
        for prompt, of_arms in zip(prompts, rows, strict=True):
            for arm, logprobs in zip(completed, self._logprobs(prompt, of_arms), strict=True):
                arm.logprobs.append(logprobs)
        return completed

    def _logprobs(self, prompt: Prompt, arms: Sequence[Sequence[Row]]) -> list[list[float]]:
        """Mean log probability of each completion of a prompt, arm by arm, in one pass."""
        if not arms:
            return []
        [start] = prefill(self.model, [Job(prompt[1], (UNSTEERED,))])
        rows = [row.ids for samples in arms for row in samples]
        means = iter(mean_logprobs(self.model, start.prefixes[0], start.logits[0], rows))
        return [list(islice(means, len(samples))) for samples in arms]
