"""How soon it answers: start-up times as ratios to what they cannot be below. See README.md.

Every pair is run in alternation, each command in a process of its own, and medians are compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from environments import BENCHMARKS, machine, pulled

# What a first token needs at the least: torch, the class of the model, every byte of its weights.
FLOOR = """
import sys, torch
from safetensors.torch import load_file
from transformers.models.llama.modeling_llama import LlamaForCausalLM
for weight in load_file(sys.argv[1]).values():
    weight.sum()
"""


def measurements(folder: Path) -> list[dict]:
    steer = [str(Path(sys.executable).parent / "steer")]
    recipe = str(BENCHMARKS / "recipe.yaml")
    bare = [sys.executable, "-c", "import typer, rich"]
    floor = [sys.executable, "-c", FLOOR, str(folder / "model.safetensors")]
    first = ["generate", recipe, "--samples", "1", "--set", "sampling.max_new_tokens=1"]
    return [
        {"name": "steer --help", "command": [*steer, "--help"], "floor": bare, "target": "1.5 x"},
        {"name": "steer check", "command": [*steer, "check", recipe], "floor": bare, "target": "0.6 s"},
        {"name": "steer table", "command": [*steer, "table", recipe], "floor": bare, "target": "0.6 s"},
        {
            "name": "first token",
            "command": [*steer, *first],
            "floor": floor,
            "target": "1.3 x",
        },
    ]


def seconds(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Until the first byte of output (or the end, where there is none), and until the end."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as child:
        child.stdout.read(1)
        first = time.perf_counter() - begin
        child.stdout.read()
        complaint = child.stderr.read().decode()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: {complaint}")
    return first, time.perf_counter() - begin


def measure(entry: dict, rounds: int, environment: dict[str, str]) -> dict:
    ours, floors = [], []
    for number in range(rounds + 1):
        pair = seconds(entry["command"], environment), seconds(entry["floor"], environment)
        if number:  # the first round fills the disk cache and writes byte code
            ours.append(pair[0])
            floors.append(pair[1][1])
    until_output, until_end = (statistics.median(times) for times in zip(*ours, strict=True))
    taken = until_output if entry["name"].startswith("first") else until_end
    floor = statistics.median(floors)
    figures = {"seconds": taken, "seconds_to_end": until_end, "floor_seconds": floor, "ratio": taken / floor}
    return {"name": entry["name"], **figures, "target": entry["target"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "start.json")
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "NO_COLOR": "1"}
    entries = [measure(entry, options.rounds, environment) for entry in measurements(pulled())]
    print(f"{'':32}{'seconds':>9}{'floor':>9}{'ratio':>8}   target")
    for entry in entries:
        numbers = f"{entry['seconds']:9.2f}{entry['floor_seconds']:9.2f}{entry['ratio']:8.2f}"
        print(f"{entry['name']:32}{numbers}   {entry['target']}")
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": machine(), "entries": entries}, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
