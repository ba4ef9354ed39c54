"""Wherever a change is cut off, the old bundle or the new one is there; the next run ends it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeslm.adapters.slot_store import ReadOnlySlots
from edgeslm.core.slots import candidates, slot, slots_of
from edgeslm.errors import EXIT_UNAVAILABLE
from edgeslm.runtime.bundle import open_bundle
from tests.kills import Point, kill, need_strace, points, python, refuse, some
from tests.runtime.tiny import write_bundle
from tests.updater.one_change import MODEL, change

Stop = Callable[[list[str], Point], int]
QUICK = 4
OTHER = {"parameters.json": b'["red", "green", "violet"]'}


@dataclass(frozen=True)
class Device:
    """An updater's directory before the change, the bundle it is to have, and where it is cut."""

    root: Path
    old: Path
    new: Path
    every: list[Point]

    def command(self, directory: Path) -> list[str]:
        return python("-m", "tests.updater.one_change", str(directory), str(self.new))

    def fresh(self) -> Path:
        """Return a directory with the old bundle in it, and one before that in the other slot."""
        directory = self.root / "update"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(self.root / "before", directory)
        return directory


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    need_strace()
    root = tmp_path_factory.mktemp("kills")
    oldest = write_bundle(root / "oldest", files={"tokenizer.json": b"{}"})
    old = write_bundle(root / "old", version=2)
    new = write_bundle(root / "new", files=OTHER, version=3)
    for bundle in (oldest, old):
        change(root / "before", bundle)
    made = Device(root, old, new, [])
    directory = made.fresh()
    made.every.extend(points(made.command(directory), directory))
    return made


def holds(device: Device, directory: Path) -> Path:
    """Hold the directory to the promise; return which of the two bundles an agent would load."""
    table = ReadOnlySlots(directory).read()
    folders = [
        (ReadOnlySlots(directory).folder(MODEL, name), slot(slots_of(table, MODEL), name))
        for name in candidates(slots_of(table, MODEL))
    ]
    assert folders, "none is worse than any"
    for folder, held in folders:
        assert held is not None
        open_bundle(folder, expected=held.bundle)
    loaded = open_bundle(folders[0][0]).hash
    hashes = {open_bundle(bundle).hash: bundle for bundle in (device.old, device.new)}
    assert loaded in hashes
    return hashes[loaded]


def cut(device: Device, at: Point, stop: Stop) -> int:
    """Cut a change off at a point, hold what is left to the promise, and end the change."""
    directory = device.fresh()
    status = stop(device.command(directory), at)
    try:
        holds(device, directory)
        change(directory, device.new)
        assert holds(device, directory) == device.new
        assert sorted(path.name for path in (directory / "bundles" / MODEL).iterdir()) == ["a", "b"]
    except BaseException as err:
        err.add_note(f"cut at {at}")
        raise
    return status


def full(command: list[str], at: Point) -> int:
    return refuse(command, at)


def full_for_good(command: list[str], at: Point) -> int:
    return refuse(command, at, for_good=True)


MAY_END: dict[Stop, set[int]] = {
    kill: {-9},
    full: {EXIT_UNAVAILABLE, 0},  # some calls may fail, such as making what is there
    full_for_good: {EXIT_UNAVAILABLE},
}


def test_the_points_are_those_of_the_change(device: Device) -> None:
    """Seven tables, six files, and six more that are removed with the slot they lay in."""
    calls = Counter(point.call for point in device.every)
    assert calls["rename"] == 7 + 1
    assert calls["fsync"] >= 2 * 7 + 6 + 2
    assert calls["write"] >= 7 + 6
    assert calls["unlinkat"] >= 6
    assert calls["mkdir"] >= 1


@pytest.mark.parametrize("stop", MAY_END, ids=lambda stop: stop.__name__)
def test_cut_off_at_some_points(stop: Stop, device: Device) -> None:
    for at in some(device.every, QUICK):
        assert cut(device, at, stop) in MAY_END[stop], at


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stop", MAY_END, ids=lambda stop: stop.__name__)
def test_cut_off_at_every_point(stop: Stop, device: Device) -> None:
    for at in device.every:
        assert cut(device, at, stop) in MAY_END[stop], at
