"""How OpenMP's threads wait for each other between two products: they sleep, or spin for a moment first.

Waking a thread takes as long as a small product. But threads that spin take cores away from other processes:
two commands that both spin for long on two cores make each other many times slower.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

# Any of these lets the user choose.
CHOSEN = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
SLEEP = {"OMP_WAIT_POLICY": "PASSIVE"}
# Turns of GNU's OpenMP: about a tenth of a millisecond, enough for the small operations between two products.
SPIN = {"GOMP_SPINCOUNT": "5000"}
LOOKS, PAUSE = 5, 0.001  # a process that runs for a moment only is no reason to sleep


def how_to_wait(environ: Mapping[str, str], load: Path = Path("/proc/loadavg")) -> dict[str, str]:
    """Variables to set before torch is loaded: threads spin only if no other process is running.

    Args:
        load: a file of Linux whose fourth field is `running/all`, threads of the whole machine; where it is
            missing, threads sleep.
    """
    if environ.keys() & CHOSEN:
        return {}
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE)
        try:
            running = int(load.read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, LookupError):
            return SLEEP
        if running <= 1:  # this process
            return SPIN
    return SLEEP
