"""Measure, once per machine, which way to multiply is fastest for each number of rows.

It depends on the processor, the shape of the weights and the rows; no way is fastest everywhere.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from steer_cli.networks.products import ONEDNN, PLAIN, Linear, Product, Way, available, mkl_packs

GRID = (1, 2, 4, 8, 16, 32, 64)  # rows
ANCHORS = (2, 16)  # rows at which every way is tried
MKL_ROWS = (16, 8, 32, 64)
HOPELESS = 1.3  # times the fastest at all anchors: a way this slow is not tried at other rows
MOST_ADDED = 4  # for up to this many rows, extra rows may be run
GAIN = 0.95  # of the time: a smaller gain may be noise
# Extra rows also cost time outside of the products: with two more, a step of two rows took 36 ms instead
# of 28, though its products took the same.
GAIN_OF_MORE_ROWS = 0.85
SAMPLE_BYTES = 36_000_000  # of weights of one shape: more than most caches hold, as in a real pass
ROUNDS = 3
TOLERANCE = (
    16.0  # times the plain product's own error; a sum in another order comes to 8, shorter floats to 100
)

Times = Mapping[Way, Mapping[int, float]]  # way -> rows -> seconds
_Made = Sequence[tuple[Tensor, Sequence[Product]]]  # what is multiplied, by each of these


class Step(NamedTuple):
    """The fastest way to run a pass, and how many rows to run."""

    way: Way
    rows: int


class Fastest(NamedTuple):
    """The measured choices.

    `steps` has the best step for each number of rows in GRID, with weights laid out for any number of rows;
    `packs` lists the numbers of rows for which weights packed by MKL for exactly that number are faster.
    """

    steps: dict[int, Step]
    packs: tuple[int, ...] = ()


def fastest(linears: Sequence[Linear], memory: Path) -> Fastest:
    """The fastest ways of a network's products, measured unless `memory` has them.

    Args:
        linears: of one network, the head last.
        memory: a JSON file for the networks and settings of this machine; where it cannot be read or written,
            each run measures. While other processes keep the machine busy nothing is measured.
    """
    setting, known = _setting(linears), _remembered(memory)
    if setting not in known:
        if _busy():
            # What is measured now would be chance, so that no two runs would round alike.
            return unmeasured(linears)
        known[setting] = measure(linears)
        _remember(memory, known)
    return known[setting]


@torch.inference_mode()
def unmeasured(linears: Sequence[Linear]) -> Fastest:
    """The way that is fast on most processors, at every number of rows."""
    weight = linears[0].weight
    usual = ONEDNN in available(weight.dtype) and _exact_enough(ONEDNN, weight)
    return Fastest({rows: Step(ONEDNN if usual else PLAIN, rows) for rows in GRID})


def _busy() -> bool:
    """Whether other processes keep the processor too busy for reliable timings."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


def _setting(linears: Sequence[Linear]) -> str:
    """Everything the choice depends on, as text."""
    shapes = sorted({"x".join(map(str, each.weight.shape)) for each in linears})
    library = [f"torch {torch.__version__}", f"{torch.get_num_threads()} threads"]
    return ", ".join([_processor(), *library, str(linears[0].weight.dtype), *shapes])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        facts = [named.get(key, "") for key in ("model name", "cpu family", "model", "stepping")]
    except OSError:  # not Linux
        facts = [platform.processor() or platform.machine()]
    return " ".join([*filter(None, facts), torch.backends.cpu.get_cpu_capability()])


def _remembered(memory: Path) -> dict[str, Fastest]:
    names = {way.name for way in available(torch.float32)}
    known: dict[str, Fastest] = {}
    # Absent, damaged or from another release: measure again.
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        for setting, choices in json.loads(memory.read_text(encoding="utf-8")).items():
            read = {int(rows): Step(Way(name), run) for rows, (name, run) in choices["steps"].items()}
            if {*read} == {*GRID} and {step.way.name for step in read.values()} <= names:
                packs = tuple(rows for rows in choices["packs"] if rows in MKL_ROWS)
                known[setting] = Fastest(read, packs)
    return known


def _remember(memory: Path, known: Mapping[str, Fastest]) -> None:
    plain = {
        setting: {
            "steps": {rows: [step.way.name, step.rows] for rows, step in found.steps.items()},
            "packs": found.packs,
        }
        for setting, found in known.items()
    }
    written = memory.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        written.replace(memory)


