"""How fast is a sweep compared with a plain loop over points and sentences, and does it scale linearly?

    python benchmarks/sweep.py [--plain-share 0.02] [--layers 30] [--coefficients 5] [--sentences 50]

The plain loop is what one would write with hooks: one whole steered pass and its log-softmax per point and
sentence; the unsteered pass of each sentence runs once, beforehand. Both sides compute the same ratios, which
are compared. The plain loop may run only a share of the points, spread evenly over the layers; its time is
then scaled up linearly, and the output says so. Then sweeps over 6 layers grow to 16 times the points x
sentences. Every size has its own process, whose peak memory comes from the kernel (Linux).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch
from environments import machine, show_machine
from torch import nn

from steer_cli.api.questions import load_model
from steer_cli.measure.corpus import Corpus, read_corpus
from steer_cli.models.load import Model
from steer_cli.networks.attention import Causal
from steer_cli.networks.refusals import find_blocks
from steer_cli.recipe.load import validate
from steer_cli.recipe.yaml_source import Document
from steer_cli.sweeps.plan import SweepOptions, SweepPlan, plan_sweep
from steer_cli.sweeps.runner import Runner

CORPORA = Path(__file__).parent / "corpora"
GROWTH = ((2, 20), (4, 40), (8, 80))  # coefficients, sentences; the smallest fills a pass
RECIPE = {"name": "bench", "additions": [{"plus": " weddings", "minus": " ", "layer": 0}]}


def plan_of(options: argparse.Namespace, layers: int, coefficients: int, sentences: int) -> SweepPlan:
    """The sweep over the first `layers` layers; no coefficient is 0, whose points would cost nothing."""
    whole = [read_corpus(str(CORPORA / f"{name}.txt"), lines=True) for name in ("weddings", "shipping")]
    pool = [
        sentence for pair in zip(*(corpus.sentences for corpus in whole), strict=False) for sentence in pair
    ]
    corpus = Corpus("both", tuple(pool[:sentences]), "")
    if len(corpus.sentences) < sentences:
        raise SystemExit(f"--sentences {sentences}: the corpora hold {len(pool)}")
    values = ",".join(f"{0.5 + 0.5 * number:g}" for number in range(coefficients))
    recipe = validate(Document("bench", RECIPE | {"model": options.model}))
    return plan_sweep(recipe, [corpus], SweepOptions(f"0:{layers}", values))


def tool(model: Model, plan: SweepPlan) -> tuple[float, dict]:
    """Seconds, and point -> ratio."""
    begun = time.perf_counter()
    runner, ratios = Runner(model, plan), {}
    for group in plan.grid.groups():
        for point in runner.measure(group):
            coordinates = point.coordinates
            ratios[coordinates.layer, coordinates.coefficient] = point.perplexity[0].ratio
    return time.perf_counter() - begun, ratios


@torch.inference_mode()
def token_logprobs(reference: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = reference(input_ids=ids[None], use_cache=False).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0]


def plain(plan: SweepPlan, points: list[tuple[int, float]]) -> tuple[float, float, dict]:
    """Seconds for the unsteered arm, seconds for the points, and point -> ratio; transformers with hooks."""
    reference = loaded_by_transformers(plan.located.folder)
    blocks = find_blocks(reference, plan.located.blocks, plan.located.name)
    rows = [torch.tensor(line.ids) for line in plan.lines]
    token_logprobs(reference, rows[0])  # warm
    begun = time.perf_counter()
    unsteered = [token_logprobs(reference, ids) for ids in rows]
    once = time.perf_counter() - begun
    begun, ratios, vectors = time.perf_counter(), {}, {}
    pair = torch.stack([torch.tensor(plan.tokenizer.prompt(text)) for text in (" weddings", " ")])
    for layer, coefficient in points:
        if layer not in vectors:
            with torch.inference_mode():
                states = reference(input_ids=pair, output_hidden_states=True, use_cache=False).hidden_states
            vectors[layer] = states[layer][0] - states[layer][1]
        total, count = 0.0, 0
        for ids, base in zip(rows, unsteered, strict=True):
            handle = blocks[layer].register_forward_pre_hook(
                adding(coefficient * vectors[layer]), with_kwargs=True
            )
            steered = token_logprobs(reference, ids)
            handle.remove()
            total += float((steered - base)[len(vectors[layer]) :].double().sum())
            count += len(ids) - 1 - len(vectors[layer])
        ratios[layer, coefficient] = math.exp(-total / count)
    return once, time.perf_counter() - begun, ratios


def loaded_by_transformers(folder: Path) -> nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def adding(delta: torch.Tensor):
    def hook(_, args, kwargs):
        stream = (args[0] if args else kwargs["hidden_states"]).clone()
        stream[:, : len(delta)] += delta
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    return hook


def memory(field: str) -> float:
    """Megabytes according to the kernel: VmRSS is the current size, VmHWM the peak since `forget_peak`."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def forget_peak() -> None:
    # Loading may have needed more memory than the measured work.
    Path("/proc/self/clear_refs").write_text("5")


