"""The updater's directory: one owner, readable by the group, and never without its bundles."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgeslm.adapters.slot_store import (
    FileSlotStore,
    ReadOnlySlots,
    SlotsInvalidError,
    make_folder,
)
from edgeslm.contract.slots import Bad, ModelSlots, Slot, SlotTable
from edgeslm.core.slots import candidates, slots_of
from edgeslm.ports import DiskFullError, SlotsUnavailableError, UpdaterRunningError

ONE = Slot(bundle="1" * 64, version=1, whole=True)
TWO = Slot(bundle="2" * 64, version=2, whole=True)
TABLE = SlotTable(models={"press": ModelSlots(active="b", a=ONE, b=TWO)})


def verify(folder: Path) -> Slot | None:
    """Take a manifest that has one digit for a bundle's."""
    try:
        number = int((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return None
    return Slot(bundle=str(number) * 64, version=number, whole=True)


def nothing(_: Path) -> Slot | None:
    pytest.fail("a table that can be read is taken as it is")


def put(directory: Path, model: str, name: str, text: str, *, at: float) -> None:
    folder = directory / "bundles" / model / name
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    os.utime(folder / "manifest.json", (at, at))


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0)
    os.umask(before)
    yield lambda value: (os.umask(value), None)[1]
    os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o027])
def test_the_group_may_read_and_nobody_else_whatever_the_umask(
    mask: int, umask: Callable[[int], None], tmp_path: Path
) -> None:
    umask(mask)
    directory = tmp_path / "update"
    with closing(FileSlotStore(directory, verify)) as store:
        store.write(TABLE)
        folder = store.empty("valve", "a")
    for path in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert stat.S_IMODE((directory / "slots.json").stat().st_mode) == 0o640
    # Whoever could open the lock could keep an updater out.
    assert stat.S_IMODE((directory / "lock").stat().st_mode) == 0o600 & ~mask


