"""A delta gives the file that is wanted, or a typed error and no file."""

from __future__ import annotations

import bz2
import errno
import hashlib
import os
import random
import struct
import tracemalloc
from pathlib import Path

import bsdiff4
import pytest
import zstandard

from edgeslm.adapters.delta import CHUNK, DeltaError, patch
from edgeslm.contract.fleet import Algorithm
from edgeslm.fleet.deltas import make
from edgeslm.ports import DiskFullError


class Files:
    """An old file, what is applied to it, and the outcome."""

    def __init__(self, folder: Path, old: bytes) -> None:
        self.old, self.delta, self.to = folder / "old", folder / "delta", folder / "new"
        self.old.write_bytes(old)

    def apply(self, algorithm: Algorithm, delta: bytes, new: bytes) -> bytes:
        self.delta.write_bytes(delta)
        sha256 = hashlib.sha256(new).hexdigest()
        patch(algorithm, self.old, self.delta, self.to, size=len(new), sha256=sha256)
        return self.to.read_bytes()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)  # noqa: S311 -- bytes like a model's


def changed(data: bytes) -> bytes:
    made = bytearray(data)
    made[len(made) // 2 :: 997] = b"\xff" * len(made[len(made) // 2 :: 997])
    return bytes(made)


@pytest.mark.parametrize("size", [1000, CHUNK, CHUNK + 1, 3 * CHUNK - 7])
def test_files_of_equal_length(tmp_path: Path, size: int) -> None:
    old, new = noise(size), changed(noise(size))
    (tmp_path / "a").write_bytes(old)
    (tmp_path / "b").write_bytes(new)
    with (tmp_path / "d").open("wb") as to:
        assert make(tmp_path / "a", tmp_path / "b", to) == "bytes-zstd"
    delta = (tmp_path / "d").read_bytes()
    assert len(delta) < size / 4
    assert Files(tmp_path, old).apply("bytes-zstd", delta, new) == new


@pytest.mark.parametrize("old_size", [5000, 300_000])
def test_files_of_other_lengths(tmp_path: Path, old_size: int) -> None:
    old = noise(old_size)
    new = changed(old[: old_size // 2] + b"inserted" * 50 + old[old_size // 2 + 100 :]) + b"end"
    (tmp_path / "a").write_bytes(old)
    (tmp_path / "b").write_bytes(new)
    with (tmp_path / "d").open("wb") as to:
        assert make(tmp_path / "a", tmp_path / "b", to) == "bsdiff"
    assert Files(tmp_path, old).apply("bsdiff", (tmp_path / "d").read_bytes(), new) == new


def test_what_is_not_much_shorter_is_not_offered(tmp_path: Path) -> None:
    for old, new in ((noise(100_000), noise(100_000, 2)), (noise(9000), noise(10_000, 2))):
        (tmp_path / "a").write_bytes(old)
        (tmp_path / "b").write_bytes(new)
        with (tmp_path / "d").open("wb") as to:
            assert make(tmp_path / "a", tmp_path / "b", to) is None


def bsdiff(steps: list[tuple[int, int, int]], added: bytes, inserted: bytes, size: int) -> bytes:
    def number(value: int) -> bytes:
        return struct.pack("<Q", -value | 1 << 63 if value < 0 else value)

    packed = bz2.compress(b"".join(number(n) for step in steps for n in step))
    middle = bz2.compress(added)
    head = b"BSDIFF40" + number(len(packed)) + number(len(middle)) + number(size)
    return head + packed + middle + bz2.compress(inserted)


OLD = bytes(range(256)) * 8
NEW = OLD[1024:] + b"more"


@pytest.mark.parametrize(
    ("algorithm", "delta"),
    [
        ("bytes-zstd", b""),
        ("bytes-zstd", b"no zstd"),
        ("bytes-zstd", zstandard.compress(bytes(len(NEW) - 1))),
        ("bytes-zstd", zstandard.compress(bytes(len(NEW)))),
        ("bytes-zstd", zstandard.compress(bytes(1 << 24))),
        ("bytes-zstd", zstandard.compress(bytes(len(NEW)))[:-3]),
        ("bsdiff", b""),
        ("bsdiff", b"BSDIFF40" + bytes(24)),
        ("bsdiff", b"BSDIFF41" + bytes(24)),
        ("bsdiff", b"BSDIFF40" + b"\xff" * 24),
        ("bsdiff", bsdiff([(len(NEW), 0, 0)], bytes(len(NEW)), b"", len(NEW))),
        ("bsdiff", bsdiff([(0, 0, 1)] * 100, b"", b"", len(NEW))),
        ("bsdiff", bsdiff([(-5, 5, 0)], b"", b"12345", len(NEW))),
        ("bsdiff", bsdiff([(5, 0, -100), (5, 0, 0)], bytes(10), b"", len(NEW))),
        ("bsdiff", bsdiff([(0, 2**62, 0)], b"", b"x", len(NEW))),
        ("bsdiff", bsdiff([(0, 0, 2**62), (1, 0, 0)], b"x", b"x", len(NEW))),
        ("bsdiff", bsdiff([(0, len(NEW), 0)], b"", bytes(len(NEW) - 1), len(NEW))),
        ("bsdiff", bsdiff([(0, len(NEW), 0)], b"", bytes(len(NEW)), len(NEW) + 1)),
        ("bsdiff", bsdiff([(0, len(NEW), 0)], b"", NEW, len(NEW))[:-60]),
    ],
)
def test_anything_else_is_a_typed_error_and_no_file(
    tmp_path: Path, algorithm: Algorithm, delta: bytes
) -> None:
    files = Files(tmp_path, OLD)
    with pytest.raises(DeltaError, match="cannot be used"):
        files.apply(algorithm, delta, NEW)
    assert not files.to.exists()


def test_a_patch_by_hand_is_as_bsdiff4_reads_it(tmp_path: Path) -> None:
    made = bsdiff([(0, 0, 1024), (1024, 0, 0), (0, 4, 0)], bytes(1024), b"more", len(NEW))
    assert bsdiff4.patch(OLD, made) == NEW
    assert Files(tmp_path, OLD).apply("bsdiff", made, NEW) == NEW


def test_steps_that_lead_nowhere_come_to_an_end(tmp_path: Path) -> None:
    bomb = bsdiff([(0, 0, 0)] * 220_000, b"", b"", len(NEW))
    assert len(bomb) < 1000
    with pytest.raises(DeltaError, match="too many steps"):
        Files(tmp_path, OLD).apply("bsdiff", bomb, NEW)


def test_memory_is_bounded_whatever_is_unpacked(tmp_path: Path) -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    far = zstandard.ZstdCompressor(compression_params=wide).compress(bytes(1 << 27))
    files = Files(tmp_path, OLD)
    bombs: list[tuple[Algorithm, bytes, str]] = [
        ("bytes-zstd", far, "too much memory"),
        ("bytes-zstd", zstandard.compress(bytes(1 << 26)), "another file"),
        ("bsdiff", bsdiff([(0, len(NEW), 0)], b"", bytes(1 << 26), len(NEW)), "another file"),
    ]
    tracemalloc.start()
    try:
        for algorithm, delta, why in bombs:
            tracemalloc.reset_peak()
            with pytest.raises(DeltaError, match=why):
                files.apply(algorithm, delta, NEW)
            assert tracemalloc.get_traced_memory()[1] < 8 * CHUNK
    finally:
        tracemalloc.stop()


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    files = Files(tmp_path, OLD)
    files.to.write_bytes(b"another's")
    with pytest.raises(Exception, match="exists"):
        files.apply("bytes-zstd", zstandard.compress(bytes(len(OLD))), OLD)
    assert files.to.read_bytes() == b"another's"


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    files = Files(tmp_path, OLD)
    with pytest.raises(DiskFullError, match="No space"):
        files.apply("bytes-zstd", zstandard.compress(bytes(len(OLD))), OLD)
    assert not files.to.exists()
