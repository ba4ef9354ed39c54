"""A stick holds all that a device needs, as a folder or a tar, and is good for longer."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from edgeslm.adapters.tuf import Trust
from edgeslm.contract.fleet import Index
from edgeslm.core.trust import TrustExpiredError
from edgeslm.fleet.database import assignments
from edgeslm.fleet.director import Wish
from edgeslm.fleet.errors import AssignmentRefusedError, RoleExpiredError, StickError
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from tests.fleet import kit
from tests.fleet.kit import assign, write_stick


@pytest.fixture
def clock() -> kit.Clock:
    return kit.Clock()


@pytest.fixture
def repository(tmp_path: Path, clock: kit.Clock) -> Repository:
    made = kit.make(tmp_path / "fleet", clock)
    for version in (1, 2):
        folder = kit.bundle(tmp_path / f"p{version}", version=version, graph=b"%d" % version * 999)
        add(made, [folder], Stated())
    add(made, [kit.bundle(tmp_path / "v", name="valve")], Stated())
    assign(made, "d1", Wish(models={"press": 1}))
    assign(made, "d2", Wish(models={"valve": 1}))
    return made


def read(stick: Path) -> dict[str, bytes]:
    if stick.is_dir():
        files = (path for path in stick.rglob("*") if path.is_file())
        return {path.relative_to(stick).as_posix(): path.read_bytes() for path in files}
    with tarfile.open(stick) as tar:
        assert all(member.isreg() for member in tar)
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def device(files: dict[str, bytes], flashed: bytes, folder: Path) -> Trust:
    names = {name.removeprefix("metadata/"): raw for name, raw in files.items() if "meta" in name}
    return Trust(folder, flashed, kit.Shelf(names))


@pytest.mark.parametrize("name", ["stick", "stick.tar"])
def test_a_device_finds_all_of_it(
    name: str, repository: Repository, clock: kit.Clock, tmp_path: Path
) -> None:
    size = write_stick(repository, tmp_path / name, ["d1"]).size
    files = read(tmp_path / name)
    assert size == sum(map(len, files.values()))
    assert {path.partition("/")[0] for path in files} == {
        *("index.json", "metadata", "assignments", "blobs")
    }
    assert [path for path in files if path.startswith("assign")] == ["assignments/d1.json"]
    index = Index.model_validate_json(files["index.json"])
    assert {f"metadata/{file}" for file in index.files} == {n for n in files if "meta" in n}
    assert index.root == 1
    clock.pass_days(10)
    trust = device(files, repository.export_root(), tmp_path / "d")
    trust.walk_roots()
    trust.refresh(clock())
    assigned = trust.assignment(files["assignments/d1.json"], device="d1", now=clock())
    [offer] = [o for o in trust.offers("press") if o.bundle.version == 1]
    assert assigned.models["press"].version == 1
    listed = trust.blocks(offer, files[f"blobs/{offer.sha256}"])
    # That of its version, and no other.
    assert {f"blobs/{file.sha256}" for file in listed.files} | {f"blobs/{offer.sha256}"} == {
        path for path in files if path.startswith("blobs/")
    }
    clock.pass_days(5)
    with pytest.raises(TrustExpiredError):
        trust.refresh(clock())


def test_what_is_published_goes_on_above_it(
    repository: Repository, clock: kit.Clock, tmp_path: Path
) -> None:
    """A stick's metadata are good for longer, so they are never what a broker has."""
    write_stick(repository, tmp_path / "stick")
    files = read(tmp_path / "stick")
    flashed = repository.export_root()
    trust = device(files, flashed, tmp_path / "d")
    trust.refresh(clock())
    assert repository.lifetimes()["timestamp"] == 1
    trust = Trust(tmp_path / "d", flashed, kit.Shelf(kit.published(repository)))
    trust.refresh(clock())
    on_stick, here = (
        json.loads(raw)["signed"]["version"]
        for raw in (files["metadata/timestamp.json"], repository.store.read("timestamp.json"))
    )
    assert here == on_stick + 1


