"""Blobs are read block by block, by names that can be blobs' and no others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeslm.contract.fleet import BLOCK_BYTES
from edgeslm.fleet.blobs import MAX_OPEN, BlobFiles


def stored(folder: Path, data: bytes) -> str:
    blob = hashlib.sha256(data).hexdigest()
    (folder / blob).write_bytes(data)
    return blob


def test_each_block_and_no_other(tmp_path: Path) -> None:
    data = bytes(BLOCK_BYTES) + b"1" * BLOCK_BYTES + b"end"
    blob = stored(tmp_path, data)
    files = BlobFiles(tmp_path)
    assert files.size(blob) == len(data)
    assert b"".join(files.read(blob, block) or b"" for block in range(3)) == data
    files.close()


@pytest.mark.parametrize("name", ["", "..", "x", "0" * 63, "0" * 64, "A" * 64, "0" * 64 + "\n"])
def test_what_can_be_no_blob_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"not a blob")
    files = BlobFiles(tmp_path)
    assert files.size(name) is None
    assert files.read(name, 0) is None
    files.close()


def test_an_empty_file_is_no_blob(tmp_path: Path) -> None:
    files = BlobFiles(tmp_path)
    assert files.size(stored(tmp_path, b"")) is None
    files.close()


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    blobs = [stored(tmp_path, b"%d" % i) for i in range(3 * MAX_OPEN)]
    files = BlobFiles(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        for i, blob in enumerate(blobs):
            assert files.read(blob, 0) == b"%d" % i
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + MAX_OPEN
    files.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
