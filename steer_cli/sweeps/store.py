"""The file of a sweep or a search: the first line says of what, then one line per finished point.

Finished points are flushed to disk before the next ones begin; an unfinished line left by a kill is cut off
at the next start.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from filelock import FileLock, Timeout

from steer_cli.errors import SweepError
from steer_cli.results.json_values import Record

VERSION = 3


class Finished(Protocol):
    """What a store holds: something with a place of its own, and a record."""

    @property
    def coordinates(self) -> Hashable: ...

    def record(self) -> Record: ...


Point = TypeVar("Point", bound=Finished)


class Store(Generic[Point]):
    """A context with exclusive use of the file; `points` are those read, in order, and those appended.

    Args:
        subject: what is swept; a file with a different subject is refused.
        parse: turns a record of the file into a point, or raises ValueError saying what is wrong with it.
        kind: of what it is the store.

    Raises:
        SweepError: the file belongs to another sweep or is not a store, or another process holds it.
    """

    def __init__(
        self,
        path: Path,
        subject: Record,
        parse: Callable[[Record], Point],
        kind: str = "sweep",
    ):
        self.path = path
        self._parse = parse
        self._kind, self._key = kind, f"steer_{kind}"
        self.subject = {self._key: VERSION} | subject
        self.points: list[Point] = []
        self._lock = FileLock(f"{path}.lock")
        self._file: int | None = None

    def __enter__(self) -> Store[Point]:
        if not self.path.absolute().parent.is_dir():
            raise SweepError(
                f"store {self.path}: there is no folder {self.path.parent}; create it first",
                parameter="store",
            )
        # Reading a device or pipe might never end, and a lock file should not be created next to one.
        if os.path.exists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
            raise SweepError(f"store {self.path}: not a regular file; use another name", parameter="store")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            # The lock also times out if no file can be created.
            made = os.path.exists(self._lock.lock_file)
            fault = "another sweep is writing to it; wait, or" if made else "no file can be created there;"
            raise SweepError(f"store {self.path}: {fault} use another file", parameter="store") from None
        except OSError as error:
            raise SweepError(f"store {self.path}: {error.strerror or error}", parameter="store") from None
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
            # A kill interrupted a line without a line end.
            whole = content[: content.rfind(b"\n") + 1]
            lines = [self._object(line, i) for i, line in enumerate(whole.split(b"\n")[:-1], 1)]
        except OSError as error:
            raise SweepError(f"store {self.path}: {error.strerror or error}", parameter="store") from None
        if not lines and content and not self._first_line.startswith(content):
            raise SweepError(
                f"store {self.path}: not the store of a {self._kind}; use another file", parameter="store"
            )
        if lines:
            self._check(lines[0])
        points = self._points(lines[1:])
        os.ftruncate(self._file, len(whole))
        os.lseek(self._file, 0, os.SEEK_END)
        self.points = points
        if not lines:
            self._write(self._first_line)

    def _points(self, records: Sequence[Record]) -> list[Point]:
        points: dict[Hashable, Point] = {}
        for line_number, record in enumerate(records, 2):
            try:
                point = self._parse(record)
                if point.coordinates in points:
                    raise ValueError("repeats the point of an earlier line")
            except ValueError as fault:
                raise SweepError(
                    f"store {self.path}:{line_number}: not a finished point: {fault}; delete this line "
                    "to compute the point again",
                    parameter="store",
                ) from None
            points[point.coordinates] = point
        return list(points.values())

    def _object(self, line: bytes, line_number: int) -> Record:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            remedy = "use another file" + (", or delete this line" if line_number > 1 else "")
            raise SweepError(
                f"store {self.path}:{line_number}: not the store of a {self._kind}; {remedy}",
                parameter="store",
            )
        return found

    @property
    def _first_line(self) -> bytes:
        return json.dumps(self.subject, ensure_ascii=False).encode() + b"\n"

    def _check(self, found: Record) -> None:
        if self._key not in found:
            raise SweepError(
                f"store {self.path}: not the store of a {self._kind}; use another file", parameter="store"
            )
        if found[self._key] != VERSION:
            raise SweepError(
                f"store {self.path}: written by another release of steer, whose figures may differ; use "
                "another file, or delete this one",
                parameter="store",
            )
        for key, wanted in self.subject.items():
            if found.get(key) != wanted:
                raise SweepError(
                    f"store {self.path}: holds a {self._kind} with a different {key} "
                    f"({_short(found.get(key))}, now {_short(wanted)}); use another file, or delete this one",
                    parameter="store",
                )

    def append(self, points: Sequence[Point]) -> None:
        """Write finished points, one per line, and wait until they are on disk."""
        lines = (json.dumps(point.record(), ensure_ascii=False).encode() + b"\n" for point in points)
        self._write(b"".join(lines))
        self.points += points

    def _write(self, content: bytes) -> None:
        assert self._file is not None, "the store is not open"
        view = memoryview(content)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError as error:
            raise SweepError(
                f"store {self.path}: {error.strerror or error}; make room and start again to continue "
                "from the stored points",
                parameter="store",
            ) from None


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
