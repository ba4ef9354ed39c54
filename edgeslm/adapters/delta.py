"""Puts a file together from one that is here and what has changed.

What has changed comes from anywhere. Whatever its bytes are, the outcome has the wanted hash or
there is none, memory and disk are bounded, and so is the time.
"""

from __future__ import annotations

import bz2
import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, NoReturn

import numpy as np
import zstandard

from edgeslm.adapters.slot_store import FILE_MODE, refused
from edgeslm.contract.fleet import Algorithm
from edgeslm.errors import RejectedError

CHUNK: Final = 1 << 20
WINDOW_LOG: Final = 23  # zstd looks back so far, and needs as much memory
_MAGIC: Final = b"BSDIFF40"
_HEADER: Final = struct.Struct("<8s 8s 8s 8s")
_STEP: Final = struct.Struct("<8s 8s 8s")
_MAX_STEPS: Final = 200_000  # each copies or adds a run of bytes; a real one has few
_SIGN: Final = 1 << 63


class DeltaError(RejectedError):
    """It does not lead from this file to the one that is wanted."""

    code = "delta.invalid"


def patch(  # noqa: PLR0913 -- by name
    algorithm: Algorithm, old: Path, delta: Path, to: Path, *, size: int, sha256: str
) -> None:
    """Write the file that `delta` makes of `old`, flushed.

    Args:
        algorithm: how it is made.
        old: what it is made of.
        delta: what has changed.
        to: where there is none yet, in a folder that is there.
        size: bytes that the outcome must have.
        sha256: its hash.

    Raises:
        DeltaError: the outcome would be something else; there is none.
        DiskFullError, SlotsUnavailableError: the disk refused; there is none.
    """
    made = False
    try:
        with old.open("rb") as given, delta.open("rb") as change:
            pieces = {"bytes-zstd": _added, "bsdiff": _patched}[algorithm](given, change, size)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(to, flags, FILE_MODE), "wb") as taken:
                made = True
                _write(pieces, taken, size, sha256)
                taken.flush()
                os.fsync(taken.fileno())
    except BaseException as err:
        if made:
            with suppress(OSError):
                to.unlink()
        if isinstance(err, OSError) and err.errno is not None:
            raise refused(err, to) from None
        # OSError without a number and EOFError: what bz2 says of bytes that are none of its.
        if isinstance(err, zstandard.ZstdError | ValueError | OSError | EOFError | struct.error):
            _refuse(f"{type(err).__name__}: {err}")
        raise


def _write(pieces: Iterator[bytes], taken: BinaryIO, size: int, sha256: str) -> None:
    digest = hashlib.sha256()
    done = 0
    for piece in pieces:
        digest.update(piece)
        taken.write(piece)
        done += len(piece)
    if done != size or digest.hexdigest() != sha256:
        _refuse("the outcome is another file")


def _added(old: BinaryIO, delta: BinaryIO, size: int) -> Iterator[bytes]:
    """Add the bytes of `delta`, which is compressed, to those of `old`."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << WINDOW_LOG)
    with unpacker.stream_reader(delta, closefd=False) as reader:
        while size:
            change = reader.read(min(size, CHUNK))
            piece = old.read(len(change))
            if not change or len(piece) != len(change):
                _refuse("it is too short")
            size -= len(change)
            yield _sum(piece, change)


def _patched(old: BinaryIO, delta: BinaryIO, size: int) -> Iterator[bytes]:
    """Do the steps of a bsdiff patch: add to what is copied, insert, go on elsewhere."""
    magic, steps_size, added_size, new_size = _HEADER.unpack(delta.read(_HEADER.size))
    if magic != _MAGIC or _number(new_size) != size:
        _refuse("no bsdiff patch of this file")
    begin = _HEADER.size
    middle = begin + _number(steps_size)
    end = middle + _number(added_size)
    last = os.fstat(delta.fileno()).st_size
    if not begin <= middle <= end <= last:
        _refuse("its parts are longer than it is")
    steps = _Unpacker(delta, begin, middle)
    added = _Unpacker(delta, middle, end)
    inserted = _Unpacker(delta, end, last)
    length = os.fstat(old.fileno()).st_size
    done = at = 0
    for _ in range(_MAX_STEPS):
        if done == size:
            return
        copy, insert, skip = map(_number, _STEP.unpack(steps.read(_STEP.size)))
        if min(copy, insert) < 0 or copy + insert > size - done or not 0 <= at <= length - copy:
            _refuse("a step leads outside")
        done += copy + insert
        old.seek(at)
        for part in _parts(copy):
            yield _sum(old.read(part), added.read(part))
        for part in _parts(insert):
            yield inserted.read(part)
        at += copy + skip
    if done != size:
        _refuse("it has too many steps")


class _Unpacker:
    """A part of a file that holds a bz2 stream."""

    def __init__(self, file: BinaryIO, begin: int, end: int) -> None:
        self._file = file
        self._at = begin
        self._end = end
        self._bz2 = bz2.BZ2Decompressor()

    def read(self, size: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            DeltaError: there are not so many.
            OSError, EOFError: it is no such stream.
        """
        found = b""
        while len(found) < size:
            packed = b""
            if self._bz2.needs_input:
                self._file.seek(self._at)
                packed = self._file.read(min(CHUNK // 8, self._end - self._at))
                self._at += len(packed)
                if not packed:
                    _refuse("a part of it is too short")
            found += self._bz2.decompress(packed, max_length=size - len(found))
        return found


def _sum(first: bytes, second: bytes) -> bytes:
    """Bytewise, modulo 256."""
    total = np.frombuffer(first, np.uint8) + np.frombuffer(second, np.uint8)
    return total.tobytes()


def _parts(size: int) -> Iterator[int]:
    while size > 0:
        yield min(size, CHUNK)
        size -= CHUNK


def _number(raw: bytes) -> int:
    """Sign and magnitude, lowest byte first."""
    value = int.from_bytes(raw, "little")
    return _SIGN - value if value & _SIGN else value


def _refuse(what: str) -> NoReturn:
    msg = f"the delta cannot be used: {what}"
    raise DeltaError(msg) from None
