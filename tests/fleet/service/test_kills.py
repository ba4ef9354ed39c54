"""A worker is killed at each of its database writes of one roll-out: nothing is lost or done twice.

Where statements are in a transaction, a death between them is a rollback; what is to be shown is
that memory, database, broker and devices agree again afterwards, whichever write it was.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import Engine, select, update

from edgeslm.core.rollout import DeviceState, State
from edgeslm.fleet.database import assignments, rollouts
from edgeslm.fleet.database.engine import open_database, reading
from edgeslm.fleet.database.schema import devices as devices_table
from edgeslm.fleet.database.schema import leases
from edgeslm.fleet.repository import Repository
from tests.databases import Postgresql
from tests.fleet.service import kit
from tests.kills import some
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
DEVICES: Final = 20
LEASE_S: Final = 0.5
ROOT: Final = Path(__file__).parents[3]
Points = list[tuple[int, str]]


class Worker:
    """A process of its own."""

    def __init__(self, repository: Repository, url: str, port: int, *ambush: str) -> None:
        script = ["-B", "-m", "tests.fleet.service.worker"]
        argv = [sys.executable, *script, str(repository.folder), url, str(port), str(LEASE_S)]
        self.process = subprocess.Popen([*argv, *ambush], cwd=ROOT)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(10) == 0


@pytest.mark.parametrize(
    "database_url",
    # Of PostgreSQL, test_of_two_workers_the_one_that_leads_is_killed_in_a_rollout.
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)],
    indirect=True,
)
def test_nothing_is_lost_or_done_twice_at_a_few_writes(
    repository: Repository, database_url: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    count = _writes(repository, database_url, mosquitto, tmp_path)
    points = [(number, when) for number in range(1, count + 1) for when in ("before", "after")]
    _killed(repository, database_url, mosquitto, tmp_path, some(points, 6)[2:4])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_nothing_is_lost_or_done_twice_at_any_write(
    repository: Repository, database_url: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    count = _writes(repository, database_url, mosquitto, tmp_path)
    # Batches of messages come as they come: another run may have a few writes more.
    points = [(number, when) for number in range(1, count + 5) for when in ("before", "after")]
    killed = _killed(repository, database_url, mosquitto, tmp_path, points)
    assert killed >= 2 * count - 10
    print(f"{count} writes, {killed} deaths")  # noqa: T201 -- for whoever runs it


def _writes(repository: Repository, url: str, mosquitto: Mosquitto, tmp_path: Path) -> int:
    """Return how many writes a roll-out has that nobody disturbs."""
    file = tmp_path / "counted"
    died = _one(repository, url, mosquitto, (10**9, "before"), file, "counted")
    assert not died
    return len(file.read_text().splitlines())


def _killed(
    repository: Repository, url: str, mosquitto: Mosquitto, tmp_path: Path, points: Points
) -> int:
    died = 0
    for number, when in points:
        name = f"k{number}{when[0]}"
        died += _one(repository, url, mosquitto, (number, when), tmp_path / "writes", name)
    assert died
    return died


def _one(  # noqa: PLR0913, PLR0917 -- of the tests above
    repository: Repository,
    url: str,
    mosquitto: Mosquitto,
    at: tuple[int, str],
    file: Path,
    name: str,
) -> bool:
    """Carry one roll-out out, a worker dying on the way; return whether it did."""
    engine = open_database(url)
    _forget(engine)
    names = [f"{name}-{number:02}" for number in range(DEVICES)]
    first = Worker(repository, url, mosquitto.port, str(at[0]), at[1], str(file))
    played = kit.Devices(mosquitto.port, names, client=name)
    second: Worker | None = None
    try:
        played.say()
        until = time.monotonic() + kit.WAIT_S
        number: int | None = None
        while True:
            assert time.monotonic() < until, f"{at}: {kit.counted(engine, number or 0)}"
            if first.process.poll() is not None and second is None:
                assert first.process.returncode == -9
                second = Worker(repository, url, mosquitto.port)
            if number is None:
                with reading(engine) as conn:
                    there = devices_table.c.update_at.is_not(None)
                    ids = conn.execute(select(devices_table.c.id).where(there)).scalars().all()
                if len(set(ids) & set(names)) == DEVICES:
                    wanted = kit.plan(where=f"id ~ {name}-*", waves=["10%", "50%", "100%"])
                    number = kit.start(engine, repository, wanted)
            elif kit.state_of(engine, number) is State.COMPLETED:
                break
            time.sleep(0.05)
        _hold_to_account(engine, number, names, played)
    finally:
        played.close()
        worker = second or first
        worker.process.terminate()
        worker.process.wait(10)
        _clear(mosquitto, names)
        engine.dispose()
    return second is not None


def _hold_to_account(engine: Engine, number: int, names: list[str], played: kit.Devices) -> None:
    assert kit.counted(engine, number) == {DeviceState.SUCCEEDED: DEVICES}
    with reading(engine) as conn:
        stored = assignments.many(conn, names)
        log = [each.what for _, each in rollouts.log(conn, number)]
    for name in names:
        # One step of a device is one assignment: one envelope ever, of one number.
        assert played.seqs(name) == [1]
        assert played.assigned[name] == [stored[name].envelope]
        assert played.devices[name].committed == 2
    assert sum(int(line.split()[4]) for line in log if line.endswith(" moved")) == DEVICES
    assert sum(int(line.split()[4]) for line in log if line.endswith(" succeeded")) == DEVICES
    assert [line for line in log if line == "completed"] == ["completed"]
    begun = [line for line in log if line.endswith("begins")]
    assert begun == ["wave 2 of 3 begins", "wave 3 of 3 begins"]


def _forget(engine: Engine) -> None:
    """Let go of the leases of runs before, whose workers are gone."""
    with engine.begin() as conn:
        conn.execute(update(leases).values(until=0.0))


def _clear(mosquitto: Mosquitto, names: list[str]) -> None:
    """Take what these devices retain off the broker."""
    sweeper = kit.Devices(mosquitto.port, (), client="sweeper")
    kinds = ("status", "state", "update", "assignment")
    for name in names:
        for kind in kinds:
            sweeper.publish(f"edgeslm/v1/{name}/{kind}", b"", retain=True)
    sweeper.close()


@pytest.fixture
def shared_database(postgresql: Postgresql) -> Iterator[str]:
    url = postgresql.new()
    yield url
    postgresql.drop(url)


@pytest.mark.slow
def test_of_two_workers_the_one_that_leads_is_killed_in_a_rollout(
    repository: Repository, shared_database: str, mosquitto: Mosquitto
) -> None:
    names = [f"dev-{number:03}" for number in range(200)]
    engine = open_database(shared_database)
    workers = {1: Worker(repository, shared_database, mosquitto.port)}
    kit.wait_for(lambda: _leader(engine), "a leader")
    leader = workers[1]
    other = Worker(repository, shared_database, mosquitto.port)
    played = kit.Devices(mosquitto.port, names)
    try:
        played.say()
        kit.registered(engine, 200)
        wanted = kit.plan(waves=["5%", "25%", "50%", "100%"], soak_s=1)
        number = kit.start(engine, repository, wanted)
        kit.wait_for(lambda: kit.counted(engine, number).get(DeviceState.SUCCEEDED, 0) >= 50)
        for at in range(20):
            message = {
                "schema": 1,
                "device": names[at],
                "time": 1.0 + at,
                "event": "model_loaded",
            }
            played.publish(f"edgeslm/v1/{names[at]}/events", message)
            if at == 10:
                leader.process.kill()
                leader.process.wait(10)
        assert kit.ended(engine, number) is State.COMPLETED
        assert kit.counted(engine, number) == {DeviceState.SUCCEEDED: 200}
        assert all(played.seqs(name) == [1] for name in names)
        # What the broker had given the dead one to take is taken by who leads now.
        kit.wait_for(lambda: _events(engine) == 20, "events", within_s=90)
    finally:
        played.close()
        if leader.process.poll() is None:
            leader.process.kill()
        other.stop()
        engine.dispose()


def _leader(engine: Engine) -> bool:
    with reading(engine) as conn:
        held = select(leases.c.holder).where(leases.c.name == "leader")
        return conn.execute(held).scalar() is not None


def _events(engine: Engine) -> int:
    from sqlalchemy import func  # noqa: PLC0415

    from edgeslm.fleet.database.schema import events  # noqa: PLC0415

    with reading(engine) as conn:
        return int(conn.execute(select(func.count()).select_from(events)).scalar_one())
