"""The one place that writes files which must survive a power cut."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` with `data` so that a power cut leaves the old or the new file.

    The temporary file is made in the target's folder (a rename cannot cross file systems),
    flushed, renamed, and then the folder itself is flushed: without that last step the rename
    may be lost. A process killed on the way leaves at most a file `.NAME.*`, which nobody reads.

    Raises:
        OSError: disk full or read-only. `path` holds the old bytes; or the new ones, where only
            the flush of the folder failed.
    """
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 -- this is where it lives
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
