"""The same command, the same bytes: MKL has to add up in the same order each time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VARIABLE = "MKL_CBWR"
# Kernels are chosen as ever, but work is shared out the same way each time.
SAME = {VARIABLE: "AUTO"}


def same_sums(environ: Mapping[str, str], processor: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Variables to set before torch is loaded, unless the user has chosen, or the processor is Intel's.

    On an AMD EPYC, two threads of MKL gave one of two results from run to run without this, and took up to
    twice as long for products of a few rows.

    Args:
        processor: a file of Linux that names its vendor near the beginning.
    """
    if VARIABLE in environ:
        return {}
    try:
        with processor.open("rb") as file:
            beginning = file.read(256)  # all of it takes long on many cores
    except OSError:
        return {}
    return {} if b"GenuineIntel" in beginning else SAME
