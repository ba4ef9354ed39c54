"""Which inputs were seen: a memory-mapped ring of identities that outlives a killed process.

A redelivered input gets the sequence number that it got at first, so its result carries the same
id. The file lies in the runtime directory, on tmpfs: a power loss or a damaged file begins a new
epoch, and ids of different epochs never meet. What was written to the map is kept by the kernel
when the process is killed; nothing is flushed, nothing wears flash.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import Final

from edgeslm.errors import UnavailableError

_MAGIC: Final = b"edgeslm ring 1\0\0"
_HEADER: Final = struct.Struct("<16s I 4x 8s I 4x Q")  # magic, capacity, epoch, crc, next
_NEXT: Final = struct.Struct("<Q")
_NEXT_AT: Final = _HEADER.size - _NEXT.size
_ENTRY: Final = struct.Struct("<Q 8s H B 5x")  # sequence, digest, packet id, attempts
_IDENTITY: Final = struct.Struct("<8s H")
_IDENTITY_AT: Final = 8
_ATTEMPTS_AT: Final = 18
_CRC_OF: Final = 32  # bytes of the header that its crc covers
MAX_ATTEMPTS: Final = 255
MIN_CAPACITY: Final = 4096


class RingUnavailableError(UnavailableError):
    """The runtime directory cannot hold the ring."""

    code = "runtime_dir.unavailable"


def digest(topic: str, payload: bytes) -> bytes:
    """Eight bytes that stand for what a message says."""
    return hashlib.blake2b(
        payload, digest_size=8, key=topic.encode("utf-8", "replace")[:64]
    ).digest()


class Ring:
    """The last identities of one input session.

    Owned by one thread, but `begin` and `done`, which each write one byte.

    Args:
        path: the file; made where it is absent or not a whole ring.
        unacknowledged: most messages the session may hold; all of them stay in the ring.

    Attributes:
        epoch: hex, the same for the life of the file.
        fresh: the file was made now, so redeliveries cannot be recognised.

    Raises:
        RingUnavailableError: the file cannot be made.
    """

    def __init__(self, path: Path, *, unacknowledged: int) -> None:
        self._capacity = max(MIN_CAPACITY, 2 * unacknowledged)
        size = _HEADER.size + self._capacity * _ENTRY.size
        try:
            self.fresh = not _is_whole(path, self._capacity, size)
            if self.fresh:
                _make(path, self._capacity, size)
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), size)
        except OSError as err:
            msg = f"{path}: {err.strerror or err}; make the runtime directory writable"
            raise RingUnavailableError(msg) from None
        epoch: bytes
        _, _, epoch, _, following = _HEADER.unpack_from(self._map)
        self._next: int = following
        self.epoch = epoch.hex()

    def record(self, mid: int, what: bytes) -> int:
        """Note a new message (packet id, `digest`) and return its sequence number."""
        sequence = self._next
        self._next = sequence + 1
        # The counter first: a kill between the two loses an identity and reuses no number.
        _NEXT.pack_into(self._map, _NEXT_AT, self._next)
        _ENTRY.pack_into(self._map, self._offset(sequence), sequence, what, mid, 0)
        return sequence

    def find(self, mid: int, what: bytes) -> int | None:
        """Sequence number of the newest message with this identity; None if not held."""
        pattern = _IDENTITY.pack(what, mid)
        newest: int | None = None
        at = self._map.find(pattern, _HEADER.size)
        while at >= 0:
            offset = at - _IDENTITY_AT
            if (offset - _HEADER.size) % _ENTRY.size == 0:
                sequence: int = _NEXT.unpack_from(self._map, offset)[0]
                # A torn entry (killed while writing it) is not at its number's place.
                if self._offset(sequence) == offset and (newest is None or sequence > newest):
                    newest = sequence
            at = self._map.find(pattern, at + 1)
        return newest

    def begin(self, sequence: int) -> None:
        """Note that this message is about to be handled; `done` takes it back."""
        at = self._offset(sequence) + _ATTEMPTS_AT
        self._map[at] = min(self._map[at] + 1, MAX_ATTEMPTS)

    def done(self, sequence: int) -> None:
        """Note that handling this message did not kill the process."""
        self._map[self._offset(sequence) + _ATTEMPTS_AT] = 0

    def attempts(self, sequence: int) -> int:
        """How often the process died while it handled this message."""
        return self._map[self._offset(sequence) + _ATTEMPTS_AT]

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()

    def _offset(self, sequence: int) -> int:
        return _HEADER.size + sequence % self._capacity * _ENTRY.size


def _is_whole(path: Path, capacity: int, size: int) -> bool:
    """Whether `path` is a ring of this capacity."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if os.fstat(file.fileno()).st_size != size:
                return False
    except FileNotFoundError:
        return False
    magic, held, _, crc, _ = _HEADER.unpack(head)
    return bool(magic == _MAGIC and held == capacity and crc == zlib.crc32(head[:_CRC_OF]))


def _make(path: Path, capacity: int, size: int) -> None:
    """Put an empty ring with a new epoch at `path`; all its bytes are allocated."""
    head = bytearray(_HEADER.pack(_MAGIC, capacity, secrets.token_bytes(8), 0, 0))
    _HEADER.pack_into(head, 0, _MAGIC, capacity, bytes(head[24:32]), zlib.crc32(head[:_CRC_OF]), 0)
    new = path.with_name(path.name + ".new")
    # Written in full: a hole in a mapped file of a full file system is a bus error later.
    new.write_bytes(bytes(head) + bytes(size - len(head)))
    new.replace(path)
