"""The points of a grid -> their figures; what does not change between points is computed once.

The unsteered arm runs once. Points of one layer begin at one recorded stream, which moves up with the
layers, and run as rows of one batch. This module does not know files or terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from steer_cli.api import left_out_notes
from steer_cli.decoding.engine import generate
from steer_cli.decoding.prefill import UNSTEERED, Arm, Job, prefill
from steer_cli.decoding.request import Row
from steer_cli.measure import shift
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.measure.perplexity import Sheet, figures
from steer_cli.measure.scoring import next_logits
from steer_cli.measure.words import count_words
from steer_cli.models.catalogue import Note, silent
from steer_cli.models.load import Model
from steer_cli.planning.placement import Placement, align_additions, place
from steer_cli.results import compared, cost, perplexity_fields
from steer_cli.steering.arms import NOTHING, Placed, Unplaced, arm_of
from steer_cli.steering.vectors import compute
from steer_cli.sweep.grid import Point
from steer_cli.sweep.question import Prompt, Question


@dataclass(frozen=True)
class Completed:
    """What was found in the completions of one arm: of each prompt, for each of its samples.

    `uses`: label -> uses of its words; `logprobs`: mean log probabilities under the unsteered model.
    """

    uses: dict[str, list[list[int]]]
    logprobs: list[list[float]]


@dataclass
class Runner:
    """A model with what its unsteered arm gave, computed when the first point asks for it."""

    model: Model
    question: Question
    note: Note = silent
    _sheet: Sheet | None = field(default=None, init=False)
    _unsteered: Completed | None = field(default=None, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def figures(self, group: Sequence[Point]) -> list[dict[str, Any]]:
        """The measures of some points of one layer; layers in rising order cost least.

        Raises:
            SteerError: a point that cannot be run.
        """
        pointed = self._pointed(group)
        records: list[dict[str, Any]] = [{} for _ in group]
        for measure in self.question.measures:
            found = {"perplexity": self._perplexity, "kl": self._kl, "counts": self._counts}[measure](pointed)
            for record, of_point in zip(records, found, strict=True):
                record |= of_point if measure == "counts" else {measure: of_point}
        return records

    def _pointed(self, group: Sequence[Point]) -> list[Unplaced]:
        recipes = [self.question.recipe_at(point) for point in group]
        aligned = [align_additions(recipe, self.question.tokenizer, self.model.depth) for recipe in recipes]
        # All at once: points of one layer mostly read the same streams.
        vectors = iter(compute(self.model, [alignment for each in aligned for alignment in each]))
        return [Unplaced(each, tuple(islice(vectors, len(each)))) for each in aligned]

    def _perplexity(self, group: Sequence[Unplaced]) -> list[Any]:
        if self._sheet is None:
            self._sheet = Sheet(self.model, self.question.tokenizer, self.question.lines)
        found = [
            figures(self._sheet, compared, self.question.corpora, self.question.method)
            for compared in self._sheet.compare(group)
        ]
        for each in (each for of_point in found for each in left_out_notes(of_point)):
            if each not in self._told:
                self._told.add(each)
                self.note(each)
        return [[perplexity_fields(figure) for figure in of_point] for of_point in found]

    def _kl(self, group: Sequence[Unplaced]) -> list[Any]:
        found: list[list[dict[str, Any]]] = [[] for _ in group]
        for prompt in self.question.prompts:
            arms = [Placed(self._placements(pointed, prompt), pointed.vectors) for pointed in group]
            logits = next_logits(self.model, prompt[1], [NOTHING, *arms], len(prompt[1]) - 1)
            for index, (pointed, figures_of) in enumerate(zip(group, found, strict=True)):
                both = shift.Distributions.from_logits(logits[0 if pointed.nothing else index + 1], logits[0])
                found_here = shift.figures(both, self.question.wanted).items()
                figures_of.append(
                    {"prompt": prompt[0]} | {name: value for name, value in found_here if value is not None}
                )
        return found

    def _placements(self, pointed: Unplaced, prompt: Prompt) -> tuple[Placement, ...]:
        return place(pointed.alignments, self.question.tokenizer, prompt[1], prompt[0])

    def _prompt_arm(self, pointed: Unplaced, prompt: Prompt) -> Arm:
        return arm_of(self.model, self._placements(pointed, prompt), pointed.vectors, len(prompt[1]))

    def _counts(self, group: Sequence[Unplaced]) -> list[dict[str, Any]]:
        """Uses of the recipe's words, and what the texts cost: means over all prompts and samples."""
        if self._unsteered is None:
            [self._unsteered] = self._completed([lambda _: UNSTEERED])
        plain = self._unsteered
        acting = [pointed for pointed in group if not pointed.nothing]
        found = iter(self._completed([partial(self._prompt_arm, pointed) for pointed in acting]))
        records = []
        for pointed in group:
            steered = plain if pointed.nothing else next(found)
            counts = {label: compared(plain.uses[label], uses) for label, uses in steered.uses.items()}
            records.append({"counts": counts, "logprob": cost(plain.logprobs, steered.logprobs)})
        return records

    def _completed(self, arms: Sequence[Callable[[Prompt], Arm]]) -> list[Completed]:
        """Complete every prompt in every arm; count words in the texts and score them."""
        recipe, tokenizer, prompts = self.question.recipe, self.question.tokenizer, self.question.prompts
        completed = [Completed({label: [] for label in recipe.count}, []) for _ in arms]
        rows: list[list[Sequence[Row]]] = [[] for _ in prompts]
        pairs = [(arm, index) for arm in range(len(arms)) for index in range(len(prompts))]
        jobs = (Job(prompts[index][1], (arms[arm](prompts[index]),)) for arm, index in pairs)
        longest = max(len(prompt[1]) for prompt in prompts)
        # Weights that are held twice would take a sweep over its memory.
        finished = generate(self.model, jobs, recipe.sampling, tokenizer.eos, longest, pack=False)
        for (arm, index), done in zip(pairs, finished, strict=True):
            rows[index] += done.rows
            texts = [tokenizer.completion(prompts[index][1], row.ids) for row in done.rows[0]]
            counted = [count_words(text, recipe.count) for text in texts]
            for label, of_prompts in completed[arm].uses.items():
                of_prompts.append([counts[label] for counts in counted])
        # Afterwards, when the memory for decoding is free.
        for prompt, of_arms in zip(prompts, rows, strict=True):
            for each, logprobs in zip(completed, self._logprobs(prompt, of_arms), strict=True):
                each.logprobs.append(logprobs)
        return completed

    def _logprobs(self, prompt: Prompt, arms: Sequence[Sequence[Row]]) -> list[list[float]]:
        """Mean log probability of each completion of a prompt, arm by arm, all in one pass."""
        if not arms:
            return []
        [start] = prefill(self.model, [Job(prompt[1], (UNSTEERED,))])
        rows = [row.ids for samples in arms for row in samples]
        means = iter(mean_logprobs(self.model, start.prefixes[0], start.logits[0], rows))
        return [list(islice(means, len(samples))) for samples in arms]
