"""The file of a sweep: what was swept in its first line, then a line for each finished point.

Finished points are pushed to the disk before the next ones begin; what a kill left unfinished is cut off at
the next start. This module does not know how points are computed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from steer_cli.errors import SweepError

VERSION = 3


class Store:
    """A context that holds the file alone; `records` are the points that it had, in order.

    Args:
        fault: says what is wrong with a record that the file had, or None.

    Raises:
        SweepError: the file belongs to another sweep or to something else, or another process holds it.
    """

    def __init__(
        self,
        path: Path,
        subject: dict[str, Any],
        fault: Callable[[dict[str, Any]], str | None] = lambda record: None,
    ):
        self.path = path
        self._fault = fault
        self.subject = {"steer_sweep": VERSION} | subject
        self.records: list[dict[str, Any]] = []
        self._lock = FileLock(f"{path}.lock")
        self._file: int | None = None

    def __enter__(self) -> Store:
        if not self.path.absolute().parent.is_dir():
            raise SweepError(f"--store {self.path}: there is no folder {self.path.parent}; make it first")
        # Devices and pipes are read without end, and none of them should get a lock file beside it.
        if os.path.exists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
            raise SweepError(f"--store {self.path}: not a regular file; use another name")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            # Where no file can be made, the lock is waited for too.
            made = os.path.exists(self._lock.lock_file)
            fault = "another sweep is writing to it; wait, or" if made else "no file can be made there;"
            raise SweepError(f"--store {self.path}: {fault} use another file") from None
        except OSError as error:
            raise SweepError(f"--store {self.path}: {error.strerror or error}") from None
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._lock.release()

    def _open(self) -> None:
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            content = self.path.read_bytes()
            # A line without its end is what a kill interrupted.
            whole = content[: content.rfind(b"\n") + 1]
            lines = [self._object(line, number) for number, line in enumerate(whole.split(b"\n")[:-1], 1)]
        except OSError as error:
            raise SweepError(f"--store {self.path}: {error.strerror or error}") from None
        if not lines and content and not self._first_line.startswith(content):
            raise SweepError(f"--store {self.path}: not the store of a sweep; use another file")
        if lines:
            self._check(lines[0])
        for number, record in enumerate(lines[1:], 2):
            if (fault := self._fault(record)) is not None:
                raise SweepError(
                    f"--store {self.path}:{number}: not a finished point: {fault}; delete this line, and the "
                    "point is computed again"
                )
        os.ftruncate(self._file, len(whole))
        os.lseek(self._file, 0, os.SEEK_END)
        self.records = lines[1:]
        if not lines:
            self._write(self._first_line)

    def _object(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            remedy = "use another file" + (", or delete this line" if number > 1 else "")
            raise SweepError(f"--store {self.path}:{number}: not the store of a sweep; {remedy}")
        return found

    @property
    def _first_line(self) -> bytes:
        return json.dumps(self.subject, ensure_ascii=False).encode() + b"\n"

    def _check(self, found: dict[str, Any]) -> None:
        if "steer_sweep" not in found:
            raise SweepError(f"--store {self.path}: not the store of a sweep; use another file")
        if found["steer_sweep"] != VERSION:
            raise SweepError(
                f"--store {self.path}: written by another release of steer, whose figures may differ; use "
                "another file, or delete this one"
            )
        for key, wanted in self.subject.items():
            if found.get(key) != wanted:
                raise SweepError(
                    f"--store {self.path}: holds a sweep of another {key} ({_short(found.get(key))}, now "
                    f"{_short(wanted)}); use another file, or delete this one"
                )

    def append(self, records: Sequence[dict[str, Any]]) -> None:
        """Write finished points, a line each, and wait until they are on the disk."""
        self._write(b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records))
        self.records += records

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError as error:
            raise SweepError(
                f"--store {self.path}: {error.strerror or error}; make room and start again, which goes on "
                "from the points that are there"
            ) from None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
