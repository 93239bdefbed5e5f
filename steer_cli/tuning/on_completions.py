"""What the model writes in trials: words that the recipe counts, and how likely the texts are unsteered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steer_cli.activations.arms import UNSTEERED
from steer_cli.activations.relative import stream_lengths
from steer_cli.decoding.engine import decode
from steer_cli.decoding.request import Request
from steer_cli.measure.bootstrap import Draws
from steer_cli.measure.evidence import FEWEST
from steer_cli.measure.logprob import mean_logprobs
from steer_cli.measure.words import count_words
from steer_cli.measure.writing import Written, draws_of
from steer_cli.networks.network import Network
from steer_cli.planning.placement import place as placed
from steer_cli.planning.plan import plan_recipe
from steer_cli.tuning.plan import TunePlan
from steer_cli.tuning.search import Asked
from steer_cli.tuning.vectors import PlaceVectors

SAMPLES = 24  # completions of each prompt with all of the evidence
COST_SAMPLES = 12  # enough to tell text that is odd


@dataclass
class OnCompletions:
    """Completes the recipe's prompts in trials, with another seed than the card will."""

    network: Network
    plan: TunePlan
    vectors: PlaceVectors

    def effects(self, share: float, asked: Sequence[Asked]) -> list[Draws]:
        """By how many counted words each completion of a trial exceeds the unsteered one."""
        unsteered, *steered = self.written(max(FEWEST, math.ceil(share * SAMPLES)), asked)
        return [draws_of(arm.words).less(draws_of(unsteered.words)) for arm in steered]

    def cost(self, asked: Asked) -> float:
        """How much less likely, per token, the unsteered model finds the completions than its own."""
        unsteered, steered = self.written(COST_SAMPLES, [asked])
        return draws_of(unsteered.logprob).mean - draws_of(steered.logprob).mean

    def written(self, samples: int, asked: Sequence[Asked]) -> list[Written]:
        """The completions of the unsteered arm, and of each trial."""
        recipe = self.plan.recipe
        recipe = recipe.with_sampling(samples=samples, seed=recipe.sampling.seed ^ 1)
        steerings = [self.vectors.steering(place, coefficient) for place, coefficient in asked]
        plan = plan_recipe(self.plan.recipe_at(*asked[0]), self.plan.facts, recipe.sampling.max_new_tokens)
        prompts, tokenizer = plan.prompts, plan.facts.tokenizer
        layers = frozenset[int]().union(*(steering.relative_layers for steering in steerings))
        lengths = stream_lengths(self.network, [prompt.ids for prompt in prompts], layers)
        requests = []
        for prompt, of_prompt in zip(prompts, lengths, strict=True):
            arms = [UNSTEERED]
            for steering in steerings:
                is_chat = prompt.chat is not None
                where = placed(steering.alignments, tokenizer, prompt.ids, prompt.text, is_chat)
                arms.append(steering.on(where, of_prompt))
            requests.append(Request(prompt.ids, tuple(arms)))
        longest = max(len(prompt.ids) for prompt in prompts)
        finished = decode(self.network, requests, recipe.sampling, tokenizer.eos, longest)
        found = [Written([], [], []) for _ in range(1 + len(asked))]
        for prompt, done in zip(prompts, finished, strict=True):
            rows = [row.ids for column in done.arms for row in column]
            means = iter(mean_logprobs(self.network, done.started.prefixes[0], done.started.logits[0], rows))
            for arm, column in zip(found, done.arms, strict=True):
                arm.logprob.append([next(means) for _ in column])
                texts = [tokenizer.completion(prompt.ids, row.ids) for row in column]
                arm.words.append([self._words(text) for text in texts])
        return found

    def _words(self, text: str) -> float:
        label, recipe = self.plan.searched.count, self.plan.recipe
        return 0.0 if label is None else float(count_words(text, {label: recipe.count[label]})[label])