def test_without_a_device_it_is_for_all(repository: Repository, tmp_path: Path) -> None:
    write_stick(repository, tmp_path / "stick")
    files = read(tmp_path / "stick")
    assert {f"assignments/{name}.json" for name in ("d1", "d2")} <= set(files)
    with kit.database(repository) as engine, engine.begin() as conn:
        assignments.remove(conn, ["d1", "d2"])
    # Without an assignment, the newest of each model.
    write_stick(repository, tmp_path / "newest")
    files = read(tmp_path / "newest")
    assert any(raw == b"2" * 999 for raw in files.values())
    assert not any(raw == b"1" * 999 for raw in files.values())


def test_the_same_stick_is_the_same_tar(repository: Repository, tmp_path: Path) -> None:
    write_stick(repository, tmp_path / "a.tar", ["d1"])
    write_stick(repository, tmp_path / "b.tar", ["d1"])
    a, b = read(tmp_path / "a.tar"), read(tmp_path / "b.tar")
    assert {n: r for n, r in a.items() if "meta" not in n and n != "index.json"} == {
        n: r for n, r in b.items() if "meta" not in n and n != "index.json"
    }
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.uid, m.gid, m.mtime, m.mode) for m in tar} == {(0, 0, 0, 0o644)}


def test_it_says_what_ends_first(repository: Repository, clock: kit.Clock, tmp_path: Path) -> None:
    made = write_stick(repository, tmp_path / "a", ["d1"])
    assert made.days == pytest.approx(14, abs=0.01)
    assign(repository, "d2", Wish(days=9))
    made = write_stick(repository, tmp_path / "b")
    assert made.days == pytest.approx(9, abs=0.01)
    assert made.ends == "the assignment of d2"
    clock.pass_days(360)
    assign(repository, "d1", Wish())
    made = write_stick(repository, tmp_path / "c", ["d1"])
    assert made.days == pytest.approx(5, abs=0.01)
    assert made.ends in {"root", "targets", "model-press", "model-valve"}


def test_what_has_expired_is_put_on_none(
    repository: Repository, clock: kit.Clock, tmp_path: Path
) -> None:
    clock.pass_days(91)
    with pytest.raises(AssignmentRefusedError, match="d1: its assignment has expired"):
        write_stick(repository, tmp_path / "stick", ["d1"])
    assign(repository, "d2", Wish())
    write_stick(repository, tmp_path / "rest")
    assert "assignments/d1.json" not in read(tmp_path / "rest")
    clock.pass_days(275)
    was = kit.published(repository)
    with pytest.raises(RoleExpiredError, match=r"model-press.*keys renew .*model-press"):
        write_stick(repository, tmp_path / "stick")
    assert kit.published(repository) == was
    assert not (tmp_path / "stick").exists()


def test_a_place_that_is_taken_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    was = kit.published(repository)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    (tmp_path / "there.tar").write_text("x")
    for to in ("full", "there.tar"):
        with pytest.raises(StickError, match="there is something already"):
            write_stick(repository, tmp_path / to)
    with pytest.raises(AssignmentRefusedError, match="d9: it has no assignment; have one: d1, d2"):
        write_stick(repository, tmp_path / "stick", ["d9"])
    assert kit.published(repository) == was
    (tmp_path / "empty").mkdir()
    write_stick(repository, tmp_path / "empty")


def test_a_full_stick_is_an_error(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(fd: int) -> None:
        if "/usb" in os.readlink(f"/proc/self/fd/{fd}"):  # noqa: PTH115
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "usb").mkdir()
    for name in ("stick.tar", "stick"):
        with pytest.raises(StickError, match="No space left"):
            write_stick(repository, tmp_path / "usb" / name)
    assert not (tmp_path / "usb" / "stick.tar").exists()
    assert not (tmp_path / "usb" / "stick" / "index.json").exists()
