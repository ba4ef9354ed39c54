"""Which inputs were seen: a memory-mapped ring of identities that outlives a killed process.

A redelivered input gets the sequence number that it got at first, so its result carries the same
id. What was written to the map is kept by the kernel when the process is killed; nothing is
flushed, nothing wears flash. So a file that lies on a disk may come back from a power loss with
an old counter: it names the boot that made it, and another boot, or a damaged file, begins a new
epoch. Ids of different epochs never meet.
"""

from __future__ import annotations

import hashlib
import mmap
import secrets
import struct
import zlib
from pathlib import Path
from typing import Final

from edgeslm.errors import UnavailableError

_MAGIC: Final = b"edgeslm ring 2\0\0"
_HEADER: Final = struct.Struct("<16s I 4x 8s 16s I 4x Q")  # magic, capacity, epoch, boot, crc, next
_NEXT: Final = struct.Struct("<Q")
_NEXT_AT: Final = _HEADER.size - _NEXT.size
_ENTRY: Final = struct.Struct("<Q 8s H B 5x")  # sequence, digest, packet id, attempts
_IDENTITY: Final = struct.Struct("<8s H")
_IDENTITY_AT: Final = 8
_ATTEMPTS_AT: Final = 18
_CRC_OF: Final = 48  # bytes of the header that its crc covers
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
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
            held = _read(path, self._capacity, size)
            self.fresh = held is None
            if held is None:
                _make(path, self._capacity, size)
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), size)
        except OSError as err:
            msg = f"{path}: {err.strerror or err}; make the runtime directory writable"
            raise RingUnavailableError(msg) from None
        self._held = held or {}  # identity -> its newest sequence number
        epoch: bytes
        _, _, epoch, _, _, following = _HEADER.unpack_from(self._map)
        self._next: int = following
        self.epoch = epoch.hex()

    def record(self, mid: int, what: bytes) -> int:
        """Note a new message (packet id, `digest`) and return its sequence number."""
        sequence = self._next
        self._next = sequence + 1
        at = self._offset(sequence)
        held = self._held
        oldest = self._map[at + _IDENTITY_AT : at + _ATTEMPTS_AT]
        if held.get(oldest) == sequence - self._capacity:
            del held[oldest]
        held[_IDENTITY.pack(what, mid)] = sequence
        # The counter first: a kill between the two loses an identity and reuses no number.
        _NEXT.pack_into(self._map, _NEXT_AT, self._next)
        _ENTRY.pack_into(self._map, at, sequence, what, mid, 0)
        return sequence

    def find(self, mid: int, what: bytes) -> int | None:
        """Sequence number of the newest message with this identity; None if not held."""
        return self._held.get(_IDENTITY.pack(what, mid))

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


def _read(path: Path, capacity: int, size: int) -> dict[bytes, int] | None:
    """Identities in the ring at `path`; None where it is no ring of this capacity and boot."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != size:
        return None
    magic, slots, _, boot, crc, following = _HEADER.unpack_from(data)
    if magic != _MAGIC or slots != capacity or boot != _boot():
        return None
    if crc != zlib.crc32(data[:_CRC_OF]):
        return None
    held: dict[bytes, int] = {}
    newest = -1
    for i, (sequence, what, mid, _) in enumerate(_ENTRY.iter_unpack(data[_HEADER.size :])):
        # A torn entry (killed while writing it) is not at its number's place; an empty one is 0.
        if sequence % capacity != i or not (sequence or mid):
            continue
        newest = max(newest, sequence)
        key = _IDENTITY.pack(what, mid)
        held[key] = max(sequence, held.get(key, -1))
    return held if newest < following <= newest + capacity else None


def _make(path: Path, capacity: int, size: int) -> None:
    """Put an empty ring with a new epoch at `path`; all its bytes are allocated."""
    fields = (_MAGIC, capacity, secrets.token_bytes(8), _boot())
    head = _HEADER.pack(*fields, zlib.crc32(_HEADER.pack(*fields, 0, 0)[:_CRC_OF]), 0)
    new = path.with_name(path.name + ".new")
    # Written in full: a hole in a mapped file of a full file system is a bus error later.
    new.write_bytes(head + bytes(size - len(head)))
    new.replace(path)


def _boot() -> bytes:
    """Sixteen bytes that name this boot; zeros where the system does not say."""
    try:
        return bytes.fromhex(_BOOT.read_text("ascii").strip().replace("-", ""))[:16]
    except (OSError, ValueError):
        return bytes(16)
