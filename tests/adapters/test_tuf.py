"""What a device trusts survives power cuts and full disks; what is lost is not taken for 0."""

from __future__ import annotations

import errno
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tuf.ngclient import Updater
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

import edgeslm.adapters.tuf as adapter
from edgeslm.adapters import fs, tuf_client
from edgeslm.adapters.tuf import FLOORS, KEPT, METADATA, Trust
from edgeslm.core.trust import (
    FloorsDamagedError,
    RollbackRefusedError,
    TrustExpiredError,
    TrustUnavailableError,
    decode_floors,
)
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.fleet import director
from edgeslm.ports import TrustedMetadata
from tests.adapters.hostile import DEVICE, NONCE, Fleet, floors, make_fleet, take_time
from tests.fleet import kit


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


def update(fleet: Fleet, trust: Trust) -> set[int]:
    """Go through all of it: roots, time, metadata, offers, assignment."""
    trust.refresh(take_time(fleet.repository, trust, fleet.clock()))
    found = {offer.bundle.version for offer in trust.offers("press")}
    raw = kit.envelope(fleet.repository, DEVICE)
    assert raw is not None
    trust.accept(trust.assignment(raw, device=DEVICE, now=fleet.clock()))
    return found


@pytest.mark.parametrize("first", ["offers", "accept"])
def test_neither_floor_is_lost_to_the_other(fleet: Fleet, tmp_path: Path, first: str) -> None:
    trust = fleet.device(tmp_path / "d")[0]
    trust.refresh(take_time(fleet.repository, trust, fleet.clock()))
    raw = kit.envelope(fleet.repository, DEVICE)
    assert raw is not None
    assignment = trust.assignment(raw, device=DEVICE, now=fleet.clock())
    if first == "accept":
        trust.accept(assignment)
    trust.offers("press")
    if first == "offers":
        trust.accept(assignment)
    kept = decode_floors(floors(tmp_path / "d"))
    assert kept.assignment is not None
    assert kept.assignment.seq == assignment.seq
    assert "model-press" in kept.roles


def test_it_is_the_port(fleet: Fleet, tmp_path: Path) -> None:
    port: TrustedMetadata = fleet.device(tmp_path / "d")[0]
    assert port.walk_roots().threshold == 1


def test_what_is_used_of_tuf_is_there() -> None:
    """Private names, so another version of tuf may lack them: then this test says so."""
    for name in ("_persist_file", "_update_root_symlink", "_load_root", "_load_timestamp"):
        assert name in vars(Updater)
    for name in ("_load_snapshot", "_load_targets"):
        assert name in vars(Updater)
    assert list(inspect.signature(TrustedMetadataSet._add).parameters) == [  # noqa: SLF001
        *("self", "role", "signed", "delegator")
    ]


