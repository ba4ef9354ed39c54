"""Block lists of bundle folders, and what brings their files, in tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from edgeslm.contract.fleet import BLOCK_BYTES, BlobFile, BlockList


def block_list(bundle: Path) -> BlockList:
    """Return the block list of a bundle folder."""
    files = []
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        data = path.read_bytes()
        cuts = range(0, len(data), BLOCK_BYTES) if len(data) > BLOCK_BYTES else ()
        blocks = tuple(sha256(data[cut : cut + BLOCK_BYTES]) for cut in cuts)
        name = path.relative_to(bundle).as_posix()
        files.append(BlobFile(path=name, size=len(data), sha256=sha256(data), blocks=blocks))
    return BlockList(bundle=sha256((bundle / "manifest.json").read_bytes()), files=tuple(files))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bringing(bundle: Path, brought: list[str] | None = None) -> Callable[[BlobFile, Path], None]:
    """Return what brings a bundle's files by their hash, and notes which it brought."""
    at = {sha256(path.read_bytes()): path for path in bundle.rglob("*") if path.is_file()}

    def bring(file: BlobFile, into: Path) -> None:
        assert not into.exists()
        assert into.parent.is_dir()
        into.write_bytes(at[file.sha256].read_bytes())
        if brought is not None:
            brought.append(file.path)

    return bring
