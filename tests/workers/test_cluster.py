"""Joining a cluster that does not come up."""

import subprocess
import sys
import time

import psutil
import pytest

from steer_cli.workers.cluster import LOCAL, Needs, joined

ray = pytest.importorskip("ray")

# A process that starts another; neither ends when it is asked to.
PARENT = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
pathlib.Path(sys.argv[1]).write_text(f"{child.pid} ", encoding="utf-8")
time.sleep(300)
"""


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_an_interrupted_start_of_ray_leaves_no_process(tmp_path, monkeypatch):
    started, said = [], tmp_path / "child"

    def interrupted(**options):
        started.append(subprocess.Popen([sys.executable, "-c", PARENT, str(said)]).pid)
        while not (said.exists() and said.read_text(encoding="utf-8").endswith(" ")):
            time.sleep(0.02)
        started.append(int(said.read_text(encoding="utf-8")))
        assert all(map(alive, started))
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", interrupted)
    with pytest.raises(KeyboardInterrupt), joined(LOCAL, lambda _: Needs()):
        pass
    until = time.monotonic() + 5
    while any(map(alive, started)) and time.monotonic() < until:
        time.sleep(0.02)
    assert len(started) == 2 and not any(map(alive, started))
