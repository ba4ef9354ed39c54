"""Puts a bundle into a slot: from what is there already, and from wherever the rest comes.

Nothing is trusted but the block list. Whatever is interrupted is done by running it again: what is
whole stays. Only the slot's own folder is written.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from edgeslm.adapters.fs import flush_folder
from edgeslm.adapters.slot_store import FILE_MODE, make_folder, refused, remove
from edgeslm.contract.fleet import BlobFile, BlockList
from edgeslm.errors import RejectedError, UnavailableError
from edgeslm.ports import DiskFullError
from edgeslm.runtime.bundle import MANIFEST, Bundle, open_bundle

_CHUNK: Final = 2**20
_CLUSTER: Final = 4096  # bytes; a file takes whole ones of the disk

Bring = Callable[[BlobFile, Path], None]
"""Writes a file to a path where there is none, in a folder that is there; may raise anything."""


class IncompleteError(UnavailableError):
    """What lies in a slot is not what its block list names: to be fetched again."""

    code = "update.incomplete"


def fill(  # noqa: PLR0913 -- by name
    blocks: BlockList,
    into: Path,
    *,
    near: Sequence[Path],
    bring: Bring,
    keep_free: int = 0,
    held: Callable[[BlobFile], int] = lambda _: 0,
    arrived: Callable[[BlobFile], None] = lambda _: None,
) -> None:
    """Have every file of a block list in a folder, and nothing else; flushed, the manifest last.

    Args:
        blocks: which files.
        into: the folder: of the spare slot, which may hold a part from before.
        near: bundle folders whose files are copied where they are the same.
        bring: called for the others.
        keep_free: bytes of the disk that shall be left.
        held: how many bytes of a file `bring` has on this disk already, and will give up.
        arrived: called for each file that is in its place.

    Raises:
        DiskFullError: there is no room; says how much is missing.
        IncompleteError: `bring` brought something else.
        SlotsUnavailableError: the disk refused.
        Exception: whatever `bring` raises.
    """
    files = sorted(blocks.files, key=lambda file: file.path == MANIFEST)
    try:
        make_folder(into)
        _remove_strangers(into, files)
        whole = {file.path for file in files if _is_whole(into / file.path, file)}
        if len(whole) < len(files):  # a manifest says that all is there
            remove(into / MANIFEST)
            whole.discard(MANIFEST)
        _expect_room([file for file in files if file.path not in whole], into, keep_free, held)
        for file in files:
            target = into / file.path
            if file.path == MANIFEST:
                _flush_folders(into)
            if file.path not in whole:
                _get(file, target, into, near, bring)
            _flush(target)
            arrived(file)
        flush_folder(into)
    except OSError as err:
        raise refused(err, into) from None


def verify(blocks: BlockList, into: Path) -> Bundle:
    """Hold a filled folder against its manifest, and that against the block list.

    Raises:
        IncompleteError: a file is not the one that the block list names.
        BundleInvalidError, BundleForeignError, BundleTamperedError: each is, and yet it is no
            bundle for this build: it is at fault itself.
    """
    try:
        return open_bundle(into, expected=blocks.bundle)
    except RejectedError:
        for file in blocks.files:
            if not _is_whole(into / file.path, file):
                raise _incomplete(file, into) from None
        raise


def missing_bytes(folder: Path, needed: int) -> int:
    """Return how many bytes too few are free on the disk of a folder; 0: it has room.

    Raises:
        OSError: the disk does not say.
    """
    disk = os.statvfs(folder)
    return max(0, needed - disk.f_bavail * disk.f_frsize)


def _get(file: BlobFile, target: Path, into: Path, near: Sequence[Path], bring: Bring) -> None:
    remove(target)
    for folder in reversed(target.relative_to(into).parents[:-1]):
        make_folder(into / folder)
    if any(_copied(file, source, target) for source in _sources(file, near)):
        return
    bring(file, target)
    if not _is_whole(target, file):
        remove(target)
        raise _incomplete(file, into)


def _sources(file: BlobFile, near: Sequence[Path]) -> Iterator[Path]:
    """Yield where a file may lie already: under its own path first, then under any other."""
    for folder in near:
        yield folder / file.path
    for folder in near:
        with contextlib.suppress(RejectedError):
            for artifact in open_bundle(folder, verify=False).manifest.artifacts:
                if artifact.sha256 == file.sha256 and artifact.path != file.path:
                    yield folder / artifact.path


def _copied(file: BlobFile, source: Path, target: Path) -> bool:
    """Copy a file where it is the one wanted; return whether `target`, absent before, is there."""
    if (fd := _open(source, file)) is None:
        return False
    digest = hashlib.sha256()
    with os.fdopen(fd, "rb", buffering=0) as given:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, FILE_MODE), "wb") as taken:
            left = file.size
            while left and (chunk := _read(given, min(left, _CHUNK))):
                digest.update(chunk)
                taken.write(chunk)
                left -= len(chunk)
    if digest.hexdigest() == file.sha256:
        return True
    remove(target)
    return False


def _read(given: io.FileIO, size: int) -> bytes:
    """Return what follows; nothing where the disk cannot read it, so that it is fetched instead."""
    try:
        return given.read(size) or b""
    except OSError:
        return b""


def _is_whole(path: Path, file: BlobFile) -> bool:
    if (fd := _open(path, file, os.O_NOFOLLOW)) is None:
        return False
    with os.fdopen(fd, "rb") as opened:
        try:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
        except OSError:  # a broken place on the disk
            return False


def _open(path: Path, file: BlobFile, flags: int = 0) -> int | None:
    """Return a file descriptor where a file of the right size is; a pipe would block for ever."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except OSError:
        return None
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and status.st_size == file.size:
        return fd
    os.close(fd)
    return None


def _flush(path: Path) -> None:
    """Flush a file, also one that an interrupted run has left, and let the group read it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != FILE_MODE:
            os.fchmod(fd, FILE_MODE)
        os.fsync(fd)
    finally:
        os.close(fd)


def _flush_folders(into: Path) -> None:
    for folder, _, _ in os.walk(into, topdown=False):
        flush_folder(Path(folder))


def _remove_strangers(into: Path, files: Sequence[BlobFile]) -> None:
    """Remove all that is none of these files, nor a folder of theirs."""
    paths = {file.path for file in files}
    folders = {parent.as_posix() for path in paths for parent in PurePosixPath(path).parents}
    waiting = [into]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                inside = Path(entry.path).relative_to(into).as_posix()
                if entry.is_dir(follow_symlinks=False) and inside in folders:
                    waiting.append(Path(entry.path))
                elif not (entry.is_file(follow_symlinks=False) and inside in paths):
                    remove(Path(entry.path))


def _expect_room(
    missing: Sequence[BlobFile], into: Path, keep_free: int, held: Callable[[BlobFile], int]
) -> None:
    needed = keep_free
    for file in missing:
        needed += max(0, -(-file.size // _CLUSTER) * _CLUSTER - held(file))
    if missing and (short := missing_bytes(into, needed)):
        msg = f"{into}: {-(-short // 2**20)} MiB too few are free. Free some space; "
        raise DiskFullError(msg + "it is tried again.")


def _incomplete(file: BlobFile, into: Path) -> IncompleteError:
    return IncompleteError(f"{into / file.path}: not the file that was asked for; fetch it again")