def test_a_folder_keeps_the_group_it_inherits(umask: Callable[[int], None], tmp_path: Path) -> None:
    umask(0o077)
    tmp_path.chmod(0o2750)
    make_folder(tmp_path / "a" / "b")
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o2750
    make_folder(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_a_second_updater_is_refused_and_told_where(tmp_path: Path) -> None:
    with closing(FileSlotStore(tmp_path, verify)):
        with pytest.raises(UpdaterRunningError, match=str(tmp_path)):
            FileSlotStore(tmp_path, verify)
        code = (
            "import sys; from pathlib import Path\n"
            "from edgeslm.adapters.slot_store import FileSlotStore\n"
            "FileSlotStore(Path(sys.argv[1]), lambda _: None)"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=False, capture_output=True
        )
        assert b"UpdaterRunningError" in other.stderr
    FileSlotStore(tmp_path, verify).close()


def test_the_table_is_there_after_the_next_start(tmp_path: Path) -> None:
    with closing(FileSlotStore(tmp_path, verify)) as store:
        store.write(TABLE)
    with closing(FileSlotStore(tmp_path, nothing)) as store:
        assert store.read() == TABLE
        assert store.damaged is None
    assert ReadOnlySlots(tmp_path, nothing).read() == TABLE
    assert ReadOnlySlots(tmp_path).folder("press", "a") == tmp_path / "bundles" / "press" / "a"


DAMAGED = [
    b"",
    b"\0" * 512,
    b"{",
    TABLE.model_dump_json().encode()[:-20],
    b'{"schema_version": 2}',
    b'{"models": {"press": {"active": "a"}}}',
    b'{"operation": {"model": "press", "seq": 1, "phase": "trial", "slot": "a"}}',
    b'{"models": ' + b"[" * 100_000,
]


@pytest.mark.parametrize("raw", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_table_is_set_aside_and_made_anew_from_the_bundles(
    raw: bytes, tmp_path: Path
) -> None:
    (tmp_path / "slots.json").write_bytes(raw)
    put(tmp_path, "press", "a", "1", at=100)
    put(tmp_path, "press", "b", "2", at=200)
    put(tmp_path, "valve", "a", "no bundle", at=100)
    put(tmp_path, "valve", "b", "3", at=100)
    put(tmp_path, "fan", "a", "no bundle", at=100)
    put(tmp_path, ".fan", "a", "4", at=100)

    reader = ReadOnlySlots(tmp_path, verify)
    with pytest.raises(SlotsInvalidError):
        ReadOnlySlots(tmp_path).read()
    anew = reader.read()
    assert {name: candidates(held) for name, held in anew.models.items()} == {
        "press": ("a", "b"),
        "valve": ("b",),
    }
    assert (tmp_path / "slots.json").read_bytes() == raw, "an agent changes nothing"

    with closing(FileSlotStore(tmp_path, verify)) as store:
        assert isinstance(store.damaged, SlotsInvalidError)
        assert str(tmp_path / "slots.json") in str(store.damaged)
        assert store.read() == anew
    assert (tmp_path / "slots.json.damaged").read_bytes() == raw
    with closing(FileSlotStore(tmp_path, nothing)) as store:
        assert store.read() == anew


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "huge"])
def test_what_is_no_file_is_no_table(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "slots.json"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "loop":
        file.symlink_to(file)
    else:
        monkeypatch.setattr("edgeslm.adapters.slot_store.MAX_TABLE_BYTES", 10)
        file.write_bytes(b" " * 11)
    put(tmp_path, "press", "a", "1", at=100)
    with closing(FileSlotStore(tmp_path, verify)) as store:
        assert store.damaged is not None
        assert slots_of(store.read(), "press").active == "a"


def test_a_lost_table_is_made_anew_too(tmp_path: Path) -> None:
    put(tmp_path, "press", "b", "2", at=100)
    assert candidates(slots_of(ReadOnlySlots(tmp_path, verify).read(), "press")) == ("b",)
    assert ReadOnlySlots(tmp_path).read() == SlotTable()
    with closing(FileSlotStore(tmp_path, verify)) as store:
        assert store.damaged is None
        assert candidates(slots_of(store.read(), "press")) == ("b",)


def test_what_killed_processes_left_is_removed_at_the_start(tmp_path: Path) -> None:
    with closing(FileSlotStore(tmp_path, verify)) as store:
        store.write(TABLE)
        kept = store.folder("press", "a")
    kept.mkdir(parents=True)
    (kept / "file").touch()
    left = [tmp_path / ".slots.json.abc", kept.parent / ".b.gone"]
    left[0].touch()
    left[1].mkdir()
    (left[1] / "model.onnx").touch()
    FileSlotStore(tmp_path, nothing).close()
    assert not any(path.exists() for path in left)
    assert (kept / "file").exists()


def test_a_slot_is_renamed_away_before_it_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a process killed on the way leaves none that is half there."""
    with closing(FileSlotStore(tmp_path, verify)) as store:
        (store.empty("press", "a") / "file").touch()

        def dies(path: Path) -> None:
            raise KeyboardInterrupt(path)

        with monkeypatch.context() as patched:
            patched.setattr("edgeslm.adapters.slot_store.shutil.rmtree", dies)
            with pytest.raises(KeyboardInterrupt):
                store.empty("press", "a")
        assert not store.folder("press", "a").exists()
        (tmp_path / "bundles" / "press" / "a").mkdir()
        (tmp_path / "bundles" / "press" / "a" / "other").touch()
        assert list(store.empty("press", "a").iterdir()) == []
        assert os.listdir(tmp_path / "bundles" / "press") == ["a"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EROFS, None)],
)
def test_a_disk_that_refuses_is_told_apart_and_the_table_stays(
    number: int,
    expected: type[Exception] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with closing(FileSlotStore(tmp_path, verify)) as store:
        store.write(TABLE)
        for step in ("fsync", "replace"):
            with monkeypatch.context() as patched:
                patched.setattr(os, step, refuse)
                with pytest.raises(expected or SlotsUnavailableError):
                    store.write(SlotTable())
            assert store.read() == TABLE
        with monkeypatch.context() as patched:
            patched.setattr(os, "mkdir", refuse)
            with pytest.raises(expected or SlotsUnavailableError):
                store.empty("valve", "a")
        store.write(SlotTable())


def test_after_a_write_that_failed_what_is_on_disk_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with closing(FileSlotStore(tmp_path, verify)) as store:
        with monkeypatch.context() as patched:
            patched.setattr("edgeslm.adapters.fs.flush_folder", refuse)
            with pytest.raises(SlotsUnavailableError, match="Input/output"):
                store.write(TABLE)
        assert store.read() == TABLE, "the rename had been done"


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_a_directory_that_cannot_be_made_is_a_typed_error(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SlotsUnavailableError, match="file"):
        FileSlotStore(tmp_path / where, verify)


def test_a_table_with_all_that_it_can_hold_is_still_read(tmp_path: Path) -> None:
    bad = tuple(
        Bad(hash=f"{n:064x}", version=n, error={"code": "trial.errors", "message": "\u00a4" * 300})
        for n in range(1, 33)
    )
    table = SlotTable(models={f"m{n}": ModelSlots(bad=bad) for n in range(100)}, bad_config=bad)
    with closing(FileSlotStore(tmp_path, verify)) as store:
        store.write(table)
    assert ReadOnlySlots(tmp_path).read() == table
