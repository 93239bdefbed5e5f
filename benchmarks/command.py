"""Time whole commands, each a process from start to exit, in turn. See README.md.

The time includes all that a user waits for: imports, weights, vectors, tokens and printing. A round runs
every command once, so that a slow machine slows all of them equally; medians over rounds are compared.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import environments
from bench import work_of
from environments import BENCHMARKS, PEERS

from steer_cli.api.questions import load_recipe
from steer_cli.models.resolve import locate
from steer_cli.planning.plan import plan_recipe

RECIPE = "love-hate"
WHOLE = ("transformers", "steering-vectors", "repeng")
CORPUS = BENCHMARKS / "corpora" / "weddings.txt"  # 48 sentences
# The minimum for a first token: torch, every byte of the weights, the tokenizer.
FLOOR = """
import sys, torch
from safetensors import safe_open
from tokenizers import Tokenizer
with safe_open(sys.argv[1] + "/model.safetensors", framework="pt") as file:
    for name in file.keys():
        file.get_tensor(name).sum()
Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
"""

Run = Callable[[], float]  # -> seconds


class Processes:
    """Run commands with the same environment, and wait for them.

    Args:
        job: a file that the peers' scripts read on standard input.
    """

    def __init__(self, threads: int, limit: float, job: Path):
        self._environment = environments.child_environment(threads) | {"NO_COLOR": "1"}
        self._limit, self._job = limit, job

    def seconds(self, *commands: list) -> float:
        """Seconds from the start of the first command to the exit of the last; all run at once.

        Raises:
            RuntimeError: a command failed or took too long; the message says how.
        """
        begin, children = time.perf_counter(), []
        try:
            children = [self._start(command) for command in commands]
            for child in children:
                _, complaint = child.communicate(timeout=self._limit)
                if child.returncode:
                    lines = complaint.strip().splitlines() or ["no output"]
                    raise RuntimeError(f"failed ({child.returncode}): {lines[-1][:300]}")
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not finished within {self._limit:.0f} s") from None
        finally:
            for child in children:
                child.kill()
                child.wait()
        return time.perf_counter() - begin

    def _start(self, command: list) -> subprocess.Popen:
        with self._job.open() as job:
            return subprocess.Popen(
                command,
                stdin=job,
                # The output is a few lines, which fit in a pipe until they are read.
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=self._environment,
            )


def steer_runs(processes: Processes, folder: Path, options: argparse.Namespace) -> dict[str, Run]:
    steer = [str(Path(sys.executable).parent / "steer")]
    counts = ["--samples", str(options.samples), "--set", f"sampling.max_new_tokens={options.tokens}"]
    generate = [*steer, "generate", RECIPE, *counts]
    first = [*steer, "generate", RECIPE, "--samples", "1", "--set", "sampling.max_new_tokens=1"]
    perplexity = [*steer, "perplexity", RECIPE, "--corpus", str(CORPUS), "--lines"]
    floor = [sys.executable, "-c", FLOOR, str(folder)]
    return {
        "steer generate": lambda: processes.seconds(generate),
        "first token": lambda: processes.seconds(first),
        "its floor": lambda: processes.seconds(floor),
        "two at once": lambda: processes.seconds(generate, generate),
        "steer shift": lambda: processes.seconds([*steer, "shift", RECIPE]),
        "steer perplexity": lambda: processes.seconds(perplexity),
    }


def peer_runs(processes: Processes, options: argparse.Namespace, skipped: dict[str, str]) -> dict[str, Run]:
    found = {}
    for peer in PEERS:
        if peer.name not in options.peers:
            continue
        try:
            python = environments.ready(peer, options.install_limit)
        except RuntimeError as error:
            skipped[peer.name] = str(error)
            continue
        command = [python, BENCHMARKS / "peers" / f"{peer.script}.py"]
        found[peer.name] = lambda command=command: processes.seconds(command)
    return found


def job_of(folder: Path, options: argparse.Namespace) -> dict:
    """The same recipe for the peers' scripts: its ids and sampling, with rows that end at EOS as ours do."""
    recipe = load_recipe(RECIPE)
    facts = locate(recipe.model).facts(recipe.bos)
    return work_of(plan_recipe(recipe, facts, options.tokens)) | {
        "folder": str(folder),
        "whole": True,
        "variant": "batch",
        "samples": [options.samples],
        "new_tokens": options.tokens,
        "eos": list(facts.tokenizer.eos),
    }


def measured(runs: dict[str, Run], rounds: int, skipped: dict[str, str]) -> dict[str, list[float]]:
    """Seconds of every run per round, without the first, which fills the disk cache and writes bytecode."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            if name in skipped:
                continue
            try:
                seconds = run()
            except RuntimeError as error:
                skipped[name] = str(error)
                continue
            print(f"round {number} of {rounds}: {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
            if number:
                taken[name].append(seconds)
    return {name: seconds for name, seconds in taken.items() if seconds}


def entries_of(taken: dict[str, list[float]], options: argparse.Namespace) -> list[dict]:
    """Medians, and the ratio of each to the command it is compared with."""
    compared = {
        peer: ("steer generate", "at least 4" if peer == "transformers" else "") for peer in options.peers
    }
    compared |= {
        "first token": ("its floor", "at most 1.4"),
        "two at once": ("steer generate", "at most 2.3"),
        "steer shift": ("steer generate", ""),
        "steer perplexity": ("steer generate", ""),
    }
    entries = []
    for name, seconds in taken.items():
        other, target = compared.get(name, (None, ""))
        entry = {"name": name, "seconds": median(seconds), "least": min(seconds), "most": max(seconds)}
        if other in taken:
            entry |= {"over": other, "ratio": median(seconds) / median(taken[other]), "target": target}
        entries.append(entry)
    return entries


def show(entries: list[dict]) -> None:
    print(f"{'':20}{'seconds':>9}{'least':>8}{'most':>8}{'ratio':>8}")
    for entry in entries:
        line = f"{entry['name']:20}{entry['seconds']:9.2f}{entry['least']:8.2f}{entry['most']:8.2f}"
        if "over" in entry:
            target = f", target {entry['target']}" if entry["target"] else ""
            line += f"{entry['ratio']:8.2f} x {entry['over']}{target}"
        print(line)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=50, help="new tokens per row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="*", choices=WHOLE, default=list(WHOLE), metavar="NAME")
    parser.add_argument("--limit", type=float, default=600, help="seconds allowed per command")
    parser.add_argument("--install-limit", type=float, default=1800, help="seconds allowed to install a peer")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "command.json")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    skipped: dict[str, str] = {}
    folder = environments.pulled(load_recipe(RECIPE).model)
    machine = environments.machine()
    with TemporaryDirectory() as place:
        job = Path(place) / "job.json"
        job.write_text(json.dumps(job_of(folder, options)))
        processes = Processes(options.threads, options.limit, job)
        runs = steer_runs(processes, folder, options) | peer_runs(processes, options, skipped)
        entries = entries_of(measured(runs, options.rounds, skipped), options)
    machine["load_average_after"] = environments.machine()["load_average"]
    environments.show_machine(machine)
    show(entries)
    for name, reason in skipped.items():
        print(f"{name}: skipped: {reason}")
    work = {name: getattr(options, name) for name in ("samples", "tokens", "rounds", "threads")}
    result = {"machine": machine, "work": work, "entries": entries, "skipped": skipped}
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
