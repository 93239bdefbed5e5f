"""How many of 100 intervals cover the true value, over sets drawn from populations whose mean is known.

    .venv/bin/python tests/intervals.py --sets 2000

prints the tables of docs/score.md: simulated populations, and what steering changes in the default model.
"""

import argparse
import csv
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steer_cli.measure.bootstrap import Draws, Weighted, estimate
from steer_cli.measure.share import mean_share
from steer_cli.results import Estimate

CORPORA = Path(__file__).parents[1] / "benchmarks" / "corpora"
PER_SENTENCE: dict[str, Callable] = {  # the change per token of sentences, from their lengths
    "normal": lambda draw, lengths: draw.normal(0.2, 0.15, len(lengths)),
    "short sentences gain more": lambda draw, lengths: 3 / lengths,
    "skewed as KL": lambda draw, lengths: 0.1 + draw.gamma(2, 0.07, len(lengths)),
    "exponential": lambda draw, lengths: draw.exponential(0.2, len(lengths)),
    "log-normal": lambda draw, lengths: np.exp(draw.normal(0, 1, len(lengths))),
}
NOISE = 0.4  # of a token, in nats
NOISELESS = {"exponential", "log-normal"}  # these have no negative values
MANY = 1_000_000


@dataclass(frozen=True)
class Population:
    """Draws of which sets are made, `weight` times whose mean is part of a figure."""

    mean: float
    draw: Callable[[np.random.Generator, int], Draws]
    weight: float = 1.0

    def less(self) -> "Population":
        return Population(self.mean, self.draw, -self.weight)


@dataclass(frozen=True)
class Cell:
    """A figure over sets of some sizes, and how its interval is made."""

    name: str
    sizes: tuple[int, ...]
    populations: tuple[Population, ...]
    interval: Callable[..., Estimate] = estimate

    @property
    def truth(self) -> float:
        return sum(part.weight * part.mean for part in self.populations)

    def parts(self, draw: np.random.Generator) -> Iterator[Weighted]:
        for size, part in zip(self.sizes, self.populations, strict=True):
            yield part.weight, part.draw(draw, size)


def sentences(kind: str, lengths: tuple[int, int] = (5, 40)) -> Population:
    """Simulated changes of sentences of so many tokens."""

    def draws(draw: np.random.Generator, size: int) -> Draws:
        tokens = np.round(np.exp(draw.uniform(*np.log(lengths), size))) if lengths[1] > 100 else None
        tokens = draw.integers(lengths[0], lengths[1] + 1, size).astype(float) if tokens is None else tokens
        sums = tokens * PER_SENTENCE[kind](draw, tokens)
        noise = 0 if kind in NOISELESS else np.sqrt(tokens) * draw.normal(0, NOISE, size)
        return Draws(sums + noise, tokens)

    return Population(draws(np.random.default_rng(1), MANY).mean, draws)


def words(mean: float, unsteered: float = 0.0, bursts: bool = False) -> Population:
    """Simulated counts of words in steered completions, less those in unsteered ones."""

    def draws(draw: np.random.Generator, size: int) -> Draws:
        found = draw.negative_binomial(1, 1 / (1 + mean), size) if bursts else draw.poisson(mean, size)
        return Draws.of(found - draw.poisson(unsteered, size))

    return Population(mean - unsteered, draws)


def drawn_from(population: Draws) -> Population:
    """Sets drawn with replacement from what was measured."""

    def draws(draw: np.random.Generator, size: int) -> Draws:
        chosen = draw.integers(0, len(population.sums), size)
        return Draws(population.sums[chosen], population.counts[chosen])

    return Population(population.mean, draws)


def held(cell: Cell, sets: int) -> tuple[float, float]:
    """The shares of sets whose interval lies above the truth, and below it."""
    seed = zlib.crc32(f"{cell.name} {cell.sizes}".encode())
    draw, truth, above, below = np.random.default_rng(seed), cell.truth, 0, 0
    for _ in range(sets):
        found = cell.interval(*cell.parts(draw))
        above, below = above + (found.low > truth), below + (found.high < truth)
    return above / sets, below / sets


def simulated() -> Iterator[Cell]:
    for kind, sizes in {
        "normal": (8, 12, 24, 50),
        "short sentences gain more": (8, 24),
        "skewed as KL": (16, 50),
        "exponential": (8, 16, 24, 50),
    }.items():
        yield from (Cell(kind, (size,), (sentences(kind),)) for size in sizes)
    for size in (8, 24):
        yield Cell("normal, 3 to 250 tokens", (size,), (sentences("normal", (3, 250)),))
    both = sentences("normal"), sentences("skewed as KL").less()
    for sizes in ((8, 8), (12, 30), (8, 120)):
        yield Cell("difference of two sets", sizes, both)
    yield Cell("log-normal", (24,), (sentences("log-normal"),))
    for size in (16, 24):
        yield Cell("words, 0.2 per completion", (size,), (words(0.2),))
        yield Cell("words, 1.4 per completion, in bursts", (size,), (words(1.4, bursts=True),))
        yield Cell("words, 2.5 in bursts less 0.4", (size,), (words(2.5, 0.4, bursts=True),))


