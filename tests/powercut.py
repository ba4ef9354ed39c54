"""Cuts the power of a disk, afterwards: from a log of all that it was given to write.

A file system lies on a disk of qemu-storage-daemon's, which logs every write and every flush. What
a disk was given before a flush that it has done is there after a power cut. Of what it was given
since, any part may be: here none, half of it in whatever order, or all. An image made like that is
mounted, which replays the file system's own journal, and is what a device finds when it starts.

A page of memory that the kernel never sent to the disk is in no log, and so in no image.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

# Without ext4's guess at the flushes that careless programs forget: other file systems make none.
# And with a journal that is written each second, so that what a run has not flushed is in the log.
OPTIONS: Final = "noauto_da_alloc,commit=1"
LOG_BYTES: Final = 2**30  # at most; a file with a hole
TIMEOUT_S: Final = 60.0
PIECE_BYTES: Final = 4096  # what a disk writes all of, or nothing

# The log's format is that of the kernel's dm-log-writes.
_SECTOR: Final = 512
_MAGIC: Final = 0x6A736677736872
_SUPER: Final = struct.Struct("<QQQI")  # magic, version, entries, bytes of a sector
_ENTRY: Final = struct.Struct("<QQQQ")  # first sector, sectors, flags, bytes of a text
_FLUSH, _DISCARD, _MARK = 1, 4, 8


@dataclass(frozen=True, slots=True)
class Write:
    """A piece that a disk was given."""

    at: int
    data: bytes


Log = list[list[Write]]
"""What was written between two flushes, in order; after the last one none was done."""


@dataclass(frozen=True, slots=True)
class Cut:
    """When the power went: after so many flushes, with these of the next writes on the disk."""

    flushes: int
    kept: tuple[int, ...]

    def __str__(self) -> str:
        return f"flush {self.flushes} and {len(self.kept)} writes"


@dataclass(slots=True)
class Recording:
    """What a disk was given.

    Args:
        before: its bytes when it was mounted.
        file: the log; gone once it is unmounted.
        log: all of it, once it is unmounted.
    """

    before: bytes
    file: Path
    log: Log = field(default_factory=list)

    def flushes(self) -> int:
        """Return how many flushes were done so far, while it is mounted."""
        return len(read_log(self.file)) - 1

    def image(self, cut: Cut) -> bytearray:
        """Return what is on the disk after a power cut."""
        image = bytearray(self.before)
        last = self.log[cut.flushes]
        for write in (w for flushed in self.log[: cut.flushes] for w in flushed):
            image[write.at : write.at + len(write.data)] = write.data
        for write in (last[i] for i in cut.kept):
            image[write.at : write.at + len(write.data)] = write.data
        return image


def cuts(log: Log, *, between: int = 2, seed: int = 0) -> list[Cut]:
    """Return power cuts at every flush, and at so many points before the next one.

    At a point all of the writes up to it are kept, or half of them. No two cuts keep the same.
    """
    chance = random.Random(seed)  # noqa: S311 -- that they are the same each time is wanted
    found: dict[Cut, None] = {}
    for flushes, writes in enumerate(log):
        found[Cut(flushes, ())] = None
        for point in range(between) if len(writes) > 1 else ():
            count = chance.randint(2, len(writes))
            if point % 2:
                # All before the next flush is what is there at the flush.
                kept = list(range(count - 1))
            else:
                kept = sorted(chance.sample(range(count), count // 2))
            found[Cut(flushes, tuple(kept))] = None
    found[Cut(len(log) - 1, tuple(range(len(log[-1]))))] = None
    return list(found)


def need_block_log() -> None:
    """Skip the test where no disk can be made whose writes are logged."""
    if why := _why_not():
        pytest.skip(why)


@functools.cache
def _why_not() -> str | None:
    packages = {
        "qemu-storage-daemon": "qemu-system-common",
        "fusermount3": "fuse3",
        "mkfs.ext4": "e2fsprogs",
        "losetup": "mount",
    }
    for program, package in packages.items():
        if shutil.which(program) is None:
            return f"no {program}: apt-get install {package}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "image"
            make_image(image, 16)
            with recorded(image, Path(folder) / "mounted") as recording:
                pass
    except (OSError, subprocess.SubprocessError) as err:
        said = getattr(err, "stderr", None) or err
        return f"no disk can be mounted here, by FUSE and a loop device, as root: {said}"[:300]
    return None if any(recording.log) else "nothing is logged of what a disk is given"


def make_image(path: Path, megabytes: int) -> None:
    """Make a file with an empty ext4 file system."""
    with path.open("wb") as file:
        file.truncate(megabytes * 2**20)
    _run("mkfs.ext4", "-q", "-b", str(PIECE_BYTES), "-J", "size=4", str(path))


def write_image(path: Path, data: bytes | bytearray) -> None:
    """Write a file with holes for what is empty: a disk image is, for the most part."""
    empty = bytes(PIECE_BYTES)
    with path.open("wb") as file:
        file.truncate(len(data))
        for at in range(0, len(data), PIECE_BYTES):
            if (piece := data[at : at + PIECE_BYTES]) != empty:
                file.seek(at)
                file.write(piece)


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    """Mount an image within.

    Raises:
        subprocess.CalledProcessError: it cannot be mounted, or is still in use at the end.
    """
    at.mkdir(exist_ok=True)
    _run("mount", "-o", f"loop,{OPTIONS}", str(image), str(at))
    try:
        yield
    except BaseException:
        with contextlib.suppress(subprocess.CalledProcessError):
            _unmount(at)
        raise
    _unmount(at)


@contextlib.contextmanager
def recorded(image: Path, at: Path) -> Iterator[Recording]:
    """Mount an image within, and log what is written to it.

    Raises:
        subprocess.CalledProcessError: it cannot be mounted, or is still in use at the end.
        OSError: no such disk can be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            file.truncate(LOG_BYTES)
        recording = Recording(image.read_bytes(), log)
        with _logging(image, log, Path(folder)) as disk, mounted(disk, at):
            yield recording
        recording.log = read_log(log)


