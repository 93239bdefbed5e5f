"""Write a file so that it appears whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(file: Path, content: bytes, replace: bool = False) -> None:
    """Write a file in one step, so that no other process sees a part of it.

    Args:
        replace: write over a file that exists.

    Raises:
        FileExistsError: the file exists, or another process has written it meanwhile.
        OSError: it cannot be written.
    """
    # The name may be as long as names can be.
    handle, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name[:40]}.")
    try:
        with open(handle, "wb") as opened:
            opened.write(content)
        # mkstemp lets nobody else read it.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        if replace:
            os.replace(name, file)
        else:
            _publish(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _publish(name: str, file: Path) -> None:
    """Give a file its name, unless there is one of that name."""
    try:
        # Of two processes that try, only one succeeds.
        os.link(name, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(file):
            raise FileExistsError(str(file)) from None
        os.replace(name, file)
    else:
        os.unlink(name)
