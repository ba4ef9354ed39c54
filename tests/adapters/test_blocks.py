"""A blob under way: what was flushed stays, and nothing counts that is not what was promised."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import random
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.adapters import blocks
from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.contract.fleet import BLOCK_BYTES
from edgeslm.ports import DamagedBlobError, DiskFullError, SlotsUnavailableError
from tests.adapters.put_blocks import COUNT, blob_of, order_of, put_all, sliced

ROOT = Path(__file__).parents[2]
DATA = blob_of(5 * BLOCK_BYTES + 777)
PIECES = sliced(DATA)
BLOB = hashlib.sha256(DATA).hexdigest()
LIST = tuple(hashlib.sha256(piece).hexdigest() for piece in PIECES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "download"


@pytest.fixture
def store(folder: Path) -> FileBlockStore:
    return FileBlockStore(folder)


@pytest.mark.parametrize("listed", [LIST, ()], ids=["list", "no list"])
@pytest.mark.parametrize("order", [range(6), [5, 3, 4, 0, 1, 2], [0, 2, 4, 5, 3, 1]], ids=str)
def test_blocks_in_any_order_become_the_file(
    store: FileBlockStore, tmp_path: Path, order: list[int], listed: tuple[str, ...]
) -> None:
    download = store.begin(BLOB, len(DATA), listed)
    for done, block in enumerate(order):
        assert download.missing == len(PIECES) - done
        assert download.put(block, PIECES[block])
    assert download.here() == list(range(6))
    assert download.finish().read_bytes() == DATA
    download.close()
    store.move(BLOB, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == DATA
    assert stat.S_IMODE((tmp_path / "model.onnx").stat().st_mode) & 0o040
    assert list((tmp_path / "download").iterdir()) == []


@pytest.mark.parametrize(
    "size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 8 * BLOCK_BYTES]
)
def test_blobs_of_any_size(store: FileBlockStore, size: int) -> None:
    data = blob_of(size)
    blob = hashlib.sha256(data).hexdigest()
    pieces = sliced(data)
    hashes = [hashlib.sha256(piece).hexdigest() for piece in pieces] if len(pieces) > 1 else []
    download = store.begin(blob, size, hashes)
    assert download.missing == len(pieces)
    for block, piece in enumerate(pieces):
        assert not download.put(block, piece[:-1])
        assert not download.put(block, piece + b"x")
        assert not download.put(block, bytes(byte ^ 1 for byte in piece))
        assert download.put(block, piece)
        assert download.put(block, piece)
    assert download.finish().read_bytes() == data
    download.close()


def test_only_what_was_flushed_outlives_the_process(
    store: FileBlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FLUSH_BYTES", 2 * BLOCK_BYTES)
    download = store.begin(BLOB, len(DATA), LIST)
    for block in (0, 1, 4):
        download.put(block, PIECES[block])
    download.close()
    download = store.begin(BLOB, len(DATA), LIST)
    assert download.here() == [0, 1]
    assert download.missing == 4
    download.put(4, PIECES[4])
    download.flush()
    download.close()
    download = store.begin(BLOB, len(DATA), LIST)
    assert download.here() == [0, 1, 4]
    for block in (2, 3, 5):
        download.put(block, PIECES[block])
    assert download.finish().read_bytes() == DATA
    download.close()


def test_another_list_or_size_begins_anew(store: FileBlockStore) -> None:
    for size, listed in [(len(DATA), LIST), (len(DATA), ()), (len(DATA) - 1, ())]:
        download = store.begin(BLOB, size, listed)
        assert download.here() == []
        download.put(0, PIECES[0])
        download.flush()
        download.close()


@pytest.mark.parametrize("what", ["part", "map"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut", "long"])
def test_half_of_a_pair_or_a_damaged_one_begins_anew(
    store: FileBlockStore, folder: Path, what: str, how: str
) -> None:
    download = store.begin(BLOB, len(DATA), LIST)
    download.put(0, PIECES[0])
    download.flush()
    download.close()
    file = folder / f"{BLOB}.{what}"
    data = file.read_bytes()
    changed = {"gone": None, "empty": b"", "cut": data[:-1], "long": data + b"\0"}[how]
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)
    download = store.begin(BLOB, len(DATA), LIST)
    assert download.here() == []
    for block, piece in enumerate(PIECES):
        download.put(block, piece)
    assert download.finish().read_bytes() == DATA
    download.close()


def test_a_map_is_gone_before_the_bytes_that_it_speaks_of(
    store: FileBlockStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part was lost, and making it anew is cut short: the old map must not speak of the new."""
    download = store.begin(BLOB, len(DATA), LIST)
    download.put(0, PIECES[0])
    download.flush()
    download.close()
    (folder / f"{BLOB}.part").unlink()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "write_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            store.begin(BLOB, len(DATA), LIST)
    assert (folder / f"{BLOB}.part").stat().st_size == len(DATA)
    download = store.begin(BLOB, len(DATA), LIST)
    assert download.here() == []
    download.close()