def measured(options: argparse.Namespace) -> dict:
    """Measure one size in this process; the sweep runs first, without the plain loop's memory."""
    plan = plan_of(options, options.layers, options.coefficients, options.sentences)
    model = load_model(options.model, device="cpu")
    ids = torch.tensor([plan.lines[0].ids])
    with torch.inference_mode():
        model.network.next_logits(ids, Causal(ids.shape[1]))  # warm
    forget_peak()
    loaded = memory("VmRSS")
    seconds, ratios = tool(model, plan)
    points = [(point.layer, point.coefficient) for point in plan.grid]
    work = len(points) * sum(len(line.ids) for line in plan.lines)
    result = {
        "points": len(points),
        "sentences": len(plan.lines),
        "point_tokens": work,
        "steer_seconds": round(seconds, 2),
        "microseconds_each": round(1e6 * seconds / work, 1),
        "megabytes_loaded": round(loaded),
        "megabytes_over": round(memory("VmHWM") - loaded),
        "threads": torch.get_num_threads(),
    }
    return result | (compared(plan, points, ratios, seconds, options.plain_share))


def compared(plan: SweepPlan, points: list, ratios: dict, seconds: float, share: float) -> dict:
    """Run the plain loop on a share of the points, scale up its time, and compare its ratios with ours."""
    wanted = round(len(points) * share)
    if not wanted:
        return {}
    # Start half a step in, so that a few points represent all depths.
    some = [points[int((index + 0.5) * len(points) / wanted)] for index in range(wanted)]
    once, looped, checked = plain(plan, some)
    whole = once + looped * len(points) / len(some)
    return {
        "plain_points_run": len(some),
        "plain_seconds_run": round(once + looped, 2),
        "plain_seconds": round(whole, 2),
        "times_as_fast": round(whole / seconds, 2),
        "largest_relative_difference": max(abs(ratios[point] / checked[point] - 1) for point in some),
    }


def child(options: argparse.Namespace, **size: float) -> dict:
    """The same in a new process, as an allocator may never return memory."""
    values = {"model": options.model} | size
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    ran = subprocess.run(
        [sys.executable, __file__, "--here", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument(
        "--plain-share", type=float, default=1.0, help="share of the points for the plain loop"
    )
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--coefficients", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=50)
    parser.add_argument("--no-growth", action="store_true", help="leave out the part on growth")
    parser.add_argument("--here", action="store_true", help="only this size, in this process")
    options = parser.parse_args()
    size = {name: getattr(options, name) for name in ("layers", "coefficients", "sentences", "plain_share")}
    if options.here:
        print(json.dumps(measured(options)))
        return
    show_machine(machine())
    result = child(options, **size)
    print(json.dumps(result), flush=True)
    if result.get("plain_points_run", 0) < result["points"]:
        print("the plain loop ran only a share of the points; its time is scaled up linearly")
    for coefficients, sentences in () if options.no_growth else GROWTH:
        grown = child(options, layers=6, coefficients=coefficients, sentences=sentences, plain_share=0)
        print(json.dumps(grown), flush=True)


if __name__ == "__main__":
    main()
