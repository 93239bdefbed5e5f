"""Where a model's weights go, and in which precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hardware:
    """What the user asked for; auto leaves it to the machine.

    Args:
        dtype: float32, bfloat16 or float16; auto is float32 on a CPU and the checkpoint's elsewhere.
        device: cuda, cuda:1, mps or cpu; auto is the first of these that is there.
        device_map: auto spreads a model over all accelerators and the CPU's memory.
    """

    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