def test_what_the_disk_garbled_is_found_and_only_that_is_missing(
    store: FileBlockStore, folder: Path
) -> None:
    download = store.begin(BLOB, len(DATA), LIST)
    for block, piece in enumerate(PIECES):
        download.put(block, piece)
    download.flush()
    download.close()
    part = folder / f"{BLOB}.part"
    garbled = bytearray(DATA)
    garbled[3 * BLOCK_BYTES] ^= 1
    part.write_bytes(garbled)
    download = store.begin(BLOB, len(DATA), LIST)
    assert download.missing == 0
    with pytest.raises(DamagedBlobError, match="1 of 6 blocks"):
        download.finish()
    assert download.missing == 1
    assert download.here() == [0, 1, 2, 4, 5]
    download.close()
    download = store.begin(BLOB, len(DATA), LIST)
    assert download.here() == [0, 1, 2, 4, 5]
    assert download.put(3, PIECES[3])
    assert download.finish().read_bytes() == DATA
    download.close()


def test_without_a_list_all_is_missing_when_the_whole_is_wrong(store: FileBlockStore) -> None:
    download = store.begin(BLOB, len(DATA), ())
    for block, piece in enumerate(PIECES):
        assert download.put(block, piece if block else bytes(len(piece)))
    with pytest.raises(DamagedBlobError, match="6 of 6"):
        download.finish()
    assert download.missing == 6
    for block, piece in enumerate(PIECES):
        assert download.put(block, piece)
    assert download.finish().read_bytes() == DATA
    download.close()


def test_a_list_that_is_not_the_blobs_is_said_and_nothing_is_fetched_for_ever(
    store: FileBlockStore,
) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    download = store.begin(other, len(DATA), LIST)
    for block, piece in enumerate(PIECES):
        assert download.put(block, piece)
    with pytest.raises(DamagedBlobError, match="its blocks are not it"):
        download.finish()
    assert download.missing == 0
    download.close()


