"""How much longer do a sweep and a search take on workers of one thread than in one process? See README.md.

    python benchmarks/on_ray.py [--rounds 3] [--workers 2] [--layers 24] [--sentences 24] [--only sweep]

One process with `--threads N` and `--ray local`, N workers of one thread each, run the same commands in turn,
each with a new store. The measured part goes from the moment when N points (or trials) are in the store, one
for each worker, to the last one: starting Ray and loading the model into the workers are not in it, and are
told apart. A search goes on with its card, which is computed without workers and counts as part of the whole
command only. The first round times the products of one and of N threads, and is discarded.

Not called ray.py, which Python would import in the place of Ray.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import environments
from environments import BENCHMARKS

from steer_cli.models.catalogue import DEFAULT_MODEL

STEER = [sys.executable, "-m", "steer_cli"]
PAIR = ["--plus", " weddings", "--minus", " "]
TARGET = 1.10
LOOK = 0.01  # seconds between two looks at the store


@dataclass(frozen=True)
class Timed:
    """Seconds of one command: until the first points of all workers, from there to the last, and in all."""

    start: float
    measuring: float
    whole: float
    points: int


def commands(folder: Path, options: argparse.Namespace) -> dict[str, list[str]]:
    """The sweep and the search, without their hardware and store.

    The search reads whole corpora, which it cuts in two, at every fourth layer.
    """
    shared = ["--model", options.model, "--jsonl", "--lines", "--device", "cpu"]
    swept = ["sweep", *PAIR, "--layers", f"0:{options.layers}", *shared]
    tuned = ["tune", *PAIR, "--layers", f"0:{options.layers}:4", *shared]
    for name, side in (("weddings", "--toward"), ("shipping", "--away")):
        whole, part = BENCHMARKS / "corpora" / f"{name}.txt", folder / f"{name}.txt"
        sentences = whole.read_text(encoding="utf-8").splitlines(keepends=True)
        part.write_text("".join(sentences[: options.sentences]), encoding="utf-8")
        swept += ["--corpus", f"{name}={part}"]
        tuned += [side, str(whole)]
    return {"sweep": swept, "tune": tuned}


def timed(command: list[str], store: Path, first: int, environment: dict[str, str]) -> Timed:
    """Run a command and watch its store.

    Raises:
        SystemExit: the command failed.
    """
    begun, begun_measuring, last, points = time.perf_counter(), 0.0, 0.0, 0
    with store.with_suffix(".err").open("w+") as complaint:
        child = subprocess.Popen(
            [*STEER, *command, "--store", str(store)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            env=environment,
            cwd=BENCHMARKS.parent,
        )
        while child.poll() is None:
            # The first line says of what the store is.
            found = store.read_bytes().count(b"\n") - 1 if store.exists() else 0
            if found > points:
                points, last = found, time.perf_counter()
                begun_measuring = begun_measuring or (last if points >= first else 0.0)
            time.sleep(LOOK)
        if child.returncode:
            complaint.seek(0)
            raise SystemExit(f"{' '.join(command)}: {complaint.read()[-300:]}")
    whole = time.perf_counter() - begun
    return Timed(begun_measuring - begun, last - begun_measuring, whole, points)


def medians(runs: list[Timed]) -> dict[str, float]:
    return {part: median(getattr(run, part) for run in runs) for part in ("start", "measuring", "whole")}


def rounds_of(name: str, command: list[str], folder: Path, options: argparse.Namespace) -> dict:
    """All rounds of one command, and what their medians say."""
    ways = {"process": ["--threads", str(options.workers)], "ray": ["--ray", "local"]}
    taken: dict[str, list[Timed]] = {way: [] for way in ways}
    for number in range(options.rounds + 1):
        for way, hardware in ways.items():
            environment = environments.child_environment(options.workers)
            store = folder / f"{name}-{way}-{number}.jsonl"
            found = timed([*command, *hardware], store, options.workers, environment)
            print(f"round {number} of {options.rounds}: {name}, {way}: {found}", file=sys.stderr, flush=True)
            if number or not options.rounds:
                taken[way].append(found)
    parts = ("start", "measuring", "whole")
    middle = {
        way: {part: median(getattr(run, part) for run in runs) for part in parts}
        for way, runs in taken.items()
    }
    return {
        "name": name,
        "points": [run.points for runs in taken.values() for run in runs],
        "rounds": {way: [asdict(run) for run in runs] for way, runs in taken.items()},
        "medians": middle,
        "ratio": middle["ray"]["measuring"] / middle["process"]["measuring"],
        "whole_ratio": middle["ray"]["whole"] / middle["process"]["whole"],
    }


def show(entries: list[dict], workers: int) -> None:
    ways = {"process": f"one process, {workers} threads", "ray": f"{workers} workers of one thread"}
    print(f"{'seconds':38}{'start':>9}{'measuring':>11}{'whole':>9}")
    for entry in entries:
        for way, label in ways.items():
            figures = entry["medians"][way]
            numbers = f"{figures['start']:9.2f}{figures['measuring']:11.2f}{figures['whole']:9.2f}"
            print(f"{entry['name'] + ': ' + label:38}{numbers}")
        ratios = f"{entry['ratio']:11.2f}{entry['whole_ratio']:9.2f}"
        print(f"{'':38}{'ratio':>9}{ratios}   target: measuring at most {TARGET}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="0 runs everything once and discards nothing")
    parser.add_argument("--workers", type=int, default=2, help="and threads of the one process")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--layers", type=int, default=24, help="of the sweep, one point each")
    parser.add_argument("--sentences", type=int, default=24, help="of each of the sweep's two corpora")
    parser.add_argument("--only", choices=("sweep", "tune"), help="leave out the other")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "on_ray.json")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.model == DEFAULT_MODEL:
        environments.pulled()
    if hasattr(os, "sched_setaffinity"):
        # A local cluster has a worker for every core that it may use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.workers])
    facts = environments.machine()
    with TemporaryDirectory() as place:
        folder = Path(place)
        chosen = {
            name: command
            for name, command in commands(folder, options).items()
            if options.only in (None, name)
        }
        entries = [rounds_of(name, command, folder, options) for name, command in chosen.items()]
    facts["load_average_after"] = environments.machine()["load_average"]
    environments.show_machine(facts)
    show(entries, options.workers)
    work = {name: getattr(options, name) for name in ("model", "rounds", "workers", "layers", "sentences")}
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(
        json.dumps({"machine": facts, "work": work, "entries": entries}, indent=1) + "\n"
    )
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
