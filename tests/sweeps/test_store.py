"""A sweep's store: nothing is lost, nothing repeated, and another sweep is refused."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from steer_cli.errors import SweepError
from steer_cli.sweeps.store import Store

SUBJECT = {"recipe": "a 1", "model": "m 2", "corpus": ["c 3"]}


@dataclass(frozen=True)
class Point:
    """As much of a sweep's point as a store needs."""

    coordinates: int

    def record(self):
        return {"layer": self.coordinates}


def opened(path, subject=SUBJECT):
    return Store(path, subject, lambda record: Point(record["layer"]))


def test_killed_at_twenty_random_moments_and_resumed_the_file_is_the_same(tiny_folder, tmp_path):
    recipe, corpus = tmp_path / "r.yaml", tmp_path / "c.txt"
    recipe.write_text(
        json.dumps(
            {
                "model": str(tiny_folder("gpt2")),
                "prompt": "I went up to my friend and said",
                "additions": [{"plus": " wedding", "minus": " ", "layer": 0}],
            }
        )
    )
    corpus.write_text("\n".join(f"The ship sailed to Rome with {n} stones and my friend." for n in range(4)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = Path(__file__).parents[1] / "kill_sweep.py"
    ran = subprocess.run(
        [sys.executable, script, recipe, corpus, tmp_path, "20"],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["wrong"] == 0 and result["lines"] == 1 + 5 * 5
    assert result["between"] >= 3, result


def test_points_come_back_and_an_unfinished_line_is_cut_off(tmp_path):
    path = tmp_path / "s.jsonl"
    with opened(path) as store:
        store.append([Point(1), Point(2)])
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with opened(path) as store:
            points = whole[:cut].count(b"\n")
            assert store.points == [Point(n) for n in range(1, points)]
        assert path.read_bytes() == whole[: max(whole[:cut].rfind(b"\n") + 1, whole.find(b"\n") + 1)]


@pytest.mark.parametrize("key", SUBJECT)
def test_a_store_of_another_sweep_is_refused_and_left_alone(key, tmp_path):
    path = tmp_path / "s.jsonl"
    with opened(path) as store:
        store.append([Point(1)])
    before = path.read_bytes()
    with (
        pytest.raises(SweepError, match=f"holds a sweep with a different {key}"),
        opened(path, SUBJECT | {key: "x"}),
    ):
        pass
    assert path.read_bytes() == before


STRAY = json.dumps({"steer_sweep": 1} | SUBJECT).encode() + b"\n[1]\n"


@pytest.mark.parametrize(
    "content", [b"hello\n", b'{"a": 1}\n', b"[1]\n", STRAY, b"notes without an end", b"\x00\xff"]
)
def test_what_is_no_store_is_refused_and_left_alone(content, tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(content)
    with pytest.raises(SweepError, match="not the store of a sweep"), opened(path):
        pass
    assert path.read_bytes() == content


def test_one_sweep_at_a_time(tmp_path):
    path = tmp_path / "s.jsonl"
    refused = pytest.raises(SweepError, match="another sweep is writing")
    with opened(path), refused, opened(path):
        pass


@pytest.mark.parametrize("path", ["missing/s.jsonl", ".", "/proc/s.jsonl"])
def test_a_place_where_no_file_can_be(path, tmp_path):
    with pytest.raises(SweepError, match="store") as caught, opened(tmp_path / path):
        pass
    assert "another sweep" not in str(caught.value)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_line_and_what_was_there_stays(call, tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "s.jsonl"
    with opened(path) as store:
        store.append([Point(1)])
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(SweepError, match=f"store .*{os.strerror(errno.ENOSPC)}"):
                store.append([Point(2)])
    with opened(path) as store:
        assert store.points[0] == Point(1)
