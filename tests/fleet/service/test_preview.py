"""What a roll-out would do is told before it starts, with a list of what stands in its way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Engine

from edgeslm.contract.fleet import BundleOffer, OfferedVariant
from edgeslm.contract.manifest import Requirements
from edgeslm.core.filters import FilterError
from edgeslm.fleet.database import audit, registry, rollouts
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import RolloutOverlapError
from edgeslm.fleet.errors import UnknownModelError
from edgeslm.fleet.service.preview import (
    ExpiredError,
    NothingMatchesError,
    Preview,
    UnfitError,
    preview,
)
from edgeslm.fleet.service.starting import start
from tests.fleet.service.kit import FEATURES, MODEL, PROFILE, plan

WE = audit.Actor("test", "cli")


class Shelf:
    """Implements `Catalogue`: version 2 for one provider on x86-64, version 3 for a machine."""

    def __init__(self) -> None:
        self.old: Sequence[str] = ()

    def offers(self, model: str) -> Sequence[BundleOffer]:
        if model != MODEL:
            return []
        cpu = OfferedVariant(provider="cpu", requires=Requirements(arch="x86_64"))
        npu = OfferedVariant(provider="qnn", requires=Requirements(arch="aarch64"))
        return [_offer(2, cpu), _offer(3, npu)]

    def expired(self, model: str) -> Sequence[str]:
        del model
        return self.old


def _offer(version: int, variant: OfferedVariant) -> BundleOffer:
    return BundleOffer(
        model=MODEL,
        version=version,
        bundle="0" * 64,
        task="intent",
        profiles=(PROFILE,),
        variants=(variant,),
        size=1,
    )


def register(engine: Engine, name: str, **platform: Any) -> None:
    whole = {"arch": "x86_64", "cpu_features": FEATURES, "socs": [], "profile": PROFILE}
    update: dict[str, Any] = {
        "schema": 1,
        "device": name,
        "time": 1.0,
        "updater_version": "1",
        "phase": "idle",
        "seq": 0,
        "config_seq": 0,
        "models": [{"name": MODEL, "version": 1}],
        "platform": {**whole, "providers": ["cpu"], **platform},
    }
    state = {"schema": 1, "device": name, "time": 1.0, "profile": PROFILE, "models": []}
    with engine.begin() as conn:
        registry.heard(conn, [registry.Heard(name, "update", update, time.time())])
        registry.heard(conn, [registry.Heard(name, "state", state, time.time())])


def look(engine: Engine, shelf: Shelf | None = None, **more: Any) -> Preview:
    with reading(engine) as conn:
        return preview(conn, shelf or Shelf(), plan(**more), time.time())


def test_it_says_how_many_of_which_type_move_when(database: Engine) -> None:
    for number in range(10):
        register(database, f"dev-{number}")
    found = look(database, waves=["10%", "50%", "100%"])
    assert found.sizes() == [{PROFILE: 1}, {PROFILE: 4}, {PROFILE: 5}]
    assert not found.unfit
    assert not found.busy
    assert len(found.targets(1.0)) == 10


def test_devices_without_an_artifact_are_listed_and_refused(database: Engine) -> None:
    register(database, "dev-1")
    register(database, "dev-2", arch="aarch64", providers=["qnn"])
    found = look(database)
    assert list(found.unfit) == ["dev-2"]
    with pytest.raises(UnfitError, match=r"1 device cannot run it: dev-2: .*one of this profile's"):
        found.targets(1.0)
    assert list(look(database, version=3).unfit) == ["dev-1"]


def test_devices_of_another_rollout_are_listed_and_refused(database: Engine) -> None:
    for name in ("dev-1", "dev-2"):
        register(database, name)
    number = start(database, Shelf(), plan(where="id = dev-1"), WE, now=1.0)
    found = look(database)
    assert found.busy == {"dev-1": number}
    with pytest.raises(RolloutOverlapError, match="dev-1"):
        start(database, Shelf(), plan(), WE, now=1.0)
    start(database, Shelf(), plan(where="id = dev-2"), WE, now=1.0)
    with reading(database) as conn:
        assert [each.id for each in rollouts.active(conn)] == [1, 2]
        assert [each.what for each in audit.entries(conn)] == ["rollout.started"] * 2


def test_what_cannot_be_is_told_by_its_own_error(database: Engine) -> None:
    register(database, "dev-1")
    for error, more in (
        (NothingMatchesError, {"where": "id = nobody"}),
        (FilterError, {"where": "id ="}),
        (UnknownModelError, {"version": 9}),
        (UnknownModelError, {"model": "other"}),
    ):
        with pytest.raises(error):
            look(database, **more)
    shelf = Shelf()
    shelf.old = ["targets"]
    with pytest.raises(ExpiredError, match="fleet keys renew targets"):
        look(database, shelf)


def test_an_updater_that_does_not_say_what_it_is_is_judged_by_its_profile(
    database: Engine,
) -> None:
    now = time.time()
    state = {"schema": 1, "device": "old", "time": 1.0, "profile": PROFILE, "models": []}
    update = {"schema": 1, "device": "old", "time": 1.0, "seq": 0, "phase": "idle", "models": []}
    with database.begin() as conn:
        registry.heard(conn, [registry.Heard("old", "state", state, now)])
        registry.heard(conn, [registry.Heard("old", "update", update, now)])
    assert not look(database).unfit
    assert list(look(database, version=3).unfit) == ["old"]
    with database.begin() as conn:
        status = {"schema": 1, "device": "mute", "online": True, "reason": "running"}
        registry.heard(conn, [registry.Heard("mute", "status", status, now)])
    assert list(look(database).unfit) == ["mute"]
