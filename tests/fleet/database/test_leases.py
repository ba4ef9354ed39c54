"""Only one holds a lease, for as long as the database's clock says, and who lost it is told."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import Engine

from edgeslm.fleet.database import leases
from edgeslm.fleet.database.errors import LeaseLostError


def acquire(database: Engine, holder: str, seconds: float = 60.0) -> leases.Lease | None:
    with database.begin() as conn:
        return leases.acquire(conn, "leader", holder, seconds)


def test_only_one_holds_it_until_it_is_let_go(database: Engine) -> None:
    first = acquire(database, "a")
    assert first is not None
    assert acquire(database, "b") is None
    with database.begin() as conn:
        assert leases.holder(conn, "leader") == "a"
        leases.release(conn, first)
        assert leases.holder(conn, "leader") is None
    second = acquire(database, "b")
    assert second is not None
    assert second.term > first.term


def test_it_ends_by_the_databases_clock(database: Engine) -> None:
    first = acquire(database, "a", seconds=0.05)
    assert first is not None
    time.sleep(0.1)
    assert acquire(database, "b") is not None
    with pytest.raises(LeaseLostError), database.begin() as conn:
        leases.renew(conn, first, 60)
    with database.begin() as conn:
        leases.release(conn, first)  # not ours any more: the other keeps it
        assert leases.holder(conn, "leader") == "b"


def test_a_holder_that_is_late_goes_on_where_nobody_took_it(database: Engine) -> None:
    first = acquire(database, "a", seconds=0.0)
    assert first is not None
    with database.begin() as conn:
        leases.renew(conn, first, 60)
    assert acquire(database, "b") is None


def test_who_takes_it_anew_is_another_term(database: Engine) -> None:
    first, again = acquire(database, "a"), acquire(database, "a")
    assert first is not None
    assert again is not None
    with pytest.raises(LeaseLostError), database.begin() as conn:
        leases.renew(conn, first, 60)


def test_nobody_takes_it_while_its_holder_writes(database: Engine) -> None:
    first = acquire(database, "a", seconds=0.2)
    assert first is not None
    taken: list[leases.Lease | None] = []
    other = threading.Thread(target=lambda: taken.append(acquire(database, "b")))
    with database.begin() as conn:
        leases.renew(conn, first, 0.2)
        other.start()
        time.sleep(0.5)  # it has run out meanwhile, and is still ours
        assert not taken
    other.join(10)
    assert taken[0] is not None
    assert taken[0].term > first.term


def test_of_many_who_want_it_one_gets_it(database: Engine) -> None:
    taken: list[leases.Lease | None] = []
    others = [
        threading.Thread(target=lambda name=f"w{n}": taken.append(acquire(database, name)))
        for n in range(8)
    ]
    for each in others:
        each.start()
    for each in others:
        each.join(20)
    assert len(taken) == 8
    assert len([lease for lease in taken if lease is not None]) == 1