@contextlib.contextmanager
def _logging(image: Path, log: Path, folder: Path) -> Iterator[Path]:
    """Have a file whose writes go to an image, and into a log."""
    disk = folder / "disk"
    disk.touch()
    at_once = "log-super-update-interval=1"  # the number of entries, for `flushes`
    argv = [
        *("qemu-storage-daemon", "--blockdev", f"file,node-name=image,filename={image}"),
        *("--blockdev", f"file,node-name=log,filename={log}"),
        *("--blockdev", f"blklogwrites,node-name=logged,file=image,log=log,{at_once}"),
        *("--export", f"fuse,id=disk,node-name=logged,mountpoint={disk},writable=on"),
    ]
    daemon = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Not to be interrupted from a terminal with us: it is unmounted first.
        start_new_session=True,
    )
    with daemon:
        try:
            until = time.monotonic() + TIMEOUT_S
            while disk.stat().st_size == 0:
                if daemon.poll() is not None or time.monotonic() > until:
                    daemon.terminate()
                    msg = f"no disk of qemu-storage-daemon's: {daemon.communicate()[1]}"
                    raise OSError(msg)
                time.sleep(0.01)
            yield disk
        finally:
            daemon.terminate()
            try:
                daemon.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
            if disk.is_mount():
                _run("umount", "-l", str(disk))


def read_log(path: Path) -> Log:
    """Read a log.

    Raises:
        OSError: it is none, or is not whole.
    """
    log: Log = [[]]
    with path.open("rb") as file:
        magic, _, entries, sector = _SUPER.unpack(file.read(_SUPER.size))
        if magic != _MAGIC or sector != _SECTOR:
            msg = f"{path}: not a log"
            raise OSError(msg)
        file.seek(_SECTOR)
        for _ in range(entries):
            first, sectors, flags, _ = _ENTRY.unpack(file.read(_SECTOR)[: _ENTRY.size])
            if flags & _FLUSH:
                log.append([])
            if flags & _MARK:
                msg = f"{path}: marks are for others"
                raise OSError(msg)
            size = sectors * _SECTOR
            data = bytes(size) if flags & _DISCARD else file.read(size)
            if len(data) != size:
                msg = f"{path}: cut short"
                raise OSError(msg)
            log[-1] += _pieces(first * _SECTOR, data)
    return log


def _pieces(at: int, data: bytes) -> Iterator[Write]:
    for begin in range(0, len(data), PIECE_BYTES):
        yield Write(at + begin, data[begin : begin + PIECE_BYTES])


def _unmount(at: Path) -> None:
    """Unmount; by force where it is in use, so that nothing is left behind."""
    try:
        _run("umount", str(at))
    except subprocess.CalledProcessError:
        _run("umount", "-l", str(at))
        raise


def _run(*command: str) -> None:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
