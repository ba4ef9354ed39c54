"""A device's numbers only grow, and nobody's assignment is lost under another's."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine

from edgeslm.fleet.database import assignments
from edgeslm.fleet.database.assignments import Stored
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import SeqTakenError
from edgeslm.fleet.database.registry import Heard, heard


def stored(device: str, seq: int, envelope: bytes = b"signed") -> Stored:
    return Stored(device, seq, 1.0, 2.0, envelope, float(seq))


def put(database: Engine, *new: Stored) -> None:
    with database.begin() as conn:
        assignments.put(conn, new)


def test_the_newest_of_each_is_kept(database: Engine) -> None:
    put(database, stored("a", 1), stored("b", 1))
    put(database, stored("a", 2, b"newer"))
    put(database)
    with reading(database) as conn:
        assert assignments.last(conn, "a") == stored("a", 2, b"newer")
        assert assignments.last(conn, "c") is None
        assert set(assignments.many(conn)) == {"a", "b"}
        assert assignments.envelopes(conn) == {"a": b"newer", "b": b"signed"}
        assert assignments.envelopes(conn, ["b", "c"]) == {"b": b"signed"}


def test_a_number_that_is_not_higher_is_refused_and_nothing_is_put(database: Engine) -> None:
    put(database, stored("a", 2), stored("b", 1))
    for seq in (1, 2):
        with pytest.raises(SeqTakenError, match="a: assigned anew meanwhile") as caught:
            put(database, stored("b", 2), stored("a", seq))
        assert caught.value.devices == {"a"}
    with reading(database) as conn:
        assert assignments.last(conn, "b") == stored("b", 1)


def test_the_next_number_is_above_what_the_device_has_accepted(database: Engine) -> None:
    put(database, stored("a", 2), stored("b", 7))
    message = {"time": 1.0, "seq": 5, "models": []}
    with database.begin() as conn:
        heard(conn, [Heard(name, "update", message, 1.0) for name in ("a", "b", "c")])
        assert assignments.next_numbers(conn, ["a", "b", "c", "d"]) == {
            "a": 6,
            "b": 8,
            "c": 6,
            "d": 1,
        }


def test_the_stamp_changes_with_every_change(database: Engine) -> None:
    stamps: list[object] = []

    def look() -> None:
        with reading(database) as conn:
            stamp = assignments.stamp(conn)
            assert stamp == assignments.stamp(conn)
            assert not stamps or stamp != stamps[-1]
            stamps.append(stamp)

    look()
    for new in (stored("a", 1), stored("a", 2), stored("b", 1), stored("b", 2)):
        put(database, new)
        look()
    with database.begin() as conn:
        assignments.remove(conn, ["a"])
    look()


def test_of_two_who_assign_at_once_one_is_told(database: Engine) -> None:
    """Each takes the next number, and one of them has it."""
    put(database, stored("a", 1))
    done: list[str] = []
    ready = threading.Barrier(4)

    def assign(name: str, device: str) -> None:
        with reading(database) as conn:
            seq = assignments.next_numbers(conn, [device])[device]
        ready.wait(10)
        try:
            put(database, stored(device, seq, name.encode()))
        except SeqTakenError:
            return
        done.append(name)

    names = [("one", "a"), ("two", "a"), ("three", "new"), ("four", "new")]
    threads = [threading.Thread(target=assign, args=each) for each in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 2
    with reading(database) as conn:
        found = assignments.envelopes(conn)
    assert {envelope.decode() for envelope in found.values()} == set(done)


def test_who_locks_is_alone(database: Engine) -> None:
    waited = threading.Event()

    def other() -> None:
        with database.begin() as conn:
            assignments.lock(conn)
            waited.set()

    thread = threading.Thread(target=other)
    with database.begin() as conn:
        assignments.lock(conn)
        thread.start()
        assert not waited.wait(0.3)
        assignments.put(conn, [stored("a", 1)])
    assert waited.wait(10)
    thread.join(10)
