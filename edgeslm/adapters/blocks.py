"""Blobs under way, on disk: `SHA256.part` holds bytes at their offsets, `SHA256.map` which of them.

A block's bit is set only after its bytes are flushed, so that a process killed or a power cut
between the two costs a block fetched twice and never one that is missing. Bits are only ever set
in place: a map is as good before a write as after it. What the disk garbles beyond that shows in
the hash of all bytes, and is mended block by block.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from edgeslm.adapters.fs import flush_folder, write_durably
from edgeslm.adapters.slot_store import FILE_MODE, make_folder, refused
from edgeslm.contract.fleet import BLOCK_BYTES
from edgeslm.core.block import count_of, length_of
from edgeslm.ports import DamagedBlobError

FLUSH_BYTES: Final = 4 * 2**20
_MAGIC: Final = b"edgeslm map 1\0\0\0"
_HEADER: Final = struct.Struct("<16s Q 32s I")  # magic, size, digest of the block list, crc
_CRC: Final = struct.Struct("<I")
_SECTOR: Final = 512  # bytes, the unit of st_blocks whatever the disk's


class FileBlockStore:
    """Implements `edgeslm.ports.BlockStore`. Owned by one thread.

    Args:
        folder: made where it is absent.
        min_free_bytes: of disk that stay free beside a download.
    """

    def __init__(self, folder: Path, *, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes

    def begin(self, blob: str, size: int, blocks: Sequence[str]) -> FileDownload:
        part, map_ = self._part(blob), self._map(blob)
        head = _header(size, blocks)
        with _told(part):
            make_folder(self._folder)
            bits = _read_map(map_, head, count_of(size))
            if bits is None or not part.exists() or part.stat().st_size != size:
                map_.unlink(missing_ok=True)  # before the bytes that it speaks of
                bits = bytearray(-(-count_of(size) // 8))
                try:
                    self._make(part, size)
                    write_durably(map_, head + bits)
                except OSError:
                    with suppress(OSError):
                        part.unlink(missing_ok=True)  # who has no room must not keep any
                    raise
            return FileDownload(blob, size, blocks, part=part, map_=map_, bits=bits)

    def held(self, blob: str) -> int:
        try:
            return self._part(blob).stat().st_blocks * _SECTOR
        except OSError:
            return 0

    def move(self, blob: str, to: Path) -> None:
        part = self._part(blob)
        with _told(to):
            os.replace(part, to)  # noqa: PTH105 -- as in fs.py, it is what the crash test stops at
            for folder in (to.parent, self._folder):
                flush_folder(folder)
            self._map(blob).unlink(missing_ok=True)

    def sweep(self, keep: Collection[str] = ()) -> None:
        kept = {path.name for blob in keep for path in (self._part(blob), self._map(blob))}
        with _told(self._folder):
            if not self._folder.exists():
                return
            for path in self._folder.iterdir():
                if path.name not in kept and not path.is_dir():
                    path.unlink(missing_ok=True)

    def _part(self, blob: str) -> Path:
        return self._folder / f"{blob}.part"

    def _map(self, blob: str) -> Path:
        return self._folder / f"{blob}.map"

    def _make(self, part: Path, size: int) -> None:
        """Allocate all of a file, so that the disk is full now or never."""
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            os.ftruncate(fd, size)
            disk, held = os.fstatvfs(fd), os.fstat(fd).st_blocks * _SECTOR
            free = disk.f_bavail * disk.f_frsize
            if free + held < size + self._min_free_bytes:
                what = f"{size} bytes are needed beside {self._min_free_bytes} that stay free"
                raise OSError(errno.ENOSPC, f"{free} bytes free, {what}")
            if size:
                os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
        finally:
            os.close(fd)


class FileDownload:
    """Implements `edgeslm.ports.Download`; made by `FileBlockStore.begin`."""

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        blob: str,
        size: int,
        blocks: Sequence[str],
        *,
        part: Path,
        map_: Path,
        bits: bytearray,
    ) -> None:
        self._blob = blob
        self._size = size
        self._count = count_of(size)
        # One block is all of it; of others without a list only the whole is checked.
        self._hashes = [blob] if self._count == 1 else list(blocks)
        self._part = part
        self._bits = bits
        self._fresh: set[int] = set()  # written and not flushed
        self._fresh_bytes = 0
        self.missing = self._count - sum(byte.bit_count() for byte in bits)
        # Of the blocks from the first on that are here: most come in order.
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._data = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = os.open(map_, os.O_WRONLY | os.O_CLOEXEC | os.O_DSYNC)
        except OSError:
            os.close(self._data)
            raise

    def here(self) -> list[int]:
        return [block for block in range(self._count) if self._has(block)]

    def put(self, block: int, data: bytes | memoryview) -> bool:
        if not 0 <= block < self._count or len(data) != self._length(block):
            return False
        if self._hashes and hashlib.sha256(data).hexdigest() != self._hashes[block]:
            return False
        if self._has(block):
            return True
        with _told(self._part):
            _write(self._data, data, block * BLOCK_BYTES)
            if block == self._hashed:
                self._hash.update(data)
                self._hashed += 1
            self._fresh.add(block)
            self._fresh_bytes += len(data)
            self.missing -= 1
            if self._fresh_bytes >= FLUSH_BYTES:
                self._flush()
        return True

    def flush(self) -> None:
        with _told(self._part):
            self._flush()

    def finish(self) -> Path:
        with _told(self._part):
            self._flush()
            while self._hashed < self._count:
                self._hash.update(self._read(self._hashed))
                self._hashed += 1
            if self._hash.hexdigest() == self._blob:
                return self._part
            bad = self._let_go()
        what = f"{bad} of {self._count} blocks are damaged" if bad else "its blocks are not it"
        msg = f"{self._blob}: {what}"
        raise DamagedBlobError(msg)

    def close(self) -> None:
        for fd in (self._data, self._map):
            with suppress(OSError):
                os.close(fd)

    def _has(self, block: int) -> bool:
        return block in self._fresh or bool(self._bits[block // 8] >> block % 8 & 1)

    def _length(self, block: int) -> int:
        return length_of(block, self._size)

    def _read(self, block: int) -> bytes:
        data = os.pread(self._data, self._length(block), block * BLOCK_BYTES)
        if len(data) != self._length(block):
            raise OSError(errno.EIO, "the file was cut short")
        return data

    def _flush(self) -> None:
        if not self._fresh:
            return
        try:
            os.fdatasync(self._data)
        except OSError:
            # The kernel may have dropped what it could not write, and says so only once.
            self.missing += len(self._fresh)
            self._fresh.clear()
            self._fresh_bytes = 0
            self._hash, self._hashed = hashlib.sha256(), 0
            raise
        bits = bytearray(self._bits)
        for block in self._fresh:
            bits[block // 8] |= 1 << block % 8
        self._write_bits(bits, min(self._fresh), max(self._fresh))
        self._fresh.clear()
        self._fresh_bytes = 0

    def _write_bits(self, bits: bytearray, first: int, last: int) -> None:
        """Put the bits of these blocks on disk, and only then believe them."""
        begin, end = first // 8, last // 8 + 1
        _write(self._map, bytes(bits[begin:end]), _HEADER.size + begin)
        self._bits = bits

    def _let_go(self) -> int:
        """Count what is not right as missing: each bad block, or all where none is known."""
        bits = bytearray(len(self._bits))
        for block, wanted in enumerate(self._hashes):
            if hashlib.sha256(self._read(block)).hexdigest() == wanted:
                bits[block // 8] |= 1 << block % 8
        self._write_bits(bits, 0, self._count - 1)
        self.missing = self._count - sum(byte.bit_count() for byte in bits)
        self._hash, self._hashed = hashlib.sha256(), 0
        return self.missing


def _header(size: int, blocks: Sequence[str]) -> bytes:
    listed = hashlib.sha256("".join(blocks).encode()).digest()
    head = _HEADER.pack(_MAGIC, size, listed, 0)[: -_CRC.size]
    return head + _CRC.pack(zlib.crc32(head))


def _read_map(path: Path, head: bytes, count: int) -> bytearray | None:
    """The bits in the map at `path`; None where it is not a whole one of this blob."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    bits = bytearray(data[len(head) :])
    if data[: len(head)] != head or len(bits) != -(-count // 8):
        return None
    if count % 8 and bits[-1] >> count % 8:
        return None
    return bits


def _write(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data`: the system may take less at once."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the disk says into errors of ours."""
    try:
        yield
    except OSError as err:
        raise refused(err, path) from None
