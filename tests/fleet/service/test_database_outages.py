"""PostgreSQL goes away under a leader in the middle of a roll-out: it waits, and carries on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from sqlalchemy import insert, select

from edgeslm.core.rollout import DeviceState, State
from edgeslm.fleet.database import schema
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.service import service as service_module
from tests.databases import Postgresql
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
NAMES: Final = [f"dev-{number:03}" for number in range(20)]
LEASE_S: Final = 3.0  # that a leader still leads without its database
AWAY_S: Final = 4.0
SEAT: Final = "worker-9"  # of a worker that died long ago


@pytest.fixture
def url(postgresql: Postgresql) -> Iterator[str]:
    found = postgresql.new(like=postgresql.fresh)
    yield found
    postgresql.drop(found)


def name_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def kill(postgresql: Postgresql, _url: str) -> Callable[[], None]:
    postgresql.kill()  # as `pg_ctl stop -m immediate`
    return postgresql.start


def refuse(postgresql: Postgresql, url: str) -> Callable[[], None]:
    """The server stays, ends all connections to this database and lets nobody in."""
    name = name_of(url)
    postgresql.say(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    connections = f"pg_stat_activity WHERE datname = '{name}'"
    postgresql.say(f"SELECT pg_terminate_backend(pid) FROM {connections}")  # noqa: S608 -- ours
    return lambda: postgresql.say(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize(
    ("goes", "letting_go"),
    [
        pytest.param(kill, False, id="killed"),
        pytest.param(refuse, False, id="refusing", marks=pytest.mark.slow),
        pytest.param(kill, True, id="killed-letting-go", marks=pytest.mark.slow),
    ],
)
def test_a_leader_waits_for_its_database_and_completes_its_rollout(  # noqa: PLR0913 -- fixtures
    *,
    repository: Repository,
    postgresql: Postgresql,
    url: str,
    mosquitto: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    goes: Callable[[Postgresql, str], Callable[[], None]],
    letting_go: bool,
) -> None:
    caplog.set_level("INFO")
    # Sessions of dead workers are looked for all the time: so, too, while the database is away.
    monkeypatch.setattr(service_module, "ADOPT_S", 0.2)
    monkeypatch.setattr(service_module, "QUIET_S", 3600.0)
    running = kit.Running(repository, url, mosquitto.port, lease_s=LEASE_S)
    played = kit.Devices(mosquitto.port, NAMES)
    try:
        played.say()
        kit.registered(running.engine, len(NAMES))
        if letting_go:
            with running.engine.begin() as conn:
                dead = {"name": SEAT, "holder": "dead", "until": 0.0, "term": 1}
                conn.execute(insert(schema.leases).values(dead))
            kit.wait_for(lambda: "worker_gone" in messages(caplog), "the adoption")
            monkeypatch.setattr(service_module, "ADOPT_S", 6.0)  # not while it is away
            time.sleep(2 * service_module.ARRANGE_S)
        wanted = kit.plan(waves=["10%", "50%", "100%"], soak_s=1, deadline_s=60)
        number = kit.start(running.engine, repository, wanted)
        kit.wait_for(lambda: kit.counted(running.engine, number).get(DeviceState.SUCCEEDED), "one")
        assert kit.state_of(running.engine, number) not in {State.COMPLETED, State.ABORTED}
        come_back = goes(postgresql, url)
        try:
            monkeypatch.setattr(service_module, "QUIET_S", 0.0)
            kit.wait_for(lambda: "adoption_waits" in messages(caplog), "it", within_s=LEASE_S)
            time.sleep(AWAY_S)
        finally:
            come_back()
        assert kit.ended(running.engine, number) is State.COMPLETED
        assert kit.counted(running.engine, number) == {DeviceState.SUCCEEDED: len(NAMES)}
        assert all(played.seqs(name) == [1] for name in NAMES)
        if letting_go:  # what was not let go of is taken in again, and then it is
            kit.wait_for(lambda: SEAT not in seats(running), "the seat's end")
    finally:
        played.close()
        running.stop()
    assert running.ended is True
    assert "thread_failed" not in messages(caplog)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records]


def seats(running: kit.Running) -> list[str]:
    with reading(running.engine) as conn:
        return list(conn.execute(select(schema.leases.c.name)).scalars())
