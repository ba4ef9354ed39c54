"""Broker and database come and go; nothing that a device has said is lost, and it is said once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, func, select

from edgeslm.core.rollout import DeviceState, Progress, State
from edgeslm.fleet.database import registry, rollouts, schema
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.service import service as service_module
from tests.databases import Postgresql
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
NAMES = [f"dev-{number:03}" for number in range(40)]


def rows(engine: Engine, table: str) -> int:
    with reading(engine) as conn:
        found = select(func.count()).select_from(schema.METADATA.tables[table])
        return int(conn.execute(found).scalar_one())


def event(name: str, number: int) -> dict[str, object]:
    return {"schema": 1, "device": name, "time": float(number), "event": "model_loaded"}


def result(name: str, number: int, label: str = "anomaly") -> dict[str, object]:
    return {
        "schema": 1,
        "id": f"r{number}",
        "device": name,
        "topic": "a/b",
        "source": None,
        "time_in": 1.0,
        "time_out": 1.0,
        "latency_ms": 1.0,
        "task": "anomaly",
        "label": label,
        "model": {"name": kit.MODEL, "version": 1, "hash": "0" * 64},
    }


@pytest.fixture
def running(repository: Repository, sqlite_url: str, mosquitto: Mosquitto) -> Iterator[kit.Running]:
    started = kit.Running(repository, sqlite_url, mosquitto.port)
    yield started
    started.stop()


@pytest.fixture
def devices(mosquitto: Mosquitto) -> Iterator[kit.Devices]:
    played = kit.Devices(mosquitto.port, NAMES)
    played.say()
    yield played
    played.close()


@pytest.mark.slow
def test_a_broker_that_restarts_five_times_holds_up_a_rollout_and_does_not_spoil_it(
    repository: Repository, running: kit.Running, devices: kit.Devices, mosquitto: Mosquitto
) -> None:
    kit.registered(running.engine, len(NAMES))
    wanted = kit.plan(waves=["5%", "25%", "50%", "75%", "100%"], soak_s=1, deadline_s=120)
    number = kit.start(running.engine, repository, wanted)
    for turn in range(5):
        time.sleep(0.7)
        (mosquitto.kill if turn % 2 else mosquitto.stop)()
        mosquitto.start()
    assert kit.ended(running.engine, number, within_s=150) is State.COMPLETED
    assert kit.counted(running.engine, number) == {DeviceState.SUCCEEDED: len(NAMES)}
    assert all(devices.seqs(name) == [1] for name in NAMES)


@pytest.mark.slow  # that such time is no soak, tests/core/test_rollout.py shows without a clock
def test_a_wave_does_not_soak_while_the_broker_is_away(
    repository: Repository, running: kit.Running, devices: kit.Devices, mosquitto: Mosquitto
) -> None:
    kit.registered(running.engine, len(NAMES))
    wanted = kit.plan(waves=["25%", "100%"], soak_s=3, deadline_s=120)
    number = kit.start(running.engine, repository, wanted)

    def progress() -> Progress:
        with reading(running.engine) as conn:
            return rollouts.rollout(conn, number).progress

    kit.wait_for(lambda: progress().state is State.SOAKING, "the first wave soaks")
    mosquitto.stop()
    time.sleep(5)
    during = progress()
    assert (during.state, during.wave) == (State.SOAKING, 0)
    back = time.monotonic()
    mosquitto.start()
    kit.wait_for(lambda: progress().wave == 1, "the second wave")
    assert time.monotonic() >= back + 3.0
    assert kit.ended(running.engine, number) is State.COMPLETED
    assert all(devices.seqs(name) == [1] for name in NAMES)


def test_messages_wait_with_the_broker_while_the_database_is_down(
    repository: Repository,
    postgresql: Postgresql,
    mosquitto: Mosquitto,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = postgresql.new()
    running = kit.Running(repository, url, mosquitto.port)
    played = kit.Devices(mosquitto.port, NAMES)
    try:
        played.say()
        kit.registered(running.engine, len(NAMES))
        with caplog.at_level(logging.INFO):
            postgresql.kill()
            for number in range(300):
                name = NAMES[number % len(NAMES)]
                played.publish(f"edgeslm/v1/{name}/events", event(name, number))
                topic = f"edgeslm/v1/{name}/results/{kit.MODEL}"
                played.publish(topic, result(name, number))
            time.sleep(3)
            postgresql.start()
            kit.wait_for(lambda: rows(running.engine, "events") == 300, "events")
            kit.wait_for(lambda: rows(running.engine, "evidence") == 300, "evidence")
        said = [each.message for each in caplog.records]
        assert said.count("database_lost") == said.count("database_back") >= 1
        number = kit.start(running.engine, repository, kit.plan())
        assert kit.ended(running.engine, number) is State.COMPLETED
    finally:
        played.close()
        running.stop()
        postgresql.drop(url)


def test_what_was_said_while_nobody_served_is_there_afterwards(
    repository: Repository,
    sqlite_url: str,
    mosquitto: Mosquitto,
    devices: kit.Devices,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service_module, "ADOPT_S", 1.0)
    first = kit.Running(repository, sqlite_url, mosquitto.port)
    kit.registered(first.engine, len(NAMES))
    first.stop()
    for number in range(50):
        devices.publish(f"edgeslm/v1/{NAMES[0]}/events", event(NAMES[0], number))
    second = kit.Running(repository, sqlite_url, mosquitto.port)
    try:
        kit.wait_for(lambda: rows(second.engine, "events") == 50, "events")
    finally:
        second.stop()


def test_the_leader_alone_takes_all_where_nothing_is_shared_out(
    repository: Repository, sqlite_url: str, mosquitto: Mosquitto, devices: kit.Devices
) -> None:
    both = [kit.Running(repository, sqlite_url, mosquitto.port, shares=False) for _ in range(2)]
    engine = both[0].engine
    kit.registered(engine, len(NAMES))
    kit.wait_for(lambda: any(each.service.leader.holds() for each in both), "a leader")
    time.sleep(1)
    for number in range(20):
        devices.publish(f"edgeslm/v1/{NAMES[0]}/events", event(NAMES[0], number))
    kit.wait_for(lambda: rows(engine, "events") == 20, "events")
    leader = next(each for each in both if each.service.leader.holds())
    follower = next(each for each in both if each is not leader)
    leader.stop()
    kit.wait_for(follower.service.leader.holds, "another leader")
    for number in range(20, 40):
        devices.publish(f"edgeslm/v1/{NAMES[0]}/events", event(NAMES[0], number))
    kit.wait_for(lambda: rows(follower.engine, "events") == 40, "events")
    follower.stop()


def test_hostile_messages_change_nothing_and_are_counted(
    running: kit.Running, devices: kit.Devices
) -> None:
    kit.registered(running.engine, len(NAMES))
    base = "edgeslm/v1"
    good = json_of(devices, NAMES[0], "state")
    hostile: list[tuple[str, object, str]] = [
        (f"{base}/{NAMES[1]}/state", {**good, "rss_mb": 666.0}, "of_another_device"),
        (f"{base}/{NAMES[0]}/state", b"{" * 1000, "malformed"),
        (f"{base}/{NAMES[0]}/state", b"\xff\xfe", "malformed"),
        (f"{base}/{NAMES[0]}/state", b'{"device":"\\ud800"}', "malformed"),
        (f"{base}/{NAMES[0]}/state", {**good, "drops": {"x" * 70_000: 1}}, "too_long"),
        (f"{base}/{NAMES[0]}/state", {**good, "uptime_s": 1e300}, "out_of_bounds"),
        (f"{base}/{NAMES[0]}/state", {**good, "time": -1.0}, "out_of_bounds"),
        (f"{base}/$SYS!/state", {**good, "device": "$SYS!"}, "bad_device_id"),
        (f"{base}/{'d' * 65}/state", {**good, "device": "d" * 65}, "bad_device_id"),
    ]
    for topic, message, _ in hostile:
        devices.publish(topic, message)
    wanted = {reason for _, _, reason in hostile}
    kit.wait_for(lambda: wanted <= set(running.service.refused()), "refusals")
    assert rows(running.engine, "devices") == len(NAMES)
    with reading(running.engine) as conn:
        found = registry.device(conn, NAMES[1])
    assert found is not None
    assert found.state is not None
    assert found.state["rss_mb"] == 1.0


def test_strings_that_no_database_takes_are_kept_without_what_hurts(
    running: kit.Running, devices: kit.Devices
) -> None:
    kit.registered(running.engine, len(NAMES))
    name = NAMES[0]
    raw = (
        b'{"schema":1,"device":"dev-000","time":1,"event":"model_failed","model":"press",'
        b'"error":{"code":"a\\u0000b","message":"\\u202e<script>"}}'
    )
    devices.publish(f"edgeslm/v1/{name}/events", raw)
    kit.wait_for(lambda: rows(running.engine, "events") == 1, "the event")
    with reading(running.engine) as conn:
        row = conn.execute(select(schema.events)).one()
    assert "\0" not in row.code
    assert row.message.endswith("<script>")


def test_an_old_update_that_is_played_again_is_ignored(
    running: kit.Running, devices: kit.Devices
) -> None:
    kit.registered(running.engine, len(NAMES))
    name, device = NAMES[0], devices.devices[NAMES[0]]
    old = json_of(devices, name, "update")
    device.seq, device.committed = 5, 3
    devices.say(name)

    def seq() -> int:
        with reading(running.engine) as conn:
            of = schema.devices.c
            return int(conn.execute(select(of.seq).where(of.id == name)).scalar_one())

    kit.wait_for(lambda: seq() == 5, "the news")
    devices.publish(f"edgeslm/v1/{name}/update", old)
    kit.wait_for(lambda: running.service.refused()["replayed"], "the replay")
    assert seq() == 5


def test_the_service_stops_within_five_seconds_and_lets_another_lead(
    running: kit.Running, repository: Repository, sqlite_url: str, mosquitto: Mosquitto
) -> None:
    kit.wait_for(running.service.leader.holds, "the lease")
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 5.0
    assert running.ended
    second = kit.Running(repository, sqlite_url, mosquitto.port, lease_s=60.0)
    kit.wait_for(second.service.leader.holds, "the lease", within_s=5)
    second.stop()


def json_of(devices: kit.Devices, name: str, kind: str) -> dict[str, object]:
    """Return what a device says now."""
    found = {letter.topic.rpartition("/")[2]: letter for letter in devices.letters(name)}
    message: dict[str, object] = json.loads(found[kind].payload)
    return message
