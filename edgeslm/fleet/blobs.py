"""Blobs as they are read for sending: each block by itself, the files kept open for a while."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import Final

from edgeslm.contract.fleet import BLOCK_BYTES, MAX_BLOB_BYTES
from edgeslm.core.block import length_of
from edgeslm.logs import Log

MAX_OPEN: Final = 64
_BLOB: Final = re.compile(r"[0-9a-f]{64}")

log = Log(__name__)


class BlobFiles:
    """Args: folder with a file of each blob, named by its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, tuple[int, int]] = OrderedDict()  # (descriptor, size)

    def size(self, blob: str) -> int | None:
        """Bytes of a blob; None where there is none, or nothing can have this name."""
        held = self._held(blob)
        return None if held is None else held[1]

    def read(self, blob: str, block: int) -> bytes | None:
        """Return a block; None where it cannot be read, which is logged."""
        held = self._held(blob)
        if held is None:
            return None
        descriptor, size = held
        wanted = length_of(block, size)
        try:
            data = os.pread(descriptor, wanted, block * BLOCK_BYTES)
        except OSError as err:
            log.warning("blob_unreadable", blob=blob, block=block, message=str(err))
            return None
        return data if len(data) == wanted else None

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _held(self, blob: str) -> tuple[int, int] | None:
        held = self._open.get(blob)
        if held is not None:
            self._open.move_to_end(blob)
            return held
        if not _BLOB.fullmatch(blob):
            return None
        try:
            descriptor = os.open(self._folder / blob, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        size = os.fstat(descriptor).st_size
        if not 0 < size <= MAX_BLOB_BYTES:
            os.close(descriptor)
            return None
        if len(self._open) >= MAX_OPEN:
            os.close(self._open.popitem(last=False)[1][0])
        held = self._open[blob] = (descriptor, size)
        return held
