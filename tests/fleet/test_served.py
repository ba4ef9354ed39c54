"""A real repository behind the server's port: consistent whatever other commands do meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from edgeslm.adapters.dsse import read_envelope
from edgeslm.contract.fleet import TIME, TimeReply
from edgeslm.fleet.director import Wish, assign
from edgeslm.fleet.errors import FleetBusyError
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.served import ServedRepository
from tests.fleet import kit


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return kit.make(tmp_path / "fleet")


@pytest.fixture
def engine(repository: Repository) -> Iterator[Engine]:
    with kit.database(repository) as opened:
        yield opened


def test_all_that_devices_need_in_order(
    repository: Repository, engine: Engine, tmp_path: Path
) -> None:
    served = ServedRepository(repository, engine)
    before = served.stamp()
    add(repository, [kit.bundle(tmp_path / "b")], Stated())
    assign(repository, engine, "dev", Wish(models={"press": None}))
    assert served.stamp() != before
    found = served.publications()
    assert list(found.files) == [
        "1.root.json",
        "1.model-press.json",
        "2.targets.json",
        "2.snapshot.json",
        "timestamp.json",
    ]
    assert found.index.files == tuple(found.files)
    assert dict(found.files) == kit.published(repository)
    assert list(found.assignments) == ["dev"]
    assert json.loads(found.assignments["dev"])["payloadType"]
    assert all((served.blobs / path.name).is_file() for path in served.blobs.iterdir())


def test_what_changes_is_seen_and_what_does_not_is_not(
    repository: Repository, engine: Engine
) -> None:
    served = ServedRepository(repository, engine)
    served.publications()
    stamp = served.stamp()
    served.publications()
    assert served.stamp() == stamp
    assert not served.refresh()
    assert served.stamp() == stamp
    repository.refresh(force=True)
    assert served.stamp() != stamp
    stamp = served.stamp()
    assign(repository, engine, "dev", Wish())
    assert served.stamp() != stamp


def test_a_time_is_signed(repository: Repository, engine: Engine) -> None:
    nonce = "0123456789abcdef" * 2
    raw = ServedRepository(repository, engine).sign_time("dev", nonce, kit.START)
    envelope = read_envelope(raw, kind=TIME)
    reply = TimeReply.model_validate_json(envelope.payload)
    assert (reply.device, reply.nonce, reply.time) == ("dev", nonce, kit.START)


def test_metadata_that_change_between_two_looks_are_looked_at_again(
    repository: Repository, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedRepository(repository, engine)
    another = Repository(repository.folder, kit.passphrases(), kit.Clock())
    real, left = repository.store.current, [2]

    def current() -> list[str]:
        if left[0]:
            left[0] -= 1
            another.refresh(force=True)
        return real()

    monkeypatch.setattr(repository.store, "current", current)
    files = served.publications().files
    assert "3.snapshot.json" in files
    assert dict(files) == kit.published(repository)
    left[0] = 10_000
    with pytest.raises(FleetBusyError):
        served.publications()
