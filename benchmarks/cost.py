"""Time steered against unsteered rows, with 1 and with 56 additions. See README.md.

The same rows decode each time, two arms of `--samples`; only the additions to the second arm differ. Rows
sample from the whole distribution, so that samples diverge at once in both arms: until they diverge they
share a row, so an arm with a more peaked distribution would seem to cost less. Vectors are computed again in
every run, and their time has its own column.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
from environments import BENCHMARKS, machine, pulled, show_machine

from steer_cli.activations.arms import UNSTEERED, Steering
from steer_cli.api.questions import load_model, vectors
from steer_cli.decoding.engine import decode
from steer_cli.decoding.request import Request
from steer_cli.models.catalogue import DEFAULT_MODEL
from steer_cli.models.load import Model
from steer_cli.planning.plan import plan_recipe
from steer_cli.recipe.load import validate
from steer_cli.recipe.sampling import Sampling
from steer_cli.recipe.yaml_source import Document

PROMPT = "I hate you because"
WORDS = sorted({*(BENCHMARKS / "corpora" / "shipping.txt").read_text(encoding="utf-8").split()})[:56]


def additions(count: int, **keys: object) -> list[dict]:
    """`count` pairs of words at four layers."""
    return [
        {"plus": plus, "minus": minus, "layer": 4 + 2 * (number % 4), "coefficient": 0.2} | keys
        for number, (plus, minus) in enumerate(zip(WORDS, WORDS[1:] + WORDS[:1], strict=True))
    ][:count]


KINDS = {
    "unsteered": [],
    "1 addition": additions(1),
    "56 additions": additions(56),
    "1 addition, every position": additions(1, position="every"),
    "56 additions, every position": additions(56, position="every", coefficient=0.02),
}


def once(model: Model, ids: tuple[int, ...], kind: str, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds to make the vectors, and to prefill and decode."""
    begun = time.perf_counter()
    arm = UNSTEERED
    if KINDS[kind]:
        recipe = validate(Document("cost", {"prompt": PROMPT, "additions": KINDS[kind]}))
        plan = plan_recipe(recipe, model.facts(), options.tokens)
        [prompt] = plan.prompts
        arm = Steering(plan.alignments, tuple(vectors(model, recipe))).on(prompt.placements)
    made = time.perf_counter()
    sampling = Sampling(
        samples=options.samples, max_new_tokens=options.tokens, top_p=1.0, frequency_penalty=1.0
    )
    [finished] = decode(model.network, [Request(ids, (UNSTEERED, arm))], sampling, (), len(ids))
    assert all(len(row.ids) == options.tokens for rows in finished.arms for row in rows)
    return made - begun, time.perf_counter() - made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "cost.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pulled()
    model = load_model(DEFAULT_MODEL, device="cpu")
    ids = model.facts().tokenizer.prompt(PROMPT)
    taken: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for number in range(options.rounds + 1):
        # Forwards and backwards in turn, so that a slow machine slows all of them equally.
        for kind in KINDS if number % 2 else reversed(KINDS):
            seconds = once(model, ids, kind, options)
            if number:
                taken[kind].append(seconds)
    facts = machine()
    show_machine(facts)
    print(f"{'':32}{'vectors s':>10}{'rows s':>9}{'ratio of rows':>15}{'of all':>8}")
    entries = []
    floor = median(rows for _, rows in taken["unsteered"])
    for kind, seconds in taken.items():
        made, rows = (median(column) for column in zip(*seconds, strict=True))
        entry = {"kind": kind, "vectors_seconds": made, "rows_seconds": rows}
        entries.append(entry | {"ratio": rows / floor, "ratio_of_all": (made + rows) / floor})
        print(f"{kind:32}{made:10.3f}{rows:9.3f}{rows / floor:15.3f}{(made + rows) / floor:8.3f}")
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": facts, "entries": entries}, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
