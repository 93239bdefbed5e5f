"""Time the same work in `steer` and its peers, in turn; README.md says what is measured."""

import argparse
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import environments
from environments import BENCHMARKS, PEERS, Peer
from shape import MODEL_SHAPE, made
from summary import medians, show

from steer_cli.api.questions import load_recipe
from steer_cli.models.catalogue import DEFAULT_MODEL
from steer_cli.models.resolve import locate
from steer_cli.planning.plan import Plan, plan_recipe


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[DEFAULT_MODEL, MODEL_SHAPE], default=DEFAULT_MODEL)
    parser.add_argument(
        "--samples", type=int, nargs="+", help="samples per arm; default 1 8 32 (gpt2-xl-shape: 1 8)"
    )
    parser.add_argument("--tokens", type=int, help="new tokens per row; default 40 (gpt2-xl-shape: 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="peers to run; steer always runs")
    parser.add_argument("--limit", type=float, default=1200, help="seconds allowed per peer and round")
    parser.add_argument("--install-limit", type=float, default=1800, help="seconds allowed to install a peer")
    parser.add_argument("--output", type=Path, help="default results/latest.json or results/MODEL.json")
    options = parser.parse_args()
    small = options.model == DEFAULT_MODEL
    options.samples = sorted(options.samples or ([1, 8, 32] if small else [1, 8]))
    options.tokens = options.tokens or (40 if small else 8)
    file = "latest.json" if small else f"{options.model}.json"
    options.output = options.output or BENCHMARKS / "results" / file
    return options


def job_of(options: argparse.Namespace) -> dict:
    """The job for all peers: ids and positions as planned by `steer`, so that all use the same."""
    if options.model == DEFAULT_MODEL:
        folder, model, layer = environments.pulled(), options.model, 4
    else:
        folder = made(environments.PLACE, environments.pulled())
        model, layer = str(folder), 6
    recipe = load_recipe(str(BENCHMARKS / "recipe.yaml"), {"model": model, "additions.0.layer": layer})
    plan = plan_recipe(recipe, locate(model).facts(recipe.bos), options.tokens)
    return work_of(plan) | {
        "folder": str(folder),
        "samples": options.samples,
        "new_tokens": options.tokens,
    }


def work_of(plan: Plan) -> dict:
    """The prompt, the pair and the sampling of a plan with one prompt and one addition."""
    [prompt] = plan.prompts
    [alignment] = plan.alignments
    [pair] = alignment.pairs
    sampling = plan.recipe.sampling
    return {
        "model": plan.recipe.model,
        "prompt": prompt.ids,
        "plus": pair.plus.ids,
        "minus": pair.minus.ids,
        "layer": alignment.layer,
        "coefficient": alignment.addition.coefficient,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "frequency_penalty": sampling.frequency_penalty,
        "seed": sampling.seed,
    }


@functools.cache
def quantised(model: str) -> dict:
    """What llama.cpp also needs: its API does not expose the stream, so the vector is computed for it."""
    command = [sys.executable, BENCHMARKS / "direction.py", model]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"gguf": str(environments.gguf()), "direction": json.loads(made.stdout)}


def once(peer: Peer, python: Path, job: dict, options: argparse.Namespace) -> dict:
    """Run one round of one peer in its own process.

    Raises:
        RuntimeError: the peer failed; the message says how.
    """
    job = {**job, "variant": peer.variant}
    if peer.environment == "llama-cpp":
        job |= quantised(job["model"])
    script = BENCHMARKS / "peers" / f"{peer.script}.py"
    try:
        child = subprocess.run(
            [python, script],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=options.limit,
            env=environments.child_environment(options.threads),
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not finished within {options.limit:.0f} s") from None
    if child.returncode:
        lines = [line.strip() for line in child.stderr.splitlines() if line.strip()] or ["no output"]
        raise RuntimeError(f"failed ({child.returncode}): {lines[-1][:300]}")
    return json.loads(child.stdout.splitlines()[-1])


def chosen(options: argparse.Namespace, skipped: dict[str, str]) -> dict[str, tuple[Peer, Path]]:
    known = [peer.name for peer in PEERS]
    if unknown := set(options.peers or []) - set(known):
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    family = "llama" if options.model == DEFAULT_MODEL else "gpt2"
    found = {}
    for peer in PEERS:
        wanted = not options.peers or peer.name in options.peers or not peer.packages
        if not wanted or family not in peer.families:
            continue
        try:
            found[peer.name] = peer, environments.ready(peer, options.install_limit)
        except RuntimeError as error:
            skipped[peer.name] = str(error)
    return found


def main() -> None:
    options = arguments()
    skipped: dict[str, str] = {}
    job = job_of(options)
    peers = chosen(options, skipped)
    rounds: dict[str, list[dict]] = {name: [] for name in peers}
    machine = environments.machine()
    for number in range(options.rounds):
        for name, (peer, python) in peers.items():
            if name in skipped:
                continue
            begin = time.perf_counter()
            try:
                rounds[name].append(once(peer, python, job, options))
                state = f"{time.perf_counter() - begin:.0f} s"
            except RuntimeError as error:
                skipped[name] = state = str(error)
            print(f"round {number + 1} of {options.rounds}: {name}: {state}", file=sys.stderr, flush=True)
    machine["load_average_after"] = environments.machine()["load_average"]
    result = {
        "machine": machine,
        "work": {key: job[key] for key in ("layer", "coefficient", "temperature", "top_p", "new_tokens")}
        | {"model": options.model, "threads": options.threads, "rounds": options.rounds},
        "peers": medians([peer for peer, _ in peers.values() if rounds[peer.name]], rounds),
        "skipped": skipped,
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    print(f"written to {options.output}")
    if not rounds["steer"]:
        raise SystemExit(f"steer: {skipped['steer']}")


if __name__ == "__main__":
    main()
