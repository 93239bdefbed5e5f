"""Do speed and memory hold up for hundreds of samples and thousands of prompts? See README.md.

Each line of the table runs in its own process and is compared with one full batch.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from environments import BENCHMARKS, child_environment, machine, pulled, show_machine

from steer_cli.models.catalogue import DEFAULT_MODEL

sys.path.insert(0, str(BENCHMARKS / "peers"))
from protocol import forget_peak, peak_mb

WORDS = (BENCHMARKS / "corpora" / "weddings.txt").read_text(encoding="utf-8").split()
WORK = (  # (prompts, samples per prompt)
    *((1, 32), (1, 128), (1, 512)),
    *((32, 1), (256, 1), (2048, 1)),
)


def prompts(count: int) -> list[str]:
    """Prompts of 3 to 12 words; neighbours differ in length."""
    return [" ".join(WORDS[(7 * number) % 600 :][: 3 + 5 * number % 10]) for number in range(count)]


def work(count: int, samples: int, tokens: int) -> dict:
    """Tokens per second and memory of the work of `steer generate`, on a loaded model."""
    import torch

    from steer_cli.api.questions import load_model, load_recipe
    from steer_cli.planning.plan import plan_recipe
    from steer_cli.run_plan import complete

    torch.set_num_threads(int(child_environment(2)["OMP_NUM_THREADS"]))
    model = load_model(DEFAULT_MODEL, device="cpu")

    def go(texts: list[str], samples: int, tokens: int) -> tuple[int, float, float]:
        recipe = load_recipe(str(BENCHMARKS / "recipe.yaml")).with_prompts(texts)
        recipe = recipe.with_sampling(samples=samples, max_new_tokens=tokens)
        made, delay = 0, None
        begun = time.perf_counter()
        plan = plan_recipe(recipe, model.facts(recipe.bos), tokens)
        for comparison in complete(model, plan, score=False):
            delay = delay or time.perf_counter() - begun
            made += sum(len(row.tokens) for row in (*comparison.unsteered, *comparison.steered))
        return made, time.perf_counter() - begun, delay

    go(prompts(min(count, 32)), min(samples, 32), tokens)
    forget_peak()
    made, seconds, delay = go(prompts(count), samples, tokens)
    return {
        "prompts": count,
        "samples": samples,
        "tokens": made,
        "seconds": seconds,
        "tokens_per_second": made / seconds,
        "first_result_seconds": delay,
        "peak_rss_mb": peak_mb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--most", type=int, default=2048, help="leave out lines with more rows per arm")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "many.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(work(*map(int, options.one.split(",")), options.tokens)))
        return
    pulled()
    facts = machine()
    show_machine(facts)
    titles = ("prompts", "samples", "tokens", "tokens/s", "of a batch", "first s", "MB")
    print("".join(f"{title:>11}" for title in titles))
    entries = []
    for count, samples in (work for work in WORK if work[0] * work[1] <= options.most):
        command = [sys.executable, __file__, "--one", f"{count},{samples}", "--tokens", str(options.tokens)]
        child = subprocess.run(command, check=True, capture_output=True, text=True, env=child_environment(2))
        entry = json.loads(child.stdout.splitlines()[-1])
        # The first line with as many samples of a prompt (or prompts of a sample) fills one batch.
        full = next((e for e in entries if (e["prompts"] == 1) == (count == 1)), entry)
        entry["share"] = entry["tokens_per_second"] / full["tokens_per_second"]
        entries.append(entry)
        print(
            f"{count:11}{samples:11}{entry['tokens']:11}{entry['tokens_per_second']:11.1f}{entry['share']:11.2f}"
            f"{entry['first_result_seconds']:11.2f}{entry['peak_rss_mb']:11.0f}",
            flush=True,
        )
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": facts, "entries": entries}, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