def measured() -> Iterator[Cell]:
    """The same of what steering changes in the default model."""
    import steer_cli as steer

    model = steer.load_model("smollm2-135m")
    for layer in (6, 16):
        recipe = steer.load_recipe("wedding-shift", {"additions.0.layer": layer})
        for arm, sets in _sentence_draws(model, recipe).items():
            name = f"wedding-shift, layer {layer}" if arm == "steered" else "weddings in front"
            toward, away, damage, divergence = map(drawn_from, sets)
            for size in (8, 24):
                yield Cell(f"{name}: effect", (size, size), (toward, away.less()))
                yield Cell(f"{name}: gain on shipping", (size,), (away,))
            yield Cell(f"{name}: damage", (8,), (damage.less(),))
            for size in (8, 16, 50):
                yield Cell(f"{name}: KL", (size,), (divergence,))
    for name, draws in _completion_draws(model, steer.load_recipe("love-hate"), "praise").items():
        for size in (8, 16, 24, 64):
            yield Cell(f"love-hate: {name}", (size,), (drawn_from(draws),))
            if name.endswith("repeated"):
                yield Cell(f"love-hate: {name}, bounded", (size,), (drawn_from(draws),), _of_shares)
    slopes = drawn_from(_slopes(model, steer.load_recipe("gloom")))
    yield from (Cell("gloom: slope of choices", (size,), (slopes,)) for size in (8, 24))


def _of_shares(part: Weighted) -> Estimate:
    return mean_share(part[1], least=-1.0)


def _sentence_draws(model, recipe) -> dict[str, tuple[Draws, ...]]:
    from steer_cli import read_corpus, run_plan
    from steer_cli.measure.evidence import gathered
    from steer_cli.measure.score_plan import plan_score
    from steer_cli.measure.text_arms import TextArms

    toward, away = (read_corpus(str(CORPORA / f"{name}.txt")) for name in ("weddings", "shipping"))
    plan = plan_score(recipe, model.facts(recipe.bos), gathered(toward, away))
    arms = TextArms(model.network, plan.facts.tokenizer, plan.lines, ("neutral",))
    [steered] = arms.compared([run_plan.vectors_of(model.network, plan.alignments)], keep_changes=True)
    found = {"steered": arms.by_set(steered, 0)}
    # A text in front is the same at every layer.
    if recipe.additions[0].layer == 16:
        found["prompting"] = arms.with_tokens_in_front(plan.fronted.lines, steered)
    return {arm: tuple(_sets(changes)) for arm, changes in found.items()}


def _sets(changes) -> Iterator[Draws]:
    yield from (changes[name].change for name in ("toward", "away", "neutral"))
    sums = np.array([float(values.sum()) for values in changes["neutral"].divergence])
    yield Draws(sums, changes["neutral"].change.counts)


def _completion_draws(model, recipe, label: str) -> dict[str, Draws]:
    from steer_cli import run_plan
    from steer_cli.activations.arms import Steering
    from steer_cli.activations.baselines import control_vectors
    from steer_cli.measure.writing import draws_of, written
    from steer_cli.planning.plan import plan_recipe

    sampled = recipe.with_sampling(samples=64)
    plan = plan_recipe(sampled, model.facts(recipe.bos), recipe.sampling.max_new_tokens)
    steering = run_plan.vectors_of(model.network, plan.alignments)
    vectors = control_vectors(model.network, plan.alignments, steering.vectors, "random", 1503)
    noise = Steering(plan.alignments, tuple(vectors))
    unsteered, steered, random = written(model.network, plan, [steering, noise], label=label)

    def change(arm, name: str) -> Draws:
        return draws_of(getattr(arm, name)).less(draws_of(getattr(unsteered, name)))

    return {
        "words": change(steered, "words"),
        "words, random vector": change(random, "words"),
        "log probability": change(steered, "logprob"),
        "3-grams repeated": change(steered, "repeated"),
    }


def _slopes(model, recipe) -> Draws:
    from steer_cli import run_plan
    from steer_cli.measure.choices import log_odds, multiples, slopes
    from steer_cli.measure.evidence import Choice
    from steer_cli.measure.score_plan import plan_choices

    with open(CORPORA / "reviews.csv", encoding="utf-8", newline="") as file:
        reviews = [row["text"] for row in csv.DictReader(file)]
    items = [Choice(f"{review} To me the place was", " awful", " lovely") for review in reviews]
    plan = plan_choices(recipe, model.facts(recipe.bos), items)
    steering = run_plan.vectors_of(model.network, plan.plan.alignments)
    return Draws.of(slopes(log_odds(model.network, plan, multiples(steering))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=2000, help="sets drawn for each row")
    parser.add_argument("--only", choices=["simulated", "measured"])
    options = parser.parse_args()
    kinds = [kind for kind in (simulated, measured) if options.only in (None, kind.__name__)]
    for cells in kinds:
        print("\n| figure | draws | cover the true value | too high | too low |\n|---|---|---|---|---|")
        for cell in cells():
            above, below = held(cell, options.sets)
            shares = " | ".join(f"{100 * share:.1f}" for share in (1 - above - below, above, below))
            print(f"| {cell.name} | {' and '.join(map(str, cell.sizes))} | {shares} |", flush=True)
    error = 100 * math.sqrt(0.05 * 0.95 / options.sets)
    print(f"\nThe standard error of a share is {error:.1f}.")


if __name__ == "__main__":
    main()
