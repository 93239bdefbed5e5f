"""A file's sha256 is that of its bytes as they are now, and it is computed once."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steer_cli.models import fingerprint
from steer_cli.models.fingerprint import sha256_of

ROOT = Path(fingerprint.__file__).parents[2]
CONTENT = bytes(range(256)) * 12_000  # more than is read at a time


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "SETTLED", -1)
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(fingerprint, "WORTH", len(CONTENT))
    return path


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "home" / "fingerprints"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_it_is_read_once_under_each_of_its_names(file, memory, tmp_path, monkeypatch):
    assert sha256_of(file, memory) == digest(CONTENT)
    (tmp_path / "link").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fingerprint, "_read", lambda _: pytest.fail("read again"))
    for name in (file, Path("weights"), Path("link")):
        assert sha256_of(name, memory) == digest(CONTENT)


def same_size(file):
    file.write_bytes(CONTENT[::-1])


def same_size_and_time(file):
    before = file.stat()
    file.write_bytes(CONTENT[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def another_in_its_place(file):
    file.with_name("other").write_bytes(CONTENT[::-1])
    os.replace(file.with_name("other"), file)


@pytest.mark.parametrize("change", [same_size, same_size_and_time, another_in_its_place])
def test_a_changed_file_is_read_again(change, file, memory):
    sha256_of(file, memory)
    time.sleep(0.02)  # more than a tick of the file system's clock
    change(file)
    assert sha256_of(file, memory) == digest(CONTENT[::-1])


def test_a_small_file_is_not_remembered(file, memory, monkeypatch):
    monkeypatch.setattr(fingerprint, "WORTH", len(CONTENT) + 1)
    assert sha256_of(file, memory) == digest(CONTENT) and not memory.exists()


def test_what_was_written_a_moment_ago_is_not_remembered(file, memory, monkeypatch):
    monkeypatch.setattr(fingerprint, "SETTLED", 60)
    sha256_of(file, memory)
    assert not memory.exists()


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"sha256": 1}', "5", "\udcff", "[" * 100_000])
def test_what_is_no_memory_is_not_believed(written, file, memory):
    sha256_of(file, memory)
    (kept,) = memory.iterdir()
    kept.write_text(written, errors="surrogateescape")
    assert sha256_of(file, memory) == digest(CONTENT)


@pytest.mark.parametrize("place", ["file/below", "file"])
def test_where_nothing_can_be_remembered(place, file, tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert sha256_of(file, tmp_path / place) == digest(CONTENT)


def test_many_processes_at_once(file, memory):
    script = (
        "import sys; from pathlib import Path; from steer_cli.models import fingerprint\n"
        "fingerprint.SETTLED, fingerprint.WORTH = -1, 1\n"
        "print({fingerprint.sha256_of(Path(sys.argv[1]), Path(sys.argv[2])) for _ in range(50)})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, file, memory], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.communicate(timeout=60)[0] == str({digest(CONTENT)}) + "\n"
    assert len(list(memory.iterdir())) == 1
