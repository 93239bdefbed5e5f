"""The device and precision of a model's weights, and the number of CPU threads."""

from __future__ import annotations

from dataclasses import dataclass

MOST_THREADS = 1024  # with many more, the operating system would refuse in the middle of a pass


@dataclass(frozen=True)
class Hardware:
    """The user's choice of hardware; auto lets steer choose.

    Args:
        dtype: float32, bfloat16 or float16; auto is float32 on a CPU and the checkpoint's elsewhere.
        device: cuda, cuda:1, mps or cpu; auto is the first available of these.
        device_map: auto spreads a model over all accelerators and the CPU's memory.
        threads: torch's CPU threads, for the whole process; None leaves the number unchanged.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    threads: int | None = None
