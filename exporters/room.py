"""A disk without room, told as that whichever library comes upon it, and however it says so."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeslm.errors import EdgeSLMError, UnavailableError

_PROBE: Final = bytes(1 << 20)
_SAID: Final = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))


class DiskError(UnavailableError):
    """The disk refuses: there is no room on it, or it fails. What was there before stays."""

    code = "export.disk"


@contextmanager
def needing_room(
    folder: Path, *, remedy: str, error: type[UnavailableError] = DiskError
) -> Iterator[None]:
    """Say of what fails inside for want of room in `folder` that it does.

    Some libraries pass on what the system says, and others that a file was not written. So it is
    tried whether there is room, while what they have written is still there.

    Args:
        folder: that is written to.
        remedy: what to do besides making room.
        error: what is raised then.

    Raises:
        UnavailableError: of the kind `error`.
        Whatever else is raised inside.
    """
    try:
        yield
    except UnavailableError:  # told already
        raise
    except Exception as err:
        said = next((one for one in _SAID if one in str(err)), None)
        why = None if said is None and isinstance(err, EdgeSLMError) else _refusal(folder) or said
        if why is None:
            raise
        msg = f"{folder}: {why}; make room, or {remedy}"
        raise error(msg) from None


def _refusal(folder: Path) -> str | None:
    """Return why the disk takes no more in a folder; None: it does."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        return err.strerror
    return None


@contextmanager
def temporary() -> Iterator[Path]:
    """Give a folder for what is done with soon.

    Raises:
        DiskError: there is no room for it.
    """
    inside = Path(tempfile.gettempdir())
    room = needing_room(inside, remedy="set TMPDIR to another folder")
    with tempfile.TemporaryDirectory() as name, room:  # whose content is there when it is tried
        yield Path(name)
