"""The sha256 of a file, computed once and remembered until the file changes."""

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

SETTLED = 2.0  # seconds; a file changed more recently may change again with the same times
WORTH = 1 << 22  # bytes; smaller files are read within milliseconds


def facts(file: Path) -> dict[str, int]:
    """Properties of a file, at least one of which changes with its content."""
    stat = file.stat()
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }


def sha256_of(file: Path, memory: Path) -> str:
    """The sha256 of a file in hexadecimal; the file is read again only if its facts have changed.

    If the folder `memory` cannot be written, the file is read every time.

    Raises:
        OSError: the file cannot be read.
    """
    path = os.path.realpath(file)
    found = facts(file)
    now = {"path": path, **found}
    kept = memory / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    with suppress(
        OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError
    ):  # not written by us
        remembered = json.loads(kept.read_text(encoding="utf-8"))
        digest = remembered.pop("sha256")
        if remembered == now and len(bytes.fromhex(digest)) == 32:
            return digest
    digest = _read(file)
    if found["size"] < WORTH:
        return digest
    settled = time.time() - max(found["mtime_ns"], found["ctime_ns"]) / 1e9 > SETTLED
    if settled and {"path": path, **facts(file)} == now:
        with suppress(OSError):
            _write(kept, json.dumps({**now, "sha256": digest}))
    return digest


def _read(file: Path) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(file, "rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def _write(kept: Path, text: str) -> None:
    """Write in one step, so that other processes never read half a file."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile("w", dir=kept.parent, delete=False, encoding="utf-8") as part:
        part.write(text)
    try:
        os.replace(part.name, kept)
    except OSError:
        os.unlink(part.name)
        raise
