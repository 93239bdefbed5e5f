"""A sweep that is killed: run as `python kill_sweep.py RECIPE CORPUS FOLDER TRIALS`, by test_store.py.

The tool is imported once and every sweep runs in a child of this process, so that a trial costs what a sweep
does. Prints how many kills came before the first point, between points and after the last.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def start(recipe, corpus, store):
    """A child that sweeps; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        run(recipe, corpus, store)
        status = 0
    finally:
        os._exit(status)


def run(recipe, corpus, store):
    from steer_cli.measure.corpus import read_corpus
    from steer_cli.models.hardware import Hardware
    from steer_cli.recipe.load import load
    from steer_cli.sweeps.plan import SweepOptions, plan_sweep
    from steer_cli.sweeps.sweep import sweep

    options = SweepOptions("0:5", "-1:1:0.5", measures=("perplexity", "kl"))
    plan = plan_sweep(load(recipe), [read_corpus(corpus, lines=True)], options)
    for _ in sweep(plan, Hardware(device="cpu"), Path(store)):
        pass


def finish(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    recipe, corpus, folder, trials = sys.argv[1:]
    import torch

    import steer_cli.models.load
    import steer_cli.sweeps.runner
    import steer_cli.sweeps.sweep  # noqa: F401

    torch.set_num_threads(1)
    draw = random.Random(0)
    whole = Path(folder) / "whole.jsonl"
    begun = time.monotonic()
    assert finish(start(recipe, corpus, whole)) == 0
    took = time.monotonic() - begun
    size, killed, wrong = whole.stat().st_size, {"before": 0, "between": 0, "after": 0}, 0
    for trial in range(int(trials)):
        store = Path(folder) / f"{trial}.jsonl"
        child = start(recipe, corpus, store)
        # Half of the moments by the clock, half by how far the file has come: much time goes into loading.
        if trial % 2:
            time.sleep(draw.uniform(0, took))
        else:
            target = draw.uniform(0, size)
            while (store.stat().st_size if store.exists() else 0) < target and not os.waitid(
                os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
            ):
                time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        finish(child)
        lines = store.read_bytes().count(b"\n") if store.exists() else 0
        killed["before" if lines < 2 else "between" if lines < 26 else "after"] += 1
        before = store.read_bytes() if store.exists() else b""
        assert finish(start(recipe, corpus, store)) == 0
        kept = store.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        wrong += store.read_bytes() != whole.read_bytes() or not kept
    print(json.dumps(killed | {"wrong": wrong, "lines": whole.read_bytes().count(b"\n")}))


main()