def test_room_is_taken_at_the_beginning_and_given_back(
    store: FileBlockStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.held(BLOB) == 0
    store.begin(BLOB, len(DATA), LIST).close()
    assert store.held(BLOB) >= len(DATA)
    store.sweep()
    assert list(folder.iterdir()) == []
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    greedy = FileBlockStore(folder, min_free_bytes=free + 2**30)
    with pytest.raises(DiskFullError, match="stay free"):
        greedy.begin(BLOB, len(DATA), LIST)
    assert list(folder.iterdir()) == []

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(DiskFullError, match="No space"):
        store.begin(BLOB, len(DATA), LIST)
    assert list(folder.iterdir()) == []


def test_what_is_here_needs_no_room_again(store: FileBlockStore, folder: Path) -> None:
    store.begin(BLOB, len(DATA), LIST).close()
    (folder / f"{BLOB}.map").unlink()
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    tight = FileBlockStore(folder, min_free_bytes=free - 2**20)
    tight.begin(BLOB, len(DATA), LIST).close()


def test_leftovers_of_others_go(store: FileBlockStore, folder: Path) -> None:
    store.begin(BLOB, len(DATA), LIST).close()
    other = hashlib.sha256(b"other").hexdigest()
    store.begin(other, 100, ()).close()
    (folder / f".{BLOB}.map.x1y2").write_bytes(b"a write that was cut short")
    (folder / "kept").mkdir()
    store.sweep([BLOB])
    assert sorted(p.name for p in folder.iterdir()) == [f"{BLOB}.map", f"{BLOB}.part", "kept"]
    FileBlockStore(folder / "absent").sweep()


@given(
    st.integers(1, 12 * BLOCK_BYTES),
    st.randoms(use_true_random=False),
    st.integers(0, 12),
    st.data(),
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_order_and_wherever_it_ends_it_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    rng: random.Random,
    lives: int,
    data: st.DataObject,
) -> None:
    blob_data = blob_of(size)
    pieces = sliced(blob_data)
    blob = hashlib.sha256(blob_data).hexdigest()
    listed = [hashlib.sha256(p).hexdigest() for p in pieces] if len(pieces) > 1 else []
    store = FileBlockStore(tmp_path_factory.mktemp("d"))
    flushed: set[int] = set()
    for _ in range(lives):
        download = store.begin(blob, size, listed)
        here = set(download.here())
        assert here >= flushed
        order = [b for b in range(len(pieces)) if b not in here]
        rng.shuffle(order)
        for block in order[: data.draw(st.integers(0, len(order)))]:
            assert download.put(block, pieces[block])
            here.add(block)
        if data.draw(st.booleans()):
            download.flush()
            flushed = here
        download.close()
    download = store.begin(blob, size, listed)
    for block in {*range(len(pieces))} - set(download.here()):
        download.put(block, pieces[block])
    assert download.finish().read_bytes() == blob_data
    download.close()


CALLS = ["posix_fallocate", "ftruncate", "pwrite", "fdatasync", "fsync", "replace", "open"]


class Refusals:
    """Lets the call of that number fail, whichever of `CALLS` it is."""

    def __init__(self, number: int, why: int) -> None:
        self.count = 0
        self.number = number
        self.why = why

    @property
    def happened(self) -> bool:
        return self.count >= self.number

    def of(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            self.count += 1
            if self.count == self.number:
                raise OSError(self.why, os.strerror(self.why))
            return real(*args, **more)

        return call


@pytest.mark.parametrize(
    ("why", "told"), [(errno.ENOSPC, DiskFullError), (errno.EIO, SlotsUnavailableError)]
)
def test_a_disk_that_refuses_at_any_call_is_told_and_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, why: int, told: type[Exception]
) -> None:
    """Enumerated: the call of number N fails, until none is left to fail."""
    monkeypatch.setattr(blocks, "FLUSH_BYTES", 2 * BLOCK_BYTES)
    whole = folder.parent / "whole"
    store = FileBlockStore(folder)
    for number in itertools.count(1):
        refusals = Refusals(number, why)
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, refusals.of(getattr(os, name)))
            with contextlib.suppress(told):
                put_all(store, COUNT, to=whole)
                # A move whose flush failed may have come about: then that is all there is to it.
                assert not refusals.happened
                break
        put_all(store, COUNT, to=whole)
        assert whole.read_bytes() == blob_of(COUNT * BLOCK_BYTES - 5)
        assert list(folder.iterdir()) == []
        whole.unlink()
    assert number > 20


WRITES = ["fdatasync"]
OTHERS = ["pwrite64", "fsync", "ftruncate", "fallocate", "rename", "unlink", "write", "mkdir"]


@pytest.mark.parametrize("call", WRITES + [pytest.param(c, marks=pytest.mark.slow) for c in OTHERS])
def test_kill_9_at_any_call_that_writes_keeps_what_was_flushed(tmp_path: Path, call: str) -> None:
    """Enumerated by strace: the system call of number N is the process's last."""
    folder, whole = tmp_path / "download", tmp_path / "whole"
    for number in itertools.count(1):
        argv = [
            *("strace", "-f", "-qq", "-o", "/dev/null"),
            *("-e", f"inject={call}:signal=KILL:when={number}"),
            *(sys.executable, "-B", "-m", "tests.adapters.put_blocks", str(folder), str(whole)),
        ]
        try:
            done = subprocess.run(argv, check=False, capture_output=True, cwd=ROOT, timeout=60)
        except FileNotFoundError:
            pytest.skip("no strace")
        if b"ptrace" in done.stderr.lower():
            pytest.skip("strace may not trace here")
        _check_bits(folder)
        store = FileBlockStore(folder)
        put_all(store, COUNT, to=whole)
        store.sweep()
        assert whole.read_bytes() == blob_of(COUNT * BLOCK_BYTES - 5)
        assert list(folder.iterdir()) == []
        whole.unlink()
        folder.rmdir()
        if done.returncode == 0:
            break
        assert done.returncode in {-9, 137}, done.stderr
    assert number > 1


def _check_bits(folder: Path) -> None:
    """What counts as here is here, byte for byte: looked at without the store's help."""
    data = blob_of(COUNT * BLOCK_BYTES - 5)
    blob = hashlib.sha256(data).hexdigest()
    part, map_ = folder / f"{blob}.part", folder / f"{blob}.map"
    if not (part.exists() and map_.exists()):
        return
    bits = map_.read_bytes()[60:]
    for block, piece in enumerate(sliced(data)):
        if bits[block // 8] >> block % 8 & 1:
            assert part.read_bytes()[block * BLOCK_BYTES :][: len(piece)] == piece


def test_blocks_are_put_in_an_order_that_is_not_theirs() -> None:
    assert order_of(COUNT) != sorted(order_of(COUNT))
