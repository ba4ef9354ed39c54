"""The one place that writes files which must survive a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import Final

_OWN: Final = 0o600  # as mkstemp makes files
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_durably(path: Path, data: bytes, *, mode: int = _OWN) -> None:
    """Replace `path` with `data` so that a power cut leaves the old or the new file.

    The temporary file is made in the target's folder (a rename cannot cross file systems),
    flushed, renamed, and then the folder itself is flushed: without that last step the rename
    may be lost. A process killed on the way leaves at most a file `.NAME.*`, which nobody reads.

    Args:
        path: the file.
        data: all of it.
        mode: who may read it, whatever the umask.

    Raises:
        OSError: disk full or read-only. `path` holds the old bytes; or the new ones, where only
            the flush of the folder failed.
    """
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            if mode != _OWN:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 -- this is where it lives
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove what `write_durably` has left in a folder where it was killed.

    Only where nobody else writes. What cannot be removed stays: nobody reads it.
    """
    with contextlib.suppress(OSError):
        for path in folder.glob(".*.*"):
            path.unlink()


def flush_folder(path: Path) -> None:
    """Flush what was made, renamed and removed in a folder.

    Raises:
        OSError: the disk refused.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_full(err: OSError) -> bool:
    """Whether there is no room, on the disk or for this user."""
    return err.errno in _FULL
