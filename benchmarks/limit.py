"""The physical limit of the same work on this machine, and how close `steer` comes to it. See README.md.

A decoding step reads every weight matrix once and multiplies it with all rows. For each matrix, a step takes
at least the longer of two times: reading its bytes at the measured bandwidth, and the arithmetic at the speed
reached for this shape with the weights in the processor's cache. The sum over all matrices is the limit; the
KV cache, attention, norms and sampling are taken as free. `in turn` is the looser bound in which reading and
arithmetic never overlap. Both assume that all rows differ: `steer` runs samples that have drawn the same
tokens so far as one row, which makes its first steps shorter.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import environments
import torch
from bench import job_of, once
from environments import BENCHMARKS, PEERS
from safetensors import safe_open
from torch import Tensor

from steer_cli.models.catalogue import DEFAULT_MODEL

BUFFER = 1 << 28  # values: 1 GiB of float32, more than any cache holds
HEADS = ("lm_head.weight", "embed_tokens.weight", "wte.weight")


def fastest(work, seconds: float = 0.5) -> float:
    """The least seconds taken by `work`, over as many runs as fit into `seconds`."""
    work()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def bandwidths() -> dict[str, float]:
    """Bytes per second: reading (a sum, a matrix-vector product), and copying (read and written bytes)."""
    buffer = torch.ones(BUFFER // 4096, 4096)
    vector, target = torch.ones(4096), torch.empty_like(buffer)
    size = buffer.nbytes
    return {
        "sum": size / fastest(buffer.sum),
        "matrix by vector": size / fastest(lambda: torch.mv(buffer, vector)),
        "copy": 2 * size / fastest(lambda: target.copy_(buffer)),
    }


def matrices(folder: Path) -> tuple[Counter, tuple[int, int]]:
    """How often each shape of weight occurs in the blocks, and the shape of the head (outputs, inputs)."""
    blocks, heads = Counter(), {}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            shape = tuple(file.get_slice(name).get_shape())
            head = next((head for head in HEADS if name.endswith(head)), None)
            if head:
                heads[head] = shape
            elif len(shape) == 2 and not name.endswith("wpe.weight"):
                blocks[shape] += 1
    return blocks, heads[min(heads, key=HEADS.index)]


def rate(shape: tuple[int, int], rows: int) -> float:
    """Operations per second of rows x inputs times a cached weight, the better of two layouts."""
    outputs, inputs = shape
    # A slice of a large matrix: this measures the arithmetic; reading is counted elsewhere.
    outputs = min(outputs, 2048)
    weight, stream = torch.randn(outputs, inputs), torch.randn(rows, inputs)
    transposed = weight.T.contiguous()

    def by_row() -> Tensor:
        return torch.nn.functional.linear(stream, weight)

    def by_column() -> Tensor:
        return stream @ transposed

    return 2 * rows * outputs * inputs / min(fastest(by_row, 0.2), fastest(by_column, 0.2))


def pass_seconds(shapes: dict[tuple[int, int], int], rows: int, bandwidth: float) -> tuple[float, float]:
    """Seconds of one pass over these weights: the longer of reading and arithmetic, and their sum."""
    overlapped = in_turn = 0.0
    for shape, count in shapes.items():
        reading = 4 * shape[0] * shape[1] / bandwidth
        arithmetic = 2 * rows * shape[0] * shape[1] / rate(shape, rows)
        overlapped += count * max(reading, arithmetic)
        in_turn += count * (reading + arithmetic)
    return overlapped, in_turn


def limits(job: dict, samples: int, bandwidth: float) -> dict:
    """Limits of the whole work: one pass over both prompts, then one step per further token."""
    blocks, head = matrices(Path(job["folder"]))
    rows = 2 * samples
    step = pass_seconds({**blocks, head: blocks[head] + 1}, rows, bandwidth)
    prompt = pass_seconds(blocks, 2 * len(job["prompt"]), bandwidth)
    last = pass_seconds({head: 1}, 2, bandwidth)
    seconds = [prompt[way] + last[way] + (job["new_tokens"] - 1) * step[way] for way in range(2)]
    return {
        "samples": samples,
        "tokens": rows * job["new_tokens"],
        "step_ms": {"limit": 1e3 * step[0], "in turn": 1e3 * step[1]},
        "seconds": dict(zip(("limit", "in turn"), seconds, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=1200, help="seconds allowed per round of steer")
    parser.add_argument("--output", type=Path, default=BENCHMARKS / "results" / "limit.json")
    options = parser.parse_args()
    options.model = DEFAULT_MODEL
    torch.set_num_threads(options.threads)
    job, measured = job_of(options), []
    # In turn, so that a slow machine slows both; the best of each is used.
    for _ in range(options.rounds):
        bandwidth = bandwidths()
        ours = once(PEERS[0], Path(sys.executable), job, options)["runs"]
        bounds = [limits(job, samples, max(bandwidth.values())) for samples in options.samples]
        measured.append((bandwidth, ours, bounds))
    best = {name: max(bandwidth[name] for bandwidth, _, _ in measured) for name in measured[0][0]}
    entries = [entry(index, measured) for index in range(len(options.samples))]
    result = {"machine": environments.machine(), "bandwidth": best, "entries": entries}
    environments.show_machine(result["machine"])
    show(best, entries)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.output}")


def entry(index: int, measured: list) -> dict:
    bounds = [bounds[index] for _, _, bounds in measured]
    best = min(bounds, key=lambda bound: bound["seconds"]["limit"])
    ours = min(runs[index]["seconds"] for _, runs, _ in measured)
    share = {way: seconds / ours for way, seconds in best["seconds"].items()}
    return {**best, "ours_seconds": ours, "share": share}


def show(bandwidth: dict[str, float], entries: list[dict]) -> None:
    print("bandwidth: " + ", ".join(f"{name} {value / 1e9:.1f} GB/s" for name, value in bandwidth.items()))
    titles = ("samples", "step ms", "in turn", "limit s", "ours s", "share", "in turn")
    print("".join(f"{title:>9}" for title in titles))
    for line in entries:
        steps, share = line["step_ms"], line["share"]
        print(
            f"{line['samples']:9}{steps['limit']:9.1f}{steps['in turn']:9.1f}{line['seconds']['limit']:9.2f}"
            f"{line['ours_seconds']:9.2f}{share['limit']:9.0%}{share['in turn']:9.0%}"
        )


if __name__ == "__main__":
    main()
