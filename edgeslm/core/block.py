"""How a block travels: `eb1`, its number, the length of its blob, and then its bytes."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from edgeslm.contract.fleet import BLOCK_BYTES

_MAGIC: Final = b"eb1\0"
_HEAD: Final = struct.Struct(">4s I Q")
HEAD_BYTES: Final = _HEAD.size


class Block(NamedTuple):
    """One block as it came: nothing of it is known to be true.

    `size` is the blob's, in bytes.
    """

    number: int
    size: int
    data: memoryview


def count_of(size: int) -> int:
    """Return how many blocks a blob of `size` bytes has."""
    return -(-size // BLOCK_BYTES)


def length_of(number: int, size: int) -> int:
    """Return the bytes of a block; less than one where the blob has no such block."""
    return min(BLOCK_BYTES, size - number * BLOCK_BYTES)


def pack(number: int, size: int, data: bytes) -> bytes:
    """Return a block as it travels."""
    return b"".join((_HEAD.pack(_MAGIC, number, size), data))


def unpack(payload: bytes) -> Block | None:
    """Return the block in a message; None where it is none that can be."""
    if len(payload) <= HEAD_BYTES:
        return None
    magic, number, size = _HEAD.unpack_from(payload)
    if magic != _MAGIC or len(payload) - HEAD_BYTES != length_of(number, size):
        return None
    return Block(number, size, memoryview(payload)[HEAD_BYTES:])
