"""A folder that appears whole or not at all, where the user wants it, and never in place of anything."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from steer_cli.errors import ExportError
from steer_cli.events import Note
from steer_cli.models.atomic_folder import home

UNFINISHED = ".{}.unfinished"
FULL = os.strerror(errno.ENOSPC)


def check_new(folder: Path) -> None:
    """Raise ExportError at the start if the folder exists, or could not be made."""
    if "\0" in str(folder) or folder.name in ("", ".."):
        raise fault(folder, "not a name for a new folder; write one such as ./steered")
    if os.path.lexists(folder):
        raise _taken(folder)
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise fault(folder, f"there is no folder {folder.parent}; create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise fault(folder, "cannot be made; choose another place")


@contextmanager
def new_folder(folder: Path, note: Note) -> Iterator[Path]:
    """A folder to fill, beside the one that it becomes if nothing is raised; otherwise it is removed.

    If the process dies, `.NAME.unfinished` stays; the next to make the same folder removes it.

    Raises:
        ExportError: the disk is full, something cannot be written, or the folder has come into being since.
    """
    named, folder = folder, folder.absolute()  # errors name it as it was given
    work = folder.parent / UNFINISHED.format(folder.name)
    with _alone(named):
        try:
            if os.path.lexists(work):  # of a dead process, since we hold the lock
                shutil.rmtree(work)
                note(f"removed {named.parent / work.name}, which an unfinished run had left")
            work.mkdir()
            yield work
            _settle(work)
            if os.path.lexists(folder):
                raise _taken(named)
            os.rename(work, folder)  # refuses a folder that is not empty
        except OSError as error:
            raise fault(named, f"{error.strerror or error}; choose another place") from None
        except Exception as error:
            # safetensors passes on only the text of the system's error.
            if type(error).__name__ != "SafetensorError":
                raise
            reason = FULL if "os error 28" in str(error) else " ".join(str(error).split())[:160]
            raise fault(named, f"{reason}; choose another place") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_room(folder: Path, needed: int) -> None:
    """Raise ExportError if the disk has fewer free bytes than are needed."""
    with suppress(OSError):
        free = shutil.disk_usage(folder.absolute().parent).free
        if free < needed:
            raise fault(folder, f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; make room")


def fault(folder: Path, what: str) -> ExportError:
    return ExportError(f"folder {folder}: {what}", "folder")


def _taken(folder: Path) -> ExportError:
    return fault(folder, "it exists already; choose another name, or remove it first")


def _settle(work: Path) -> None:
    """Give files the folder's permissions, since safetensors writes 0600, and flush all to the disk."""
    mode = work.stat().st_mode & 0o666
    for path in [*work.rglob("*"), work]:
        if path.is_file():
            path.chmod(mode)
        if os.name != "nt":  # Windows cannot flush folders
            opened = os.open(path, os.O_RDONLY)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder to be made; the system releases it if its holder dies."""
    key = hashlib.sha256(os.fsencode(folder.parent.resolve() / folder.name)).hexdigest()[:16]
    lock = FileLock(home() / "locks" / f"bake-{key}.lock")
    try:
        (home() / "locks").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise fault(folder, "another process is making it; wait for it, or choose another name") from None
    except OSError as error:
        raise fault(folder, f"{home()}: {error.strerror}; set STEER_HOME to a writable folder") from None
    try:
        yield
    finally:
        lock.release()
