"""How a peer talks to the harness: a JSON job on standard input, a JSON result on the last line of output.

With `whole`, the job runs like a user's script instead: load, complete, print the texts, exit. This module
only imports the standard library, so that a peer's own imports count in its load time.
"""

import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout

STARTED = time.perf_counter()

# (job, samples, new tokens, greedy) -> [unsteered rows, steered rows], each row a list of new token ids
Work = Callable[[dict, int, int, bool], list[list[list[int]]]]

GREEDY_TOKENS = 8


def serve(load: Callable[[dict], Work], packages: tuple[str, ...]) -> None:
    """Load once, then do the work for each number of samples: a warm-up run, then a timed run."""
    job = json.load(sys.stdin)
    if job.get("whole"):
        [samples] = job["samples"]
        load(job)(job, samples, job["new_tokens"], False)
        return
    # Libraries print; standard output is for the result.
    with redirect_stdout(sys.stderr):
        work = load(job)
        result = {
            "load_seconds": time.perf_counter() - STARTED,
            "versions": versions(packages),
            "greedy": [rows[0] for rows in work(job, 1, GREEDY_TOKENS, True)],
            "runs": [run(work, job, samples) for samples in job["samples"]],
        }
    print(json.dumps(result), flush=True)


def run(work: Work, job: dict, samples: int) -> dict:
    begin = time.perf_counter()
    work(job, samples, job["new_tokens"], False)
    first_seconds = time.perf_counter() - begin
    forget_peak()
    begin = time.perf_counter()
    arms = work(job, samples, job["new_tokens"], False)
    seconds = time.perf_counter() - begin
    lengths = [[len(row) for row in rows] for rows in arms]
    if lengths != [[job["new_tokens"]] * samples] * 2:
        raise SystemExit(f"not the work requested: rows of {lengths} tokens")
    tokens = sum(map(sum, lengths))
    return {
        "samples": samples,
        "tokens": tokens,
        "seconds": seconds,
        "first_seconds": first_seconds,
        "peak_rss_mb": peak_mb(),
    }


def forget_peak() -> None:
    """Reset the peak, so that a run's figure excludes loading and larger runs."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # the figure is then the peak since the start


def peak_mb() -> float:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in packages:
        found[package] = importlib.metadata.version(package)
    return found


def threads() -> int:
    """The number of threads set by the harness."""
    return int(os.environ["OMP_NUM_THREADS"])
