"""The agent's two folders: made, ours to write, and nobody else's while it runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edgeslm.errors import UnavailableError

_LOCKS: Final = Path("/proc/locks")


class FolderUnavailableError(UnavailableError):
    """The state or runtime directory, or a file in it, cannot be used by this user."""

    code = "folder.unavailable"


class AlreadyRunningError(UnavailableError):
    """Another agent runs on this state or runtime directory; says which process."""

    code = "agent.running"


def make_folder(folder: Path) -> None:
    """Make `folder` where it is absent, for ourselves alone.

    Raises:
        FolderUnavailableError: it cannot be made, or not be written, or a file in it.
    """
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        readonly = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError as err:
        msg = f"{folder}: {err.strerror or err}; make it, or set another in the settings"
        raise FolderUnavailableError(msg) from None
    if readonly:
        msg = f"{folder}: on a read-only file system; have it mounted writable, or set another"
        raise FolderUnavailableError(msg)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FolderUnavailableError(_closed(folder))
    if (foreign := foreign_file(folder)) is not None:
        raise FolderUnavailableError(_closed(foreign))


def foreign_file(folder: Path) -> Path | None:
    """Return a file in `folder` that this user cannot write; None where there is none.

    An agent that was started by hand, as another user, leaves such files.
    """
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            found = path.lstat()
            own = found.st_uid == os.geteuid()
            if stat.S_ISREG(found.st_mode) and not own and not os.access(path, os.W_OK):
                return path
    return None


def hold(folders: Iterable[Path]) -> list[int]:
    """Hold folders for the life of this process; return the descriptors that hold them.

    Raises:
        AlreadyRunningError: another process holds one.
        FolderUnavailableError: one cannot be held.
    """
    return [_lock(folder) for folder in dict.fromkeys(path.resolve() for path in folders)]


def _lock(folder: Path) -> int:
    # The folder itself: a file to lock would have to be written, on a disk that may be full.
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        msg = f"{folder}: {err.strerror or err}"
        raise FolderUnavailableError(msg) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        found = os.fstat(held)
        os.close(held)
        msg = (
            f"{folder}: another agent{_holder(found)} runs here; stop it, or give this one its own "
            "state_dir and runtime_dir"
        )
        raise AlreadyRunningError(msg) from None
    except OSError as err:
        os.close(held)
        msg = f"{folder}: cannot be locked: {err.strerror or err}"
        raise FolderUnavailableError(msg) from None
    return held


def _holder(folder: os.stat_result) -> str:
    """Name the process that holds a folder, as far as the system tells (Linux)."""
    # N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF, proc_locks(5)
    device = f"{os.major(folder.st_dev):02x}:{os.minor(folder.st_dev):02x}:{folder.st_ino}"
    with contextlib.suppress(OSError):
        for line in _LOCKS.read_text("ascii", "replace").splitlines():
            words = line.split()
            if words[1:2] == ["FLOCK"] and words[5:6] == [device]:
                return f", process {words[4]},"
    return ""


def _closed(path: Path) -> str:
    owner, user = _name(path.stat().st_uid), _name(os.geteuid())
    return (
        f"{path}: belongs to {owner}, and {user} may not write it; change its owner, or set another"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
