"""Where a model's weights go, in which precision, and how many threads compute."""

from __future__ import annotations

from dataclasses import dataclass

MOST_THREADS = 1024  # far more are refused by the operating system, in the middle of a pass


@dataclass(frozen=True)
class Hardware:
    """What the user asked for; auto leaves it to the machine.

    Args:
        dtype: float32, bfloat16 or float16; auto is float32 on a CPU and the checkpoint's elsewhere.
        device: cuda, cuda:1, mps or cpu; auto is the first of these that is there.
        device_map: auto spreads a model over all accelerators and the CPU's memory.
        threads: how many torch computes with on the CPU, in the whole process; None leaves them as they are.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    threads: int | None = None
