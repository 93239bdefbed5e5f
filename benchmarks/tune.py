"""What does the search of `steer tune` lose against a full grid, and what does it save?

    python benchmarks/tune.py [--concepts topic,mood] [--read 12] [--coefficients 12]
    python benchmarks/tune.py --random 20

For each concept below benchmarks/concepts, both look for the largest effect within the budget at all layers,
front and every, on the same sentences of one half: 12 toward, 12 away and 24 neutral ones. The grid has so
many coefficients at each place, a factor of 1.4 apart, around the one that the search begins with. What each
has found is then measured on the other half. Completions are checked by neither.

Work is counted, not timed: the multiplications of all weights. Where three coefficients in a row do more than
five times the damage allowed, the grid does not run the larger ones of that place; they count as if it did.
Trials are kept in results/tune, so that an interrupted run goes on; concepts/grids.json has what each grid
found.

With --random, so many random vectors are tuned instead, towards the sentences of the first concept, and the
verdicts of their cards are counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from environments import BENCHMARKS, machine, show_machine
from torch import Tensor

from steer_cli.api.questions import load_model, load_recipe
from steer_cli.measure import effects
from steer_cli.measure.corpus import Corpus, read_corpus
from steer_cli.measure.evidence import Evidence, gathered
from steer_cli.measure.neutral import neutral_text
from steer_cli.models.load import Model
from steer_cli.networks.products import Linear
from steer_cli.recipe.load import validate
from steer_cli.recipe.schema import Recipe
from steer_cli.recipe.yaml_source import Document
from steer_cli.results import Searched, Trial
from steer_cli.sweeps.identity import computes_with
from steer_cli.sweeps.store import Store
from steer_cli.tuning.climb import rounded
from steer_cli.tuning.figures import Figuring
from steer_cli.tuning.kept import Kept, trial_of
from steer_cli.tuning.on_sentences import OnSentences
from steer_cli.tuning.parts import part_of
from steer_cli.tuning.plan import TuneOptions, TunePlan, plan_tuning
from steer_cli.tuning.search import Measure, in_turn, search
from steer_cli.tuning.tune import tune
from steer_cli.tuning.vectors import PlaceVectors, guesses, vectors_of_places

MODEL = "smollm2-135m"
SIDES = ("toward", "away")
CONCEPTS = BENCHMARKS / "concepts"
GRIDS = CONCEPTS / "grids.json"  # what each grid found; a grid takes ten minutes or more
LEAST, FACTOR = 0.1, 1.4  # of the coefficient that the search begins with, and between neighbours of the grid
TOGETHER = 3  # coefficients that are measured at once, and whose damage decides about larger ones
HOPELESS = 5  # times the budget


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
    """One concept: a plan, its vectors, and what measures trials on either half."""

    plan: TunePlan
    model: Model
    folder: Path
    work: Work

    def __post_init__(self) -> None:
        network = self.model.network
        self.vectors: PlaceVectors = vectors_of_places(network, self.plan)
        self.begin = guesses(network, self.plan, self.vectors)

    def found_by(self, way: str, look: Callable[[Bench, Measure], Looked], judge: Bench) -> dict[str, Any]:
        """Look for the best trial, and let `judge` measure it on the other half."""
        path = self.folder / f"{self.plan.recipe.name}-{way}.jsonl"
        if way == "tune":
            path.unlink(missing_ok=True)
        store = Store(
            path,
            self.plan.subject(*computes_with(self.plan.located, self.model)),
            trial_of,
            "search",
        )
        before = self.work.done
        with store as held:
            kept = Kept(Figuring(self.model.network, self.plan, self.vectors), held)
            looked = look(self, kept)
            work = self.work.done - before + looked.saved
        found = {
            "trials": looked.trials,
            "work": work if not kept.read else None,
        }
        return found | (judge.held_out(looked.best) if looked.best else {"effect": 0.0})

    def held_out(self, trial: Trial) -> dict[str, Any]:
        """What a trial does on the half that no search has seen."""
        plan = replace(self.plan, searched=self.plan.held_out)
        [changes] = OnSentences(self.model.network, plan, self.vectors).changes(
            1.0, [(trial.place, trial.coefficient)]
        )
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


@dataclass(frozen=True)
class Looked:
    """The best trial, how many there were, and the work of those that were not run."""

    best: Trial | None
    trials: int
    saved: int = 0


def by_search(bench: Bench, measure: Measure) -> Looked:
    found = search(bench.begin, bench.plan.options.budget, in_turn(measure))
    return Looked(next(iter(found.best), None), len(found.trials))


def by_grid(coefficients: int) -> Callable[[Bench, Measure], Looked]:
    def look(bench: Bench, measure: Measure) -> Looked:
        budget, trials, saved = bench.plan.options.budget, [], 0
        for place, begin in bench.begin.items():
            values = [rounded(begin * LEAST * FACTOR**step) for step in range(coefficients)]
            for first in range(0, coefficients, TOGETHER):
                some, before = values[first : first + TOGETHER], bench.work.done
                figures = measure(1.0, [(place, value) for value in some])
                trials += [Trial(place, *pair, 1.0) for pair in zip(some, figures, strict=True)]
                if all(found.damage > HOPELESS * budget for found in figures):
                    saved += (bench.work.done - before) * (coefficients - first - len(some)) // len(some)
                    break
        found = Searched(tuple(trials), budget)
        return Looked(next(iter(found.best), None), coefficients * len(bench.begin), saved)

    return look


def compared(
    name: str, model: Model, grid_model: Model, work: Work, options: argparse.Namespace
) -> dict[str, Any]:
    """Both ways on one concept."""
    folder, results = CONCEPTS / name, BENCHMARKS / "results" / "tune"
    results.mkdir(parents=True, exist_ok=True)
    plan = planned(load_recipe(str(folder / "recipe.yaml")), name, model, options.read)
    bench = Bench(plan, model, results, work)
    on_grid = bench if grid_model is model else Bench(plan, grid_model, results, work)
    # A grid takes long, and does not change with the search.
    grids = json.loads(GRIDS.read_text()) if GRIDS.is_file() else {}
    asked = {"read": options.read, "coefficients": options.coefficients, "dtype": grid_model.dtype}
    if grids.get(name, {}).get("asked") != asked:
        grids[name] = {"asked": asked, **on_grid.found_by("grid", by_grid(options.coefficients), bench)}
        GRIDS.write_text(json.dumps(grids, indent=1) + "\n")
    grid, tuned = grids[name], bench.found_by("tune", by_search, bench)
    share = tuned["work"] / grid["work"] if tuned["work"] and grid["work"] else None
    return {"concept": name, "grid": grid, "tune": tuned, "share_of_work": share}


def some_of(evidence: Evidence, count: int) -> Evidence:
    """So many sentences of each set, and twice as many neutral ones."""
    most = part_of(evidence, 1.0, 2 * count)
    return replace(part_of(evidence, 1.0, count), neutral=most.neutral)


def planned(recipe: Recipe, name: str, model: Model, read: int) -> TunePlan:
    """A search with the sentences of a concept."""
    sets = [read_corpus(f"{side}={CONCEPTS / name / side}.txt", lines=True) for side in SIDES]
    # Every other sentence, so that there are some of every kind.
    neutral = neutral_text()
    neutral = Corpus.of(neutral.name, neutral.sentences[::2])
    plan = plan_tuning(recipe, gathered(*sets, neutral), TuneOptions(), model.located)
    return replace(plan, searched=some_of(plan.searched, read))


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
    for way in ("grid", "tune"):
        of_way = found[way]
        where = f"{of_way.get('layer')} {of_way.get('position')} x {of_way.get('coefficient')}"
        print(
            f"{found['concept']:10} {way:5} {where:20} effect {of_way['effect']:.3f}, damage "
            f"{of_way.get('damage', 0):.3f}; {of_way['trials']} trials",
            flush=True,
        )
    share = found["share_of_work"]
    told = "" if share is None else f", {share:.3f} of the work"
    print(f"{'':10} {found['tune']['effect'] / found['grid']['effect']:.2f} of the effect{told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = sorted(path.parent.name for path in CONCEPTS.glob("*/recipe.yaml"))
    parser.add_argument("--concepts", default=",".join(known), help="names, with commas between them")
    parser.add_argument("--read", type=int, default=12, help="sentences of a set; neutral ones twice as many")
    parser.add_argument("--coefficients", type=int, default=12, help="of the grid, at each place")
    parser.add_argument("--grid-dtype", default="float32", help="bfloat16 makes the grid quicker")
    parser.add_argument("--random", type=int, default=0, help="tune so many random vectors instead")
    options = parser.parse_args()
    here = machine()
    show_machine(here)
    model, names = load_model(MODEL, device="cpu"), options.concepts.split(",")
    if options.random:
        kind, rows = "random", of_random_vectors(names[0], model, options)
    else:
        kind, rows, work = "concepts", [], Work()
        same = options.grid_dtype == model.dtype
        grid_model = model if same else load_model(MODEL, device="cpu", dtype=options.grid_dtype)
        for name in names:
            rows.append(compared(name, model, grid_model, work, options))
            show(rows[-1])
    results = BENCHMARKS / "results" / f"tune-{kind}.json"
    results.write_text(json.dumps({"machine": here, "options": vars(options), kind: rows}, indent=1))
    print(f"written to {results}")


if __name__ == "__main__":
    main()
