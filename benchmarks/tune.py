"""What does the search of `steer tune` lose against a full grid, and what does it save?

    python benchmarks/tune.py [--concepts topic,mood] [--coefficients 12] [--dtype bfloat16]
    python benchmarks/tune.py --random 20 [--read 12]

For each concept below benchmarks/concepts, both look for the largest effect within the budget at all layers,
front and every, on the same half of the sentences. The grid has so many coefficients at each place, a factor
of 1.4 apart, around the one that the search begins with. What each has found is then measured on the other
half. Completions are checked by neither.

The grid measures the effect of every trial, and damage where there may be a larger effect than that of any
trial within the budget. Of hundreds of trials, some keep to the budget on one half by chance, so it also
finds the largest effect among those that keep to it on both. Where a trial does more than 2.5 times the
damage allowed, larger coefficients of its place are left out. Work is counted, not timed: the multiplications
of all weights. The grid's is reckoned as if damage had been measured everywhere. In bfloat16, which `--dtype`
sets for both, grids are quicker on processors that have AMX.

concepts/grids.json has what each grid found.

With --random, so many random vectors are tuned instead, towards the sentences of the first concept (`--read`
of each set, twice as many neutral ones), and the verdicts of their cards are counted.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from typing import Any

from environments import BENCHMARKS, machine, show_machine
from torch import Tensor

from steer_cli.api.questions import load_model, load_recipe
from steer_cli.measure import effects
from steer_cli.measure.corpus import Corpus, read_corpus
from steer_cli.measure.evidence import FEWEST, Evidence, gathered
from steer_cli.measure.neutral import neutral_text
from steer_cli.models.load import Model
from steer_cli.networks.products import Linear
from steer_cli.recipe.load import validate
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import Document
from steer_cli.results import Figures, Trial
from steer_cli.tuning.climb import rounded
from steer_cli.tuning.figures import Figuring
from steer_cli.tuning.on_sentences import OnSentences
from steer_cli.tuning.parts import digests_of, part_of
from steer_cli.tuning.plan import TuneOptions, TunePlan, plan_tuning
from steer_cli.tuning.search import Asked, in_turn, search
from steer_cli.tuning.tune import tune
from steer_cli.tuning.vectors import PlaceVectors, guesses, vectors_of_places

MODEL = "smollm2-135m"
SIDES = ("toward", "away")
CONCEPTS = BENCHMARKS / "concepts"
GRIDS = CONCEPTS / "grids.json"  # what each grid found; a grid takes ten minutes or more
LEAST, FACTOR = 0.1, 1.4  # of the coefficient that the search begins with, and between neighbours of the grid
TOGETHER = 4  # coefficients that are measured at once
WORSE = 0.5  # times the effect that the search found: the grid need not look at less
HOPELESS = 2.5  # times the budget


class Work:
    """Multiplications by weights since it was made."""

    def __init__(self) -> None:
        self.done = 0
        multiply = Linear.__call__

        def counted(linear: Linear, stream: Tensor) -> Tensor:
            self.done += stream.shape[:-1].numel() * linear.weight.shape.numel()
            return multiply(linear, stream)

        Linear.__call__ = counted  # type: ignore[method-assign]


@dataclass
class Bench:
    """One concept: a plan, its vectors, and what measures trials on the half that is searched."""

    plan: TunePlan
    model: Model
    work: Work

    def __post_init__(self) -> None:
        network = self.model.network
        self.vectors: PlaceVectors = vectors_of_places(network, self.plan)
        self.begin = guesses(network, self.plan, self.vectors)

    def on(self, evidence: Evidence) -> OnSentences:
        return OnSentences(self.model.network, replace(self.plan, searched=evidence), self.vectors)

    def searched(self) -> dict[str, Any]:
        """What the search finds."""
        before = self.work.done
        figuring = Figuring(self.model.network, self.plan, self.vectors)
        found = search(self.begin, self.plan.options.budget, in_turn(figuring))
        return {
            "trials": len(found.trials),
            "work": self.work.done - before,
            "best": self.held_out(found.best[0]) if found.best else None,
        }

    def held_out(self, trial: Trial) -> dict[str, Any]:
        """What a trial does on the half that nothing has searched."""
        [changes] = self.on(self.plan.held_out).changes(1.0, [(trial.place, trial.coefficient)])
        effect, damage = effects.effect(changes), effects.damage(changes)
        return {
            "layer": trial.place.layer,
            "position": trial.place.position,
            "coefficient": trial.coefficient,
            "searched_effect": round(trial.figures.effect, 4),
            "searched_damage": round(trial.figures.damage, 4),
            "effect": round(effect.value, 4),
            "effect_interval": [round(effect.low, 4), round(effect.high, 4)],
            "damage": round(damage.value, 4),
        }


class Grid:
    """All coefficients at all places."""

    def __init__(self, bench: Bench, coefficients: int) -> None:
        self.bench, self.budget = bench, bench.plan.options.budget
        self.values = {
            place: [rounded(begin * LEAST * FACTOR**step) for step in range(coefficients)]
            for place, begin in bench.begin.items()
        }
        searched, held_out = bench.plan.searched, bench.plan.held_out
        assert searched.away is not None
        # Sets go by their own names, so that toward and away can be measured without neutral sentences.
        self._effects = bench.on(replace(searched, neutral=searched.away, away=None))
        self._damages = [bench.on(replace(half, toward=None, away=None)) for half in (searched, held_out)]
        self.effect: dict[Asked, float] = {}

    def measure_effects(self) -> int:
        """The effect of every trial; gives the work of effects and damages."""
        before = self.bench.work.done
        for place, values in self.values.items():
            for first in range(0, len(values), TOGETHER):
                asked = [(place, value) for value in values[first : first + TOGETHER]]
                for one, changes in zip(asked, self._effects.changes(1.0, asked), strict=True):
                    self.effect[one] = effects.effect_value(changes)
        tokens = {name: self._tokens(name) for name in ("toward", "away", "neutral")}
        neutral = tokens["neutral"] / (tokens["toward"] + tokens["away"])
        return round((self.bench.work.done - before) * (1 + neutral))

    def _tokens(self, name: str) -> int:
        [corpus] = [corpus for corpus in self.bench.plan.searched.corpora if corpus.name == name]
        encode = self.bench.plan.facts.tokenizer.encode
        return sum(1 + len(encode(sentence.text)) for sentence in corpus.sentences)

    def best(self, least: float) -> tuple[Trial | None, Trial | None]:
        """The largest effect within the budget, and the largest that keeps to it on the other half too.

        Args:
            least: an effect that the second one has to exceed.
        """
        best, holding = None, None
        for place, values in self.values.items():
            for value in values:
                asked, effect = (place, value), self.effect[place, value]
                if effect <= least:
                    continue
                damage = self._damage(0, asked)
                if damage <= self.budget:
                    trial = Trial(place, value, Figures(effect, damage, 0.0, 0.0), 1.0)
                    if best is None or effect > best.figures.effect:
                        best = trial
                    if self._damage(1, asked) <= self.budget:
                        holding, least = trial, effect
                if damage > HOPELESS * self.budget:
                    break
        return best, holding

    def _damage(self, half: int, asked: Asked) -> float:
        [changes] = self._damages[half].changes(1.0, [asked])
        return effects.damage_value(changes)


def grid_of(name: str, bench: Bench, coefficients: int, least: float) -> dict[str, Any]:
    """What a grid finds, kept in a file: it takes long, and does not change with the search.

    Args:
        least: an effect that need not be looked at.
    """
    grids = json.loads(GRIDS.read_text()) if GRIDS.is_file() else {}
    asked = {
        "model": MODEL,
        "dtype": bench.model.dtype,
        "coefficients": [coefficients, LEAST, FACTOR],
        "budget": bench.plan.options.budget,
        "sentences": digests_of(bench.plan.searched),
    }
    if grids.get(name, {}).get("asked") != asked:
        grid = Grid(bench, coefficients)
        work, found = grid.measure_effects(), grid.best(least)
        best, holding = (trial and bench.held_out(trial) for trial in found)
        grids[name] = {
            "asked": asked,
            "trials": len(grid.effect),
            "work": work,
            "best": best,
            "holding": holding,
        }
        GRIDS.write_text(json.dumps(grids, indent=1) + "\n")
    return grids[name]


def compared(name: str, model: Model, work: Work, coefficients: int) -> dict[str, Any]:
    """Both ways on one concept."""
    plan = planned(load_recipe(str(CONCEPTS / name / "recipe.yaml")), name, model)
    bench = Bench(plan, model, work)
    tuned = bench.searched()
    grid = grid_of(
        name, bench, coefficients, WORSE * tuned["best"]["searched_effect"] if tuned["best"] else 0.0
    )
    return {"concept": name, "grid": grid, "tune": tuned, "share_of_work": tuned["work"] / grid["work"]}


def some_of(evidence: Evidence, count: int) -> Evidence:
    """So many sentences of each set, and twice as many neutral ones."""
    most = part_of(evidence, 1.0, 2 * count)
    return replace(part_of(evidence, 1.0, count), neutral=most.neutral)


def planned(recipe: Recipe, name: str, model: Model, read: int | None = None) -> TunePlan:
    """A search with the sentences of a concept."""
    sets = [read_corpus(f"{side}={CONCEPTS / name / side}.txt", lines=True) for side in SIDES]
    # Every other sentence, so that there are some of every kind.
    neutral = neutral_text()
    neutral = Corpus.of(neutral.name, neutral.sentences[::2])
    plan = plan_tuning(recipe, gathered(*sets, neutral), TuneOptions(), model.located)
    if read is None:
        return plan
    return replace(plan, searched=some_of(plan.searched, read), held_out=some_of(plan.held_out, read))


def of_random_vectors(name: str, model: Model, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the cards of tuned random vectors say."""
    found = []
    for seed in range(1, options.random + 1):
        pair = {"plus": " ships", "minus": " ", "layer": 0, "random": {"seed": seed}}
        recipe = validate(Document("random", {"model": MODEL, "additions": [pair]}))
        tuned = tune(planned(recipe, name, model, options.read), model)
        found.append({"seed": seed, "steers": tuned.steers, "says": tuned.says})
        print(f"seed {seed}: {tuned.says}", flush=True)
    print(f"{sum(one['steers'] for one in found)} of {len(found)} random vectors are said to steer")
    return found


