"""A repository is made once, kept fresh by online keys alone, and whole whenever it is killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from tuf.api.metadata import Metadata, Root

import edgeslm.fleet.keys as keys_module
import edgeslm.fleet.models as models_module
import edgeslm.fleet.store as store_module
from edgeslm.adapters.tuf import Trust
from edgeslm.contract.fleet import TIME_KEYS, Keys
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet import director
from edgeslm.fleet.config import FleetConfig
from edgeslm.fleet.errors import (
    FleetBusyError,
    FleetConfigError,
    FleetDamagedError,
    FleetDiskError,
    FleetExistsError,
    FleetMissingError,
    KeyMissingError,
    KeyUnusedError,
)
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from tests.fleet import kit
from tests.fleet.kit import replace_key

DEVICE = "d1"
WRITERS = (store_module, keys_module, models_module)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return kit.make(tmp_path / "fleet")


def opened(folder: Path, clock: kit.Clock | None = None) -> Repository:
    return Repository(folder, kit.passphrases(), clock or kit.Clock())


def versions(
    repository: Repository, folder: Path, flashed: bytes, model: str = "press"
) -> set[int]:
    """What a device finds there: one that knew what `folder` holds, or a new one."""
    trust = Trust(folder, flashed, kit.Shelf(kit.published(repository)))
    trust.walk_roots()
    trust.refresh(repository.now())
    return {offer.bundle.version for offer in trust.offers(model)}


def test_it_begins_as_the_plan_says(repository: Repository) -> None:
    root = Metadata[Root].from_bytes(repository.export_root()).signed
    assert isinstance(root, Root)
    assert (root.version, root.consistent_snapshot) == (1, True)
    assert (len(root.roles["root"].keyids), root.roles["root"].threshold) == (3, 2)
    assert Keys.model_validate(root.unrecognized_fields[TIME_KEYS]).threshold == 1
    assert repository.store.current() == [
        *("1.root.json", "1.targets.json", "1.snapshot.json", "timestamp.json")
    ]
    assert len(repository.store.published().director().keys) == 1
    for raw in kit.published(repository).values():
        assert raw == json.dumps(json.loads(raw), separators=(",", ":"), sort_keys=True).encode()
    days = {name: round(left, 1) for name, left in repository.lifetimes().items()}
    assert days == {"root": 365, "targets": 365, "snapshot": 7, "timestamp": 1}
    assert repository.store.index().root == 1


def test_private_keys_are_readable_for_their_owner_alone(repository: Repository) -> None:
    for path in (repository.folder / "keys").glob("*.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()


@pytest.mark.parametrize("left", ["fleet.toml", "keys/root-1.pem", "metadata/1.root.json"])
def test_none_is_made_where_there_is_one_or_part_of_one(left: str, tmp_path: Path) -> None:
    file = tmp_path / "fleet" / left
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    with pytest.raises(FleetExistsError, match="is there already"):
        kit.make(tmp_path / "fleet")
    assert file.read_bytes() == b"x"


def test_refresh_needs_the_online_keys_alone_and_signs_what_is_due(tmp_path: Path) -> None:
    clock = kit.Clock()
    repository = kit.make(tmp_path / "fleet", clock)
    for name in ("root-1", "root-2", "root-3", "targets"):
        (tmp_path / "fleet" / "keys" / f"{name}.pem").unlink()
    repository = opened(tmp_path / "fleet", clock)
    assert not repository.refresh()
    clock.pass_days(0.6)
    assert repository.refresh()
    assert repository.store.current()[-2:] == ["1.snapshot.json", "timestamp.json"]
    clock.pass_days(3)
    assert repository.refresh()
    assert repository.store.current()[-2:] == ["2.snapshot.json", "timestamp.json"]
    assert not repository.refresh()
    assert repository.refresh(force=True)


def test_old_metadata_go_and_roots_stay(tmp_path: Path) -> None:
    repository = kit.make(tmp_path / "fleet")
    for _ in range(5):
        repository.refresh(force=True)
    replace_key(repository, "root-1")
    names = {path.name for path in (tmp_path / "fleet" / "metadata").iterdir()}
    assert names == {
        *("1.root.json", "2.root.json", "1.targets.json", "timestamp.json"),
        *("5.snapshot.json", "6.snapshot.json"),
    }


def test_what_expires_is_renewed(tmp_path: Path) -> None:
    clock = kit.Clock()
    repository = kit.make(tmp_path / "fleet", clock)
    add(repository, [kit.bundle(tmp_path / "b")], Stated())
    flashed = repository.export_root()
    clock.pass_days(360)
    repository.renew(["root", "targets", "model-press"])
    assert min(repository.lifetimes().values()) > 0.9
    assert repository.lifetimes()["model-press"] == 365
    clock.pass_days(300)
    repository.refresh()
    assert versions(repository, tmp_path / "d", flashed) == {1}


def test_a_gap_in_the_chain_of_roots_is_seen(repository: Repository) -> None:
    replace_key(repository, "root-1")
    replace_key(repository, "root-2")
    (repository.folder / "metadata" / "2.root.json").unlink()
    with pytest.raises(FleetMissingError, match=r"2\.root\.json: it is missing"):
        repository.refresh(force=True)


def test_a_second_writer_waits_and_then_says_so(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOCK_WAIT_S", 0.2)
    with (repository.folder / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(FleetBusyError, match="another command"):
            repository.refresh(force=True)
    assert repository.refresh(force=True)


def test_a_second_process_waits_for_the_first(repository: Repository) -> None:
    code = (
        "import sys, time; from pathlib import Path; from edgeslm.fleet.store import Store\n"
        "with Store(Path(sys.argv[1])).locked():\n print('held', flush=True); time.sleep(0.5)"
    )
    argv = [sys.executable, "-c", code, str(repository.folder)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        assert repository.refresh(force=True)
        assert first.wait() == 0


@pytest.mark.parametrize(
    ("file", "raw", "error"),
    [
        ("fleet.toml", None, FleetMissingError),
        ("fleet.toml", b"days = 1\n", FleetConfigError),
        ("fleet.toml", b"[days]\nroot = 0\n", FleetConfigError),
        ("fleet.toml", b"unknown = 1\n", FleetConfigError),
        ("fleet.toml", b"\xff", FleetConfigError),
        ("metadata/timestamp.json", None, FleetMissingError),
        ("metadata/timestamp.json", b"{}", FleetDamagedError),
        ("metadata/1.snapshot.json", b"", FleetDamagedError),
        ("metadata/1.root.json", None, FleetMissingError),
        ("keys/root-1.json", b"{}", FleetDamagedError),
        ("keys/timestamp.pem", None, KeyMissingError),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    file: str, raw: bytes | None, error: type[EdgeSLMError], repository: Repository
) -> None:
    path = repository.folder / file
    path.unlink() if raw is None else path.write_bytes(raw)
    with pytest.raises(error) as caught:
        opened(repository.folder).refresh(force=True)
    assert str(path) in str(caught.value) or path.name in str(caught.value)


def test_a_full_disk_changes_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    was = kit.published(repository)

    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    bundle = kit.bundle(tmp_path / "b")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(FleetDiskError, match="No space left"):
        add(repository, [bundle], Stated())
    monkeypatch.undo()
    assert kit.published(repository) == was
    assert len(add(repository, [bundle], Stated())) == 1


class KilledError(BaseException):
    """As by SIGKILL: nothing that follows is done."""


def kills(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[bool]:
    """Do `act` killed before its first durable write, then its second, ...; yield after each.

    Yields:
        Whether it came to its end.
    """
    reals = {module: module.write_durably for module in WRITERS}
    count = 0
    while True:
        left = [count]

        def live(*_: object, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1

        def write(*args: Any, live: Callable[[], None] = live, **more: Any) -> None:
            live()
            reals[store_module](*args, **more)

        for module in WRITERS:
            monkeypatch.setattr(module, "write_durably", write)
        event.listen(Engine, "commit", live)
        try:
            act()
            done = True
        except KilledError:
            done = False
        event.remove(Engine, "commit", live)
        for module, real in reals.items():
            monkeypatch.setattr(module, "write_durably", real)
        yield done
        if done:
            return
        count += 1


def make_press(folder: Path) -> tuple[Repository, bytes]:
    """A repository with one version, one device that knows it, and a bundle of the next."""
    repository = kit.make(folder / "fleet")
    add(repository, [kit.bundle(folder / "b1")], Stated())
    kit.assign(repository, DEVICE, director.Wish(models={"press": 1}))
    flashed = repository.export_root()
    versions(repository, folder / "device", flashed)
    kit.bundle(folder / "b2", version=2)
    kit.bundle(folder / "v1", name="valve")
    return repository, flashed


def replacing(key: str, how: Any) -> Callable[[Repository, Path], object]:
    return lambda repository, _: replace_key(repository, key, how=how)


HOW = ("rotate", "revoke")
KEYS = ("root-2", "targets", "snapshot", "timestamp", "model-press", "director", "time")
# Much like others of them, and longer.
SLOW = {f"{how} {key}" for how in HOW for key in ("targets", "snapshot", "time")}
COMMANDS: dict[str, Callable[[Repository, Path], object]] = {
    "add a version": lambda r, folder: add(r, [folder / "b2"], Stated()),
    "add a model": lambda r, folder: add(r, [folder / "v1"], Stated()),
    "assign": lambda r, _: kit.assign(r, DEVICE, director.Wish(models={"press": None})),
    "refresh": lambda r, _: r.refresh(force=True),
    "renew": lambda r, _: r.renew(["root", "targets", "model-press"]),
    **{f"{how} {key}": replacing(key, how) for how in HOW for key in KEYS},
}
# The old key is in other hands: what it signed may be refused until the next command.
INTERRUPTED = {"revoke targets", "revoke snapshot", "revoke timestamp", "revoke director"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in COMMANDS],
)
def test_killed_at_any_write_it_is_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, flashed = make_press(tmp_path)
    folder = tmp_path / "killed"

    def act() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(repository.folder, folder)
        COMMANDS[name](opened(folder), tmp_path)

    for number, done in enumerate(kills(monkeypatch, act)):
        left = opened(folder)
        device = tmp_path / f"device-{number}"
        shutil.copytree(tmp_path / "device", device)
        if name in INTERRUPTED and not done:
            left.refresh()
            with contextlib.suppress(KeyUnusedError):
                COMMANDS[name](left, tmp_path)
            if name == "revoke targets":
                left.renew(["targets"])
        assert 1 in versions(left, device, flashed)
        trust = Trust(device, flashed, kit.Shelf(kit.published(left)))
        trust.walk_roots()
        trust.refresh(left.now())
        raw = kit.envelope(left, DEVICE)
        assert raw is not None
        assert trust.assignment(raw, device=DEVICE, now=left.now()).seq >= 1
        # And the next command works, whatever was left behind.
        add(left, [tmp_path / "b2"], Stated())
        assert versions(left, device, flashed) == {1, 2}


def test_the_topic_root_is_the_owners(tmp_path: Path) -> None:
    config = FleetConfig(topic_root="plant/a", online_passphrase_file="pass")  # noqa: S106
    (tmp_path / "pass").write_text("another passphrase\n")
    folder = tmp_path / "fleet"
    with pytest.raises(EdgeSLMError, match="pass: No such file"):  # relative: to the repository
        kit.make(folder, config=config)
    shutil.rmtree(folder)
    config = FleetConfig(topic_root="plant/a", online_passphrase_file=str(tmp_path / "pass"))
    kit.make(folder, config=config)
    again = opened(folder)
    assert again.config.topic_root == "plant/a"
    assert again.refresh(force=True)
