"""Deltas between files of the repository: made when a device asks for one, and kept.

They lie among the blobs, so that they are served like any other; `deltas/WANT.HAVE.json` says
which leads where. They are not signed: a device holds the outcome against a signed hash.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from typing import Annotated, BinaryIO, Final

import bsdiff4
import numpy as np
import zstandard
from pydantic import Field, ValidationError

from edgeslm.adapters.delta import CHUNK, WINDOW_LOG
from edgeslm.adapters.fs import write_durably
from edgeslm.contract.base import Sha256, Typed
from edgeslm.contract.fleet import Algorithm
from edgeslm.logs import Log

DELTAS: Final = "deltas"
MAX_SHARE: Final = 0.5  # of the file; a longer delta is not worth its while
MAX_BSDIFF_BYTES: Final = 8 * 2**20  # bsdiff takes seventeen times that in memory, and minutes
MAX_WAITING: Final = 32
MAX_KEPT_BYTES: Final = 2 * 2**30
_LEVEL: Final = 9
_READABLE: Final = 0o644

log = Log(__name__)


class Delta(Typed):
    """What came of making one; without an algorithm: none is worth its while."""

    want: Sha256
    have: Sha256
    algorithm: Algorithm | None = None
    blob: Sha256 | None = None
    size: Annotated[int, Field(ge=0)] = 0


class DeltaMaker:
    """Makes deltas on a thread of its own; `ask` and `close` are the owner's.

    Args:
        folder: the repository's.
        blobs: where its blobs are.
        done: called on that thread with each that was made.
    """

    def __init__(self, folder: Path, blobs: Path, done: Callable[[Delta], None]) -> None:
        self._folder = folder / DELTAS
        self._blobs = blobs
        self._done = done
        self._asked: set[tuple[str, str]] = set()
        self._queue: Queue[tuple[str, str] | None] = Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="deltas", daemon=True)
        self._thread.start()

    def ask(self, want: str, have: str) -> Delta | None:
        """Return the delta, where it was made before; else have it made.

        Raises:
            Full: too many are being made.
        """
        known = self._known(want, have)
        if known is not None:
            return known
        if (want, have) not in self._asked:
            self._queue.put_nowait((want, have))
            self._asked.add((want, have))
        return None

    def settle(self, delta: Delta) -> None:
        """`done` was called with this one; where that came to nothing, it may be tried again."""
        self._asked.discard((delta.want, delta.have))

    def close(self) -> None:
        """Make no more; one that is being made is left alone."""
        with suppress(Full):
            self._queue.put_nowait(None)

    def _known(self, want: str, have: str) -> Delta | None:
        try:
            raw = self._file(want, have).read_bytes()
            known = Delta.model_validate_json(raw)
        except (OSError, ValidationError):
            return None
        if known.blob is not None and not (self._blobs / known.blob).is_file():
            return None
        return known

    def _run(self) -> None:
        while (pair := self._queue.get()) is not None:
            want, have = pair
            try:
                made = self._make(want, have)
            except (OSError, MemoryError) as err:
                log.warning("delta_failed", want=want, have=have, message=str(err))
                made = Delta(want=want, have=have)
            except Exception as err:  # noqa: BLE001 -- a file that no delta can be made of
                log.fault("delta_failed", err, want=want, have=have)
                made = Delta(want=want, have=have)
            self._done(made)

    def _make(self, want: str, have: str) -> Delta:
        self._folder.mkdir(exist_ok=True)
        new, old = self._blobs / want, self._blobs / have
        fd, name = tempfile.mkstemp(dir=self._folder, prefix=".")
        temporary = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                algorithm = make(old, new, file)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), _READABLE)
                size = file.tell()
            made = Delta(want=want, have=have)
            if algorithm is not None:
                with temporary.open("rb") as file_:
                    blob = hashlib.file_digest(file_, "sha256").hexdigest()
                self._make_room(size)
                temporary.replace(self._blobs / blob)
                made = Delta(want=want, have=have, algorithm=algorithm, blob=blob, size=size)
        finally:
            temporary.unlink(missing_ok=True)
        write_durably(self._file(want, have), made.model_dump_json().encode(), mode=_READABLE)
        log.info("delta_made", want=want, have=have, algorithm=algorithm, bytes=made.size)
        return made

    def _make_room(self, size: int) -> None:
        """Remove the oldest where all together would be too long."""
        files = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        kept = [(path, delta) for path in files if (delta := _read(path)) is not None]
        total = size + sum(delta.size for _, delta in kept)
        for path, delta in kept:
            if total <= MAX_KEPT_BYTES:
                return
            path.unlink(missing_ok=True)
            if delta.blob is not None:
                (self._blobs / delta.blob).unlink(missing_ok=True)
            total -= delta.size

    def _file(self, want: str, have: str) -> Path:
        return self._folder / f"{want}.{have}.json"


def make(old: Path, new: Path, to: BinaryIO) -> Algorithm | None:
    """Write what leads from `old` to `new`; return how, None where nothing is much shorter.

    Raises:
        OSError: the disk refused.
    """
    size = new.stat().st_size
    most = int(size * MAX_SHARE)
    if size == old.stat().st_size:
        packer = zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters.from_level(
                _LEVEL, window_log=WINDOW_LOG
            )
        )
        with packer.stream_writer(to, closefd=False) as writer:
            for difference in _differences(old, new):
                writer.write(difference)
                if to.tell() > most:
                    return None
        return "bytes-zstd" if to.tell() <= most else None
    if max(size, old.stat().st_size) > MAX_BSDIFF_BYTES:
        return None
    patch = bsdiff4.diff(old.read_bytes(), new.read_bytes())
    if len(patch) > most:
        return None
    to.write(patch)
    return "bsdiff"


def _differences(old: Path, new: Path) -> Iterator[bytes]:
    """Bytes of `new` less those of `old`, modulo 256, piece by piece."""
    with old.open("rb") as before, new.open("rb") as after:
        while piece := after.read(CHUNK):
            was = np.frombuffer(before.read(len(piece)), np.uint8)
            yield (np.frombuffer(piece, np.uint8) - was).tobytes()


def _read(path: Path) -> Delta | None:
    try:
        return Delta.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
