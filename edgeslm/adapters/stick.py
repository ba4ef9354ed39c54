"""What a fleet manager carries to a device: a folder, or a tar of one, as a source of files.

A stick is hostile until signatures and hashes say otherwise. Of a tar only what is laid out as a
stick is looked at: plain files under known names, each once. It is read where it lies.

Layout: `index.json`, `metadata/FILE`, `assignments/DEVICE.json`, `blobs/SHA256`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from edgeslm.adapters.slot_store import FILE_MODE, refused
from edgeslm.contract.fleet import MAX_BLOB_BYTES
from edgeslm.errors import EdgeSLMError, RejectedError, UnavailableError

INDEX: Final = "index.json"
BLOBS: Final = "blobs"
MAX_MEMBERS: Final = 16_384
MAX_TOTAL_BYTES: Final = 64 * 2**30
_NAME: Final = re.compile(
    r"index\.json|(metadata|assignments)/[A-Za-z0-9_%~-][A-Za-z0-9._%~-]{0,199}|blobs/[0-9a-f]{64}"
)
_CHUNK: Final = 2**20
_REMEDY: Final = "Make it again with `tar -C FOLDER -cf STICK.tar .`, or give the folder itself."

# A tar's header as POSIX's ustar has it, and GNU's own.
_BLOCK: Final = 512
_NAME_FIELD: Final = slice(0, 100)
_SIZE: Final = slice(124, 136)
_SUM: Final = slice(148, 156)
_KIND: Final = slice(156, 157)
_MAGIC: Final = slice(257, 263)
_PREFIX: Final = slice(345, 500)
_POSIX: Final = b"ustar\0"
_MAGICS: Final = frozenset({_POSIX, b"ustar "})
_OCTAL: Final = re.compile(rb"[0-7]{1,12}")
_FILES: Final = frozenset({b"0", b"\0"})
_FOLDER: Final = b"5"
_EXTENDED: Final = frozenset({b"x", b"g"})
_REFUSED: Final = {
    b"1": "a hard link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"L": "a name too long",
    b"K": "a link",
    b"S": "a file with holes",
}
_MAX_EXTENDED_BYTES: Final = 16_384
# Other readers would see other names and sizes than this one.
_OVERRIDES: Final = re.compile(rb"\d+ (path|size|linkpath|hdrcharset|GNU\.sparse[^=]*)=")


class StickInvalidError(RejectedError):
    """It is not laid out as a stick: a link, a device, a foreign or doubled name, a cut archive."""

    code = "stick.invalid"


class StickMissingError(RejectedError):
    """There is no stick at this path, or no such file on it."""

    code = "stick.missing"


class StickTamperedError(RejectedError):
    """A file on the stick has not the size or the hash that was asked for."""

    code = "stick.tampered"


class StickUnreadableError(UnavailableError):
    """The stick cannot be read: broken, pulled out, or not ours to read."""

    code = "stick.unreadable"


class Stick(Protocol):
    """A source of files by name."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a file.

        Raises:
            StickMissingError: there is none.
            StickInvalidError: the name is none of a stick's, it is no plain file, or too long.
            StickUnreadableError: the stick cannot be read.
        """

    def copy(self, blob: str, into: Path, size: int) -> None:
        """Write a blob to a path where there is no file; not flushed.

        Args:
            blob: its sha256.
            into: the new file; removed where this fails.
            size: bytes that it must have.

        Raises:
            StickMissingError: there is none.
            StickInvalidError: it is no plain file.
            StickTamperedError: its size or hash is another.
            StickUnreadableError: the stick cannot be read.
            DiskFullError, SlotsUnavailableError: the disk that is written to refused.
        """

    def close(self) -> None:
        """Let go of it."""


def open_stick(path: Path) -> Stick:
    """Return the folder or tar at `path`.

    Raises:
        StickMissingError: there is nothing.
        StickInvalidError: neither of the two, or not laid out as a stick; says what is wrong.
        StickUnreadableError: it cannot be read.
    """
    try:
        # A pipe would block for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        raise _failed(err, path) from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        return _Folder(path, fd)
    try:
        return _Tar(path, fd)
    except BaseException:
        os.close(fd)
        raise


class _Source:
    """What a folder and a tar have in common, once `_find` has found a file."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def read(self, name: str, max_bytes: int) -> bytes:
        with self._find(self._checked(name)) as (fd, at, size):
            if size > max_bytes:
                raise _invalid(
                    self._path, f"{name}: {size} bytes, and at most {max_bytes} are taken"
                )
            return b"".join(self._chunks(name, fd, at, size))

    def copy(self, blob: str, into: Path, size: int) -> None:
        name = self._checked(f"{BLOBS}/{blob}")
        digest = hashlib.sha256()
        with self._find(name) as (fd, at, there), _writing(into) as write:
            if there != size:
                raise _tampered(self._path, f"{name}: {there} bytes, and it should have {size}")
            for chunk in self._chunks(name, fd, at, size):
                digest.update(chunk)
                write(chunk)
            if digest.hexdigest() != blob:
                raise _tampered(self._path, f"{name}: its sha256 is not its name")

    def close(self) -> None:
        os.close(self._fd)

    def _find(self, name: str) -> AbstractContextManager[tuple[int, int, int]]:
        """Return an open file, where in it `name` begins, and how many bytes it has."""
        raise NotImplementedError

    def _checked(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise _invalid(self._path, f"{_shown(name)} is no name of a stick's files")
        return name

    def _chunks(self, name: str, fd: int, at: int, size: int) -> Iterator[bytes]:
        end = at + size
        while at < end:
            try:
                chunk = os.pread(fd, min(_CHUNK, end - at), at)
            except OSError as err:
                raise self._failed(err, name) from None
            if not chunk:
                raise _tampered(self._path, f"{name}: ends too early")
            at += len(chunk)
            yield chunk

    def _failed(self, err: OSError, name: str) -> EdgeSLMError:
        return _failed(err, self._path / name)


class _Folder(_Source):
    """A folder: each file is looked for when it is asked for, and no link is followed."""

    @contextmanager
    def _find(self, name: str) -> Iterator[tuple[int, int, int]]:
        *folders, last = name.split("/")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with ExitStack() as opened:
            above = self._fd
            try:
                for folder in folders:
                    above = os.open(folder, flags | os.O_DIRECTORY, dir_fd=above)
                    opened.callback(os.close, above)
                fd = os.open(last, flags, dir_fd=above)
            except OSError as err:
                raise self._failed(err, name) from None
            opened.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise _invalid(self._path, f"{name}: not a plain file")
            yield fd, 0, status.st_size


class _Tar(_Source):
    """A tar, not compressed: its headers are read once, its files where they lie."""

    def __init__(self, path: Path, fd: int) -> None:
        super().__init__(path, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise _invalid(path, "neither a folder nor a tar")
        self._length = status.st_size
        self._members = self._scan()

    @contextmanager
    def _find(self, name: str) -> Iterator[tuple[int, int, int]]:
        if name not in self._members:
            msg = f"{self._path}: no {name} in it. {_REMEDY}"
            raise StickMissingError(msg)
        yield (self._fd, *self._members[name])

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Return where each file of a stick lies and its size.

        Raises:
            StickInvalidError: the archive is not one, is cut, or has what no stick has.
            StickUnreadableError: it cannot be read.
        """
        found: dict[str, tuple[int, int]] = {}
        at = total = 0
        for _ in range(MAX_MEMBERS):
            header = self._block(at)
            if not any(header):
                return found
            name, kind, size = self._parse(header)
            at += _BLOCK
            total += size
            if size > MAX_BLOB_BYTES or total > MAX_TOTAL_BYTES:
                raise _invalid(self._path, f"{_shown(name)}: more bytes than any stick has")
            if at + size > self._length:
                raise _invalid(self._path, f"{_shown(name)}: the archive is cut")
            if kind in _EXTENDED:
                self._check_extended(at, size)
            elif kind in _FILES and _NAME.fullmatch(name):
                if name in found:
                    raise _invalid(self._path, f"{name}: twice in it")
                found[name] = (at, size)
            at += -(-size // _BLOCK) * _BLOCK
        raise _invalid(self._path, f"more than {MAX_MEMBERS} files")

    def _block(self, at: int) -> bytes:
        try:
            block = os.pread(self._fd, _BLOCK, at)
        except OSError as err:
            raise self._failed(err, "") from None
        if len(block) < _BLOCK:
            raise _invalid(self._path, "not a tar" if at == 0 else "the archive is cut")
        return block

    def _parse(self, header: bytes) -> tuple[str, bytes, int]:
        """Return name, kind and size of a member whose kind and name may be on a stick."""
        sum_ = sum(header) - sum(header[_SUM]) + len(header[_SUM]) * ord(" ")
        if header[_MAGIC] not in _MAGICS or _octal(header[_SUM]) != sum_:
            raise _invalid(self._path, "not a tar, or a damaged one; a compressed one is none")
        name = _text(header[_NAME_FIELD])
        if header[_MAGIC] == _POSIX and (prefix := _text(header[_PREFIX])):
            name = f"{prefix}/{name}"
        kind, size = header[_KIND], _octal(header[_SIZE])
        shown = _shown(name)
        if kind in _REFUSED or kind not in _FILES | _EXTENDED | {_FOLDER}:
            raise _invalid(self._path, f"{shown}: {_REFUSED.get(kind, 'of an unknown kind')}")
        if name.startswith("/") or ".." in name.split("/"):
            raise _invalid(self._path, f"{shown}: leads out of the stick")
        if size is None:
            raise _invalid(self._path, f"{shown}: a size that is no number, or too large")
        return name.removeprefix("./"), kind, size

    def _check_extended(self, at: int, size: int) -> None:
        """Let pass what has times and owners alone, as most tars write them."""
        if size > _MAX_EXTENDED_BYTES:
            raise _invalid(self._path, "an extended header without end")
        raw = b"".join(self._chunks("", self._fd, at, size))
        if _OVERRIDES.search(raw):
            raise _invalid(self._path, "a name or a size in an extended header")


def _invalid(path: Path, what: str) -> StickInvalidError:
    return StickInvalidError(f"{path}: {what}. {_REMEDY}")


def _tampered(path: Path, what: str) -> StickTamperedError:
    return StickTamperedError(f"{path}: {what}. Copy it to the stick again.")


def _shown(name: str) -> str:
    return ascii(name[:80])


def _octal(field: bytes) -> int | None:
    """Return a number in a header; None where it is none, or of a size that needs more digits."""
    digits = field.strip(b" \0")
    return int(digits, 8) if _OCTAL.fullmatch(digits) else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")


@contextmanager
def _writing(into: Path) -> Iterator[Callable[[bytes], None]]:
    """Give what writes to a new file, which is removed where the body fails."""
    try:
        fd = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except OSError as err:
        raise refused(err, into) from None

    def write(chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except OSError as err:
                raise refused(err, into) from None

    try:
        yield write
    except BaseException:
        into.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def _failed(err: OSError | ValueError, path: Path) -> EdgeSLMError:
    """Return what it means that something on a stick, or the stick, cannot be opened or read."""
    number = err.errno if isinstance(err, OSError) else errno.ENOENT
    if number == errno.ENOENT:
        return StickMissingError(
            f"{path}: not there. Give the folder that holds {INDEX}, or a tar."
        )
    if number in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
        return StickInvalidError(f"{path}: a link, or no plain file. {_REMEDY}")
    why = err.strerror if isinstance(err, OSError) else str(err)
    return StickUnreadableError(f"{path}: {why}. Put it in again, or make another.")
