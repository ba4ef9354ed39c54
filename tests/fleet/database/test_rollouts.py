"""A roll-out is kept as it was decided, and no device is in two that go on."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Final

import pytest
from sqlalchemy import Engine

from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import DeviceState, Health, Progress, State, Target
from edgeslm.fleet.database import rollouts
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import (
    RolloutEndedError,
    RolloutOverlapError,
    UnknownRolloutError,
)

PLAN: Final = Plan(model="press", version=2, waves=("1%", "100%"))


def targets(*names: str) -> list[Target]:
    return [Target(name, "pi", wave, since=1.0) for wave, name in enumerate(names)]


def create(database: Engine, *names: str) -> int:
    with database.begin() as conn:
        return rollouts.create(conn, PLAN, targets(*names), by="ada", now=1.0)


def ended(database: Engine, number: int, state: State = State.COMPLETED) -> None:
    with database.begin() as conn:
        rollouts.record(conn, number, Progress(state), now=2.0)


def test_it_is_read_as_it_was_written(database: Engine) -> None:
    number = create(database, "a", "b")
    with reading(database) as conn:
        found = rollouts.rollout(conn, number)
        assert (found.plan, found.progress, found.created_by) == (PLAN, Progress(since=1.0), "ada")
        was = [replace(each, before=Health()) for each in targets("a", "b")]
        assert rollouts.targets(conn, number) == was
        assert rollouts.active(conn) == [found]
        with pytest.raises(UnknownRolloutError, match="99"):
            rollouts.rollout(conn, 99)


def test_what_was_decided_is_written_together(database: Engine) -> None:
    number = create(database, "a", "b")
    with database.begin() as conn:
        [a, b] = rollouts.targets(conn, number)
        moved = replace(
            a, state=DeviceState.MOVED, since=5.0, seq=3, previous=1, before=Health(9, 1, 2, 4.5)
        )
        failed = replace(b, state=DeviceState.FAILED, since=5.0, reason="x" * 900)
        rollouts.ask(conn, number, "pause", "bob")
    progress = Progress(State.SOAKING, 1, 5.0, "why")
    with database.begin() as conn:
        rollouts.record(
            conn, number, progress, [moved, failed], now=5.0, log=["moved 1"], asked="pause"
        )
    with reading(database) as conn:
        assert rollouts.rollout(conn, number).progress == progress
        assert rollouts.rollout(conn, number).asked is None
        [a, b] = rollouts.targets(conn, number)
        assert a == moved
        assert (b.state, b.reason) == (DeviceState.FAILED, "x" * 500)
        [(first, line)] = rollouts.log(conn, number)
        assert (line.at, line.what) == (5.0, "moved 1")
        assert rollouts.log(conn, number, after=first) == []
        assert rollouts.waves(conn, [number]) == {
            number: {0: {DeviceState.MOVED: 1}, 1: {DeviceState.FAILED: 1}}
        }
        assert rollouts.target(conn, number, "a") == moved
        assert rollouts.target(conn, number, "z") is None
        assert rollouts.of_device(conn, "a") == [(number, moved)]


def test_what_is_asked_meanwhile_stays(database: Engine) -> None:
    number = create(database, "a")
    with database.begin() as conn:
        rollouts.ask(conn, number, "pause", "ada")
        rollouts.ask(conn, number, "abort", "bob")
        rollouts.record(conn, number, Progress(State.PAUSED), now=2.0, asked="pause")
    with reading(database) as conn:
        found = rollouts.rollout(conn, number)
    assert (found.asked, found.asked_by) == ("abort", "bob")


def test_of_one_that_has_ended_nothing_is_asked(database: Engine) -> None:
    number = create(database, "a")
    ended(database, number)
    with database.begin() as conn:
        with pytest.raises(RolloutEndedError, match="completed already"):
            rollouts.ask(conn, number, "abort", "ada")
        with pytest.raises(UnknownRolloutError):
            rollouts.ask(conn, 99, "abort", "ada")


def test_a_device_is_in_one_at_a_time(database: Engine) -> None:
    first = create(database, "a", "b")
    with pytest.raises(RolloutOverlapError, match=f"b: in roll-out {first},") as caught:
        create(database, "b", "c")
    assert caught.value.busy == {"b": first}
    with reading(database) as conn:
        assert [each.id for each in rollouts.newest(conn)] == [first]
    with database.begin() as conn:
        left_out = replace(targets("a", "b")[1], state=DeviceState.LEFT_OUT)
        rollouts.record(conn, first, Progress(), [left_out], now=2.0)
    second = create(database, "b", "c")
    with database.begin() as conn, pytest.raises(RolloutOverlapError):
        rollouts.join(conn, second, targets("a"), now=3.0)
    ended(database, first, State.ABORTED)
    with database.begin() as conn:
        rollouts.join(conn, second, targets("a"), now=3.0)
        rollouts.join(conn, second, [], now=3.0)
        assert [each.device for each in rollouts.targets(conn, second)] == ["a", "b", "c"]
        assert [line.what for _, line in rollouts.log(conn, second)] == ["a: joined"]


def test_of_two_that_begin_at_once_with_the_same_devices_one_does(database: Engine) -> None:
    begun: list[int] = []
    ready = threading.Barrier(3)

    def begin() -> None:
        ready.wait(10)
        try:
            begun.append(create(database, "a", "b"))
        except RolloutOverlapError:
            return

    threads = [threading.Thread(target=begin) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(begun) == 1


def test_one_that_has_ended_with_devices_on_their_way_is_not_settled(database: Engine) -> None:
    number = create(database, "a", "b")
    ended(database, number)
    with reading(database) as conn:
        assert rollouts.active(conn) == []
        assert rollouts.unsettled(conn) == []
    with database.begin() as conn:
        silent = replace(targets("a")[0], state=DeviceState.SILENT)
        rollouts.record(conn, number, Progress(State.COMPLETED), [silent], now=3.0)
        assert [each.id for each in rollouts.unsettled(conn)] == [number]


def test_pages_of_them(database: Engine) -> None:
    numbers = [create(database, f"d{n}") for n in range(5)]
    with reading(database) as conn:
        first = rollouts.newest(conn, limit=3)
        rest = rollouts.newest(conn, before=first[-1].id, limit=3)
    assert [each.id for each in (*first, *rest)] == numbers[::-1]