@torch.inference_mode()
def measure(linears: Sequence[Linear]) -> Fastest:
    """Time the ways on some of the network's own weights; takes less than a second."""
    samples = list(_samples(linears))
    dtype = samples[0][0].dtype
    widths = {sample[0].shape[1] for sample in samples}
    inputs = {width: torch.randn(GRID[-1], width).to(dtype) for width in widths}

    def made(way: Way) -> _Made:
        return [
            (inputs[sample[0].shape[1]], [way.product(weight, None) for weight in sample])
            for sample in samples
        ]

    ways = [way for way in available(dtype) if way == PLAIN or _exact_enough(way, samples[0][0])]
    products = {way: made(way) for way in ways}
    times = _seconds(products, ANCHORS)
    best = {rows: min(taken[rows] for taken in times.values()) for rows in ANCHORS}
    hopeful = {
        way: products[way]
        for way, taken in times.items()
        if any(taken[rows] <= HOPELESS * best[rows] for rows in ANCHORS)
    }
    others = _seconds(hopeful, [rows for rows in GRID if rows not in ANCHORS])
    times = {way: taken | others.get(way, {}) for way, taken in times.items()}
    steps = choose(times)
    packs = []
    for rows in MKL_ROWS if mkl_packs(dtype) and _exact_enough(Way("mkl", 4), samples[0][0]) else ():
        # MKL packs for one number of rows, which is slow, so it is not tried again once it is far behind.
        way, usual = Way("mkl", rows), steps[rows].way
        pair = _seconds({way: made(way), usual: products[usual]}, [rows])
        share = pair[way][rows] / pair[usual][rows]
        packs += [rows] if share < GAIN else []
        if share > HOPELESS:
            break
    return Fastest(steps, tuple(sorted(packs)))


def choose(times: Times) -> dict[int, Step]:
    """The fastest way at each number of rows in GRID.

    With other loops, more rows may take less time than fewer; in that case meaningless rows are added.
    """
    chosen: dict[int, Step] = {}
    for rows in GRID:
        exact = {way: seconds[rows] for way, seconds in times.items() if rows in seconds}
        way = min(exact, key=exact.__getitem__)
        chosen[rows], best = Step(way, rows), exact[way] * GAIN_OF_MORE_ROWS
        for other, seconds in times.items():
            for more in sorted(seconds):
                if rows < more <= MOST_ADDED and seconds[more] < best:
                    best, chosen[rows] = seconds[more], Step(other, more)
    return chosen


def _samples(linears: Sequence[Linear]) -> Iterator[list[Tensor]]:
    """Weights of the shape on which a pass spends most of its time, and part of the head."""
    head = linears[-1].weight
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for each in linears[:-1]:
        shapes.setdefault(tuple(each.weight.shape), []).append(each.weight)
    body = max(shapes.values(), key=lambda weights: len(weights) * weights[0].nbytes)
    yield body[: max(1, SAMPLE_BYTES // body[0].nbytes)]
    yield [head[: max(1, SAMPLE_BYTES // head[0].nbytes)]]


def _exact_enough(way: Way, weight: Tensor) -> bool:
    """Whether a way differs from the exact product only by rounding."""
    weight = weight[:256]
    stream = torch.randn(4, weight.shape[1]).to(weight.dtype)
    exact = stream.double() @ weight.double().T

    def error(way: Way) -> float:
        return float((way.product(weight, None)(stream).double() - exact).abs().max())

    return error(way) <= TOLERANCE * error(PLAIN)


def _seconds(products: Mapping[Way, _Made], wanted: Sequence[int]) -> dict[Way, dict[int, float]]:
    """Seconds to run all of the products of each way in sequence, the least of some rounds.

    The ways take turns, so that what else the machine does for a while holds up all of them.
    """
    least = {way: dict.fromkeys(wanted, float("inf")) for way in products}
    for _ in range(ROUNDS):
        for rows in wanted:
            for way, parts in products.items():
                start = time.perf_counter()
                for stream, chosen in parts:
                    for product in chosen:
                        product(stream[:rows])
                least[way][rows] = min(least[way][rows], time.perf_counter() - start)
    return least
