"""Create folders that appear complete or not at all, in the folder where `steer` keeps models."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from steer_cli.errors import CatalogueError
from steer_cli.events import Note
from steer_cli.models.fingerprint import facts, sha256_of

SEAL = "steer.json"
# errors of disks and permissions, not bugs
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP}


def home() -> Path:
    """Where models are kept: `$STEER_HOME`, by default the user's cache folder."""
    named = os.environ.get("STEER_HOME")
    try:
        return Path(named).expanduser().absolute() if named else user_cache_path("steer")
    except (RuntimeError, OSError) as error:  # an unknown user, or a relative name in a deleted folder
        raise CatalogueError(f"STEER_HOME {named}: {error}; use the full path of a folder") from None


def memory() -> Path:
    """Where file fingerprints are stored."""
    return home() / "fingerprints"


def whole(folder: Path, identity: dict) -> Path | None:
    """The folder if it holds exactly what its seal lists and `identity` asks for, or None."""
    seal = _read_seal(folder)
    with suppress(OSError, LookupError, TypeError, AttributeError):  # a missing file, or not our seal
        files = seal.pop("files")
        if seal == identity and all(_unchanged(folder / file, listed) for file, listed in files.items()):
            return folder
    return None


def _read_seal(folder: Path) -> dict:
    with suppress(OSError, ValueError, RecursionError):
        seal = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return seal if isinstance(seal, dict) else {}
    return {}


def _unchanged(file: Path, listed: dict) -> bool:
    """Whether a file has the listed content, which is read only if size, times or inode changed."""
    now = facts(file)
    if now == listed["facts"]:
        return True
    return now["size"] == listed["facts"]["size"] and sha256_of(file, memory()) == listed["sha256"]


def made_once(
    target: Path, identity: dict, space: int, fill: Callable, note: Note, title: str, again: str
) -> Path:
    """Make `target` once: `fill(work, folder)` fills a staging folder, which is then moved into place.

    Args:
        space: free bytes needed.
        title: what notes call it.
        again: what notes say is done about a damaged folder, such as `fetching again`.
    """
    if whole(target, identity):
        return target
    staging = home() / "staging" / f"{target.parent.name}-{target.name}"
    with _disk_errors(), _alone(staging.name, title, note):
        if whole(target, identity):
            return target
        if target.exists():
            fresh = _read_seal(target).get("format", identity["format"]) == identity["format"]
            note(f"{title}: {'damaged' if fresh else 'made by another release of steer'}; {again}")
        shutil.rmtree(staging, ignore_errors=True)  # left by a dead process, since we hold the lock
        if (free := shutil.disk_usage(home()).free) < space:
            raise _home_error(f"{size_text(space)} needed, {size_text(free)} free")
        try:
            staging.mkdir(parents=True, exist_ok=True)
            work = Path(mkdtemp(dir=staging))  # a new name, because a dead process's pip may still be writing
            folder = work / "model"
            folder.mkdir()
            fill(work, folder)
            _seal(folder, identity)
            target.parent.mkdir(exist_ok=True)
            if target.exists():  # damaged, or in another format
                os.rename(target, work / "replaced")
            os.rename(folder, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _seal(folder: Path, identity: dict) -> None:
    """Write the list of the folder's files and flush everything to disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    mode = folder.stat().st_mode & 0o666
    for path in files:
        path.chmod(mode)  # safetensors writes 0600, but a home may be shared
    listed = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path, memory()), "facts": facts(path)}
        for path in files
    }
    (folder / SEAL).write_text(json.dumps({**identity, "files": listed}, indent=1), encoding="utf-8")
    (folder / SEAL).chmod(mode)
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows cannot flush folders, or files open for reading
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _alone(key: str, model: str, note: Note) -> Iterator[None]:
    """Hold the lock `key`; the system releases it if its holder dies."""
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
    """Turn disk and permission errors of the home folder into one line."""
    try:
        yield
    except Exception as error:
        if "os error 28" in str(error):  # safetensors passes on only the text of the system's error
            raise _home_error(os.strerror(errno.ENOSPC)) from error
        if not isinstance(error, OSError) or error.errno not in REFUSED:
            raise
        if not Path(str(error.filename or home())).is_relative_to(home()):
            raise
        raise _home_error(error.strerror) from error


def _home_error(reason: str | None) -> CatalogueError:
    remedy = "set STEER_HOME to a writable folder with enough space"
    return CatalogueError(f"{home()}: models cannot be kept there: {reason}; {remedy}")


def size_text(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