def show(found: dict[str, Any]) -> None:
    """One line for each way."""
    for name, best in (
        ("grid", found["grid"]["best"]),
        ("holding", found["grid"]["holding"]),
        ("tune", found["tune"]["best"]),
    ):
        told = "nothing"
        if best is not None:
            where = f"{best['layer']} {best['position']} x {best['coefficient']}"
            told = f"{where:20} effect {best['effect']:.3f}, damage {best['damage']:.3f}"
        print(f"{found['concept']:10} {name:8} {told}", flush=True)
    print(f"{'':10} {found['share_of_work']:.3f} of the work", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = sorted(path.parent.name for path in CONCEPTS.glob("*/recipe.yaml"))
    parser.add_argument("--concepts", default=",".join(known), help="names, with commas between them")
    parser.add_argument("--read", type=int, default=12, help="with --random: sentences of a set")
    parser.add_argument("--coefficients", type=int, default=12, help="of the grid, at each place")
    parser.add_argument("--dtype", default="float32", help="of the model")
    parser.add_argument("--random", type=int, default=0, help="tune so many random vectors instead")
    options = parser.parse_args()
    if options.read < FEWEST:
        parser.error(f"--read {options.read}: too few sentences for an interval; give {FEWEST} or more")
    here = machine()
    show_machine(here)
    model, names = load_model(MODEL, device="cpu", dtype=options.dtype), options.concepts.split(",")
    if options.random:
        kind, rows = "random", of_random_vectors(names[0], model, options)
    else:
        kind, rows, work = "concepts", [], Work()
        for name in names:
            rows.append(compared(name, model, work, options.coefficients))
            show(rows[-1])
    results = BENCHMARKS / "results" / f"tune-{kind}.json"
    results.write_text(json.dumps({"machine": here, "options": vars(options), kind: rows}, indent=1))
    print(f"written to {results}")


if __name__ == "__main__":
    main()
