"""What goes wrong with simulated devices, and what the fleet's service makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from edgeslm.core.rollout import DeviceState, State
from edgeslm.fleet.database import registry
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.schema import evidence
from edgeslm.fleet.repository import Repository
from edgeslm.simulate.report import Record
from tests.fleet.service import kit
from tests.simulate import play as playing
from tests.simulate.conftest import Play

pytestmark = pytest.mark.broker
FAULTY: dict[str, dict[str, Any]] = {
    "dying-once": {"fault": "dying", "deaths": 1},
    "dying": {"fault": "dying", "deaths": 3},
    "lying": {"fault": "lying"},
    "clock": {"fault": "clock_off", "clock_off_s": -1e9},
    "full": {"fault": "disk_full"},
    "old": {"fault": "old"},
    "slow": {"fault": "slow", "download_s": 0.2},
    "flapping": {"fault": "flapping", "up_s": 1.0, "down_s": 0.5},
}
EACH = 2


def by_group(records: Any, of: Callable[[Record], Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for record in records:
        found.setdefault(record.group, []).append(of(record))
    return found


@pytest.mark.slow
def test_each_fault_comes_to_what_it_should(
    service: kit.Running, play: Play, repository: Repository
) -> None:
    groups = [{"name": name, "count": EACH, **more} for name, more in FAULTY.items()]
    scenario = playing.scenario(group=[{"name": "well", "count": EACH}, *groups])
    count = EACH * (len(FAULTY) + 1)
    played = play(scenario, count)
    kit.registered(service.engine, count)
    old = [name for name, r in played.simulation.records.items() if r.group == "old"]
    with reading(service.engine) as conn:
        rows = [registry.device(conn, name) for name in old]
    for row in rows:
        assert row is not None
        assert row.update is not None
        assert row.state is not None
        assert not row.profile
        assert "platform" not in row.update
        assert "alarms" not in row.state["models"][0]

    where = "not id in ({})".format(", ".join(old))  # nobody knows what an old one could run
    limits = {"failed": "100%", "silent": "100%"}
    wanted = kit.plan(
        waves=["100%"], where=where, canaries_per_type=0, deadline_s=10, limits=limits
    )
    number = kit.start(service.engine, repository, wanted)
    assert kit.ended(service.engine, number) is State.COMPLETED
    targets = kit.targets_of(service.engine, number)
    states = {
        group: {targets[name].state for name in names if name in targets}
        for group, names in _names(played).items()
    }
    well = {DeviceState.SUCCEEDED}
    for group in ("well", "dying-once", "clock", "slow", "flapping"):
        assert states[group] == well, group
    assert states["dying"] == states["lying"] == states["full"] == {DeviceState.FAILED}
    records = played.simulation.records.values()
    refusals = by_group(records, lambda record: {code for code, _ in record.refusals})
    assert refusals["dying"] == [{"trial.unfinished", "update.known_bad"}] * EACH
    assert refusals["full"] == [{"disk.full"}] * EACH
    versions = by_group(records, lambda record: record.version)
    assert versions["lying"] == versions["dying-once"] == [2] * EACH
    assert versions["dying"] == versions["full"] == versions["old"] == [1] * EACH
    assert all(n > 1 for n in by_group(records, lambda r: r.connections)["flapping"])
    assert not any(record.doubled for record in records)


def _names(played: playing.Played) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, record in played.simulation.records.items():
        found.setdefault(record.group, []).append(name)
    return found


def test_results_come_at_the_rate_that_is_asked_for(service: kit.Running, play: Play) -> None:
    play(playing.scenario(results_per_minute=300.0), 4)

    def some() -> bool:
        with reading(service.engine) as conn:
            return len(conn.execute(select(evidence)).all()) > 0

    kit.wait_for(some, "results")
