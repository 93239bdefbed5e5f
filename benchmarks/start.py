"""How long commands without a model take, relative to importing typer and rich. See README.md.

The commands of a pair run in turn, each in its own process, and medians are compared. command.py times
everything that needs a model, including the first token.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from environments import BENCHMARKS, machine, pulled, show_machine


def measurements() -> list[dict]:
    steer = [str(Path(sys.executable).parent / "steer")]
    recipe = str(BENCHMARKS / "recipe.yaml")
    bare = [sys.executable, "-c", "import typer, rich"]
    return [
        {"name": "steer --help", "command": [*steer, "--help"], "floor": bare, "target": "1.5 x"},
        {"name": "steer check", "command": [*steer, "check", recipe], "floor": bare, "target": "0.6 s"},
        {"name": "steer table", "command": [*steer, "table", recipe], "floor": bare, "target": "0.6 s"},
    ]


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from start to exit."""
    begin = time.perf_counter()
    child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}: {child.stderr}")
    return time.perf_counter() - begin


def measure(entry: dict, rounds: int, environment: dict[str, str]) -> dict:
    ours, floors = [], []
    for number in range(rounds + 1):
        pair = seconds(entry["command"], environment), seconds(entry["floor"], environment)
        if number:  # the first round fills the disk cache and writes bytecode
            ours.append(pair[0])
            floors.append(pair[1])
    taken, floor = statistics.median(ours), statistics.median(floors)
    figures = {"seconds": taken, "floor_seconds": floor, "ratio": taken / floor}
    return {"name": entry["name"], **figures, "target": entry["target"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "start.json")
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "NO_COLOR": "1"}
    pulled()
    entries = [measure(entry, options.rounds, environment) for entry in measurements()]
    facts = machine()
    show_machine(facts)
    print(f"{'':32}{'seconds':>9}{'floor':>9}{'ratio':>8}   target")
    for entry in entries:
        numbers = f"{entry['seconds']:9.2f}{entry['floor_seconds']:9.2f}{entry['ratio']:8.2f}"
        print(f"{entry['name']:32}{numbers}   {entry['target']}")
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps({"machine": facts, "entries": entries}, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
