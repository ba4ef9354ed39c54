"""Puts a blob of eight blocks into a store; killed at every system call by test_blocks.py."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path
from typing import Final

from edgeslm.adapters import blocks
from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.contract.fleet import BLOCK_BYTES

COUNT: Final = 8


def blob_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 -- bytes like a model's


def sliced(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def order_of(count: int) -> list[int]:
    """From the middle on and round, and two of them late."""
    order = [*range(count // 2, count), *range(count // 2)]
    return [*order[1:3], order[0], *order[3:]]


def put_all(store: FileBlockStore, count: int, *, to: Path) -> None:
    data = blob_of(count * BLOCK_BYTES - 5)
    pieces = sliced(data)
    blob = hashlib.sha256(data).hexdigest()
    if to.exists():
        store.sweep()
        return
    download = store.begin(blob, len(data), [hashlib.sha256(p).hexdigest() for p in pieces])
    try:
        for block in order_of(count):
            download.put(block, pieces[block])
        download.finish()
    finally:
        download.close()
    store.move(blob, to)


if __name__ == "__main__":
    blocks.FLUSH_BYTES = 2 * BLOCK_BYTES  # type: ignore[misc] # several flushes
    put_all(FileBlockStore(Path(sys.argv[1])), COUNT, to=Path(sys.argv[2]))