def test_all_that_is_kept_is_flushed(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    real = fs.write_durably

    def note(path: Path, data: bytes) -> None:
        written.append(path.name)
        real(path, data)

    monkeypatch.setattr(tuf_client, "write_durably", note)
    monkeypatch.setattr(adapter, "write_durably", note)
    folder = tmp_path / "new"
    trust = Trust(folder, fleet.flashed, kit.Shelf(fleet.newest))
    update(fleet, trust)
    there = {path.name for path in folder.rglob("*") if path.is_file()}
    assert there == set(written)
    # What is there already is not written again: flash wears out.
    written.clear()
    trust.walk_roots()
    trust.refresh(fleet.clock())
    trust.offers("press")
    assert written == []


class CutError(BaseException):
    """The power is gone."""


def test_a_power_cut_at_any_write_is_survived(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each write, of a new device and of one that knew an older state."""
    real = fs.write_durably
    for fresh in (True, False):
        cut = 0
        while True:
            folder = tmp_path / f"{fresh}-{cut}"
            if not fresh:
                shutil.copytree(fleet.folder, folder)
            left = [cut]

            def write(path: Path, data: bytes, left: list[int] = left) -> None:
                if left[0] == 0:
                    raise CutError
                real(path, data)
                left[0] -= 1

            monkeypatch.setattr(tuf_client, "write_durably", write)
            monkeypatch.setattr(adapter, "write_durably", write)
            try:
                update(fleet, Trust(folder, fleet.flashed, kit.Shelf(fleet.newest)))
                done = True
            except CutError:
                done = False
            monkeypatch.setattr(tuf_client, "write_durably", real)
            monkeypatch.setattr(adapter, "write_durably", real)
            trust = Trust(folder, fleet.flashed, kit.Shelf(fleet.newest))
            assert update(fleet, trust) == {1, 2, 3}
            assert decode_floors(floors(folder)).assignment is not None
            if done:
                break
            cut += 1
        assert cut >= (8 if fresh else 3)


def test_a_full_disk_is_an_error_and_then_none(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    full = True

    def fsync(fd: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    trust, _ = fleet.device(tmp_path / "d")
    was = floors(tmp_path / "d")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(TrustUnavailableError, match="No space left"):
        update(fleet, trust)
    assert floors(tmp_path / "d") == was
    full = False
    assert update(fleet, trust) == {1, 2, 3}


@pytest.mark.parametrize("left", [b"", b"\0" * 600, b"{}"], ids=["empty", "zeroed", "another"])
def test_damaged_floors_stop_all_installs(left: bytes, fleet: Fleet, tmp_path: Path) -> None:
    shutil.copytree(fleet.folder, tmp_path / "d")
    (tmp_path / "d" / FLOORS).write_bytes(left)
    with pytest.raises(FloorsDamagedError, match=r"damaged\. Nothing is installed"):
        Trust(tmp_path / "d", fleet.flashed, kit.Shelf(fleet.newest))
    assert (tmp_path / "d" / FLOORS).read_bytes() == left


@pytest.mark.parametrize("keeps", [METADATA, KEPT])
def test_lost_floors_are_not_those_of_a_new_device(
    keeps: str, fleet: Fleet, tmp_path: Path
) -> None:
    shutil.copytree(fleet.folder, tmp_path / "d")
    for name in {FLOORS, METADATA, KEPT} - {keeps}:
        path = tmp_path / "d" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FloorsDamagedError, match="it is gone"):
        Trust(tmp_path / "d", fleet.flashed, kit.Shelf(fleet.newest))
    shutil.rmtree(tmp_path / "d")  # as the message says
    trust = Trust(tmp_path / "d", fleet.flashed, kit.Shelf(fleet.newest))
    assert update(fleet, trust) == {1, 2, 3}


def test_a_fetch_that_fails_is_passed_on_and_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    class LinkDownError(UnavailableError):
        code = "link.down"

    trust, shelf = fleet.device(tmp_path / "d")
    was = floors(tmp_path / "d")
    for stop in ("3.root.json", "timestamp.json", "model-press"):

        def fetch(file: str, limit: int, stop: str = stop) -> bytes:
            if stop in file:
                raise LinkDownError(stop)
            return shelf(file, limit)

        broken = Trust(tmp_path / "d", fleet.flashed, fetch)
        with pytest.raises(LinkDownError):  # noqa: PT012 -- at whichever of them it is
            broken.walk_roots()
            broken.refresh(fleet.clock())
            broken.offers("press")
        if stop != "model-press":
            assert floors(tmp_path / "d") == was
    assert update(fleet, trust) == {1, 2, 3}


def test_what_was_passed_already_or_has_expired_says_what_to_do(
    fleet: Fleet, tmp_path: Path
) -> None:
    trust, shelf = fleet.device(tmp_path / "d")
    update(fleet, trust)
    shelf.files = dict(fleet.seen)
    with pytest.raises(RollbackRefusedError, match=r"version .* write a new stick"):
        trust.refresh(fleet.clock())
    shelf.files = dict(fleet.newest)
    with pytest.raises(TrustExpiredError, match="keys renew"):
        trust.refresh(fleet.clock() + 1000 * kit.DAY_S)


def test_a_time_outlives_the_process(fleet: Fleet, tmp_path: Path) -> None:
    trust, shelf = fleet.device(tmp_path / "d")
    later = fleet.clock() + 12_345
    take_time(fleet.repository, trust, later)
    again = Trust(tmp_path / "d", fleet.flashed, shelf)
    assert again.time_floor == later
    with pytest.raises(EdgeSLMError) as caught:
        again.refresh(later - 1000)
    assert caught.value.code == "clock.untrusted"


@pytest.mark.parametrize("now", [-1.0, float("nan"), float("inf"), 1e12], ids=str)
def test_a_time_that_is_none_is_refused(now: float, fleet: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    with pytest.raises(EdgeSLMError) as caught:
        trust.refresh(now)
    assert caught.value.code == "clock.untrusted"


def test_the_device_needs_nothing_that_signs() -> None:
    """Nor what runs models, nor a broker's client."""
    code = "import edgeslm.adapters.tuf, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"onnxruntime", "paho", "tokenizers", "zstandard", "bsdiff4"})
    assert not any(name.startswith("edgeslm.fleet") for name in done.stdout.split())


def test_a_nonce_is_part_of_the_answer(fleet: Fleet, tmp_path: Path) -> None:
    trust, _ = fleet.device(tmp_path / "d")
    signers = director.time_signers(fleet.repository)
    said: dict[str, Any] = {"device": DEVICE, "nonce": NONCE, "now": fleet.clock() + 5}
    raw = director.time_reply(signers, **said)
    assert trust.time_of(raw, device=DEVICE, nonce=NONCE) == fleet.clock() + 5
    for wrong in ({"nonce": "short"}, {"device": "_fleet"}, {"now": -1.0}):
        with pytest.raises(ValueError, match="validation error"):
            director.time_reply(signers, **{**said, **wrong})
