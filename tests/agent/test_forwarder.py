"""A broker that takes no such result, or none now, holds up no other and loses none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeslm.adapters.loopback import MemoryOutbox
from edgeslm.agent.forwarder import EPISODE_S, RESUME_CAP_S, Forwarder
from edgeslm.contract.messages import ADAPTERS
from edgeslm.core.delivery import Parcel, Ticket
from edgeslm.ports import Confirmed, Down, OutboxUnavailableError, Up


class Wire:
    """A transport that a test confirms by hand."""

    def __init__(self) -> None:
        self.sent: list[Parcel] = []

    def publish(self, publications: Any, *, epoch: int) -> None:
        del epoch
        self.sent += publications

    def take(self) -> list[Parcel]:
        sent, self.sent = self.sent, []
        return sent


class Rig:
    """A forwarder on a wire, with what it told."""

    def __init__(self, outbox: MemoryOutbox | None = None) -> None:
        self.wire = Wire()
        self.told: list[tuple[str, str]] = []
        self.outbox = MemoryOutbox(max_rows=1000) if outbox is None else outbox
        self.forwarder = Forwarder(
            self.wire,  # type: ignore[arg-type] # the part of a transport that it uses
            self.outbox,
            ack_timeout_s=5,
            on_trouble=lambda event, code, _: self.told.append((event, code)),
        )
        self.epoch = 0

    def up(self, limit: int | None = None, *, now: float = 0.0) -> None:
        self.epoch += 1
        self.forwarder.take(Up(self.epoch, session_present=False, max_packet_bytes=limit), now=now)
        self.forwarder.pump(now=now)

    def down(self, *, now: float = 0.0) -> None:
        self.forwarder.take(Down(self.epoch, "cut"), now=now)
        self.forwarder.pump(now=now)


def result(size: int = 10, *, born: float = 0.0) -> Parcel:
    """A result with a text of that size."""
    about = {"schema": 1, "id": "i", "device": "d", "topic": "t", "source": None, "task": "x"}
    times = {"time_in": 1.0, "time_out": 2.0, "latency_ms": 1.0}
    model = {"name": "m", "version": 1, "hash": "h"}
    whole = {**about, **times, "model": model, "label": "a", "text": "x" * size, "retained": True}
    correlation = {"CorrelationData": b"c"}
    return Parcel("r", json.dumps(whole).encode(), born, Ticket(), correlation)


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_the_broker_cannot_take_is_replaced_by_an_error(*, on_disk: bool) -> None:
    rig = Rig()
    if on_disk:
        rig.forwarder.offer([result(10), result(9000), result(10)])
        rig.forwarder.pump(now=1)
        assert len(rig.outbox) == 3
        rig.up(1000, now=2)
    else:
        rig.up(1000)
        rig.forwarder.offer([result(10), result(9000), result(10)])
        rig.forwarder.pump(now=2)
    small, large, after = rig.wire.take()
    assert "error" not in json.loads(small.payload)
    assert "error" not in json.loads(after.payload)
    found = ADAPTERS["result"].validate_python(json.loads(large.payload))
    assert found["error"]["code"] == "result.too_large"
    assert found["id"] == "i"
    assert found["retained"]
    assert "text" not in found
    assert large.properties == {"CorrelationData": b"c"}
    assert rig.forwarder.drops == {"result_too_large": 1}
    assert rig.told == [("result_replaced", "result.too_large")]
    rig.forwarder.take(Confirmed([small, large, after]), now=3)
    rig.forwarder.pump(now=4)
    assert rig.forwarder.idle
    assert len(rig.outbox) == 0


def test_what_fits_in_no_form_is_dropped_and_counted() -> None:
    rig = Rig()
    rig.up(100)
    parcel = result(9000)
    rig.forwarder.offer([parcel])
    rig.forwarder.pump(now=1)
    assert rig.wire.take() == []
    assert rig.forwarder.drops == {"result_too_large": 1, "result_refused": 1}
    assert parcel.ticket is not None
    assert parcel.ticket.settled


def test_a_broker_that_only_disconnects_gets_an_error_the_fourth_time() -> None:
    rig = Rig()
    rig.forwarder.offer([result(10), result(50_000)])
    for _ in range(3):
        rig.up()
        assert ["error" in json.loads(p.payload) for p in rig.wire.take()] == [False, False]
        rig.down(now=1)
    rig.up(now=2)
    assert ["error" in json.loads(p.payload) for p in rig.wire.take()] == [False, True]


def test_a_network_that_comes_and_goes_replaces_nothing() -> None:
    rig = Rig()
    rig.forwarder.offer([result(10), result(50_000), result(5000)])
    for _ in range(9):
        rig.up()
        sent = rig.wire.take()
        assert not any("error" in json.loads(p.payload) for p in sent)
        rig.forwarder.take(Confirmed(sent[:1]), now=1)
        rig.forwarder.offer([result(10)])
        rig.down(now=1)
    small = Rig()
    small.forwarder.offer([result(10)])
    for _ in range(9):
        small.up()
        assert "error" not in json.loads(small.wire.take()[0].payload)
        small.down(now=1)


def test_deferred_results_go_to_disk_and_are_tried_ever_less_often() -> None:
    rig = Rig()
    rig.up()
    parcels = [result(10 + i) for i in range(3)]
    tickets = [p.ticket for p in parcels]
    rig.forwarder.offer(parcels)
    rig.forwarder.pump(now=0)
    now, tries, waits = 0.0, 0, []
    while tries < 8:
        sent = rig.wire.take()
        assert [len(p.payload) for p in sent] == [len(p.payload) for p in parcels]
        rig.forwarder.take(Confirmed([], deferred=[(p, "0x97") for p in sent]), now=now)
        tries += 1
        begun = now
        while not rig.wire.sent:
            rig.forwarder.pump(now=now)
            if (due := rig.forwarder.due_at()) is not None:
                now = max(due, now)
        waits.append(now - begun)
        assert len(rig.outbox) == 3
    assert all(t is not None and t.settled for t in tickets)
    assert waits == sorted(waits)
    assert waits[-1] <= RESUME_CAP_S + 0.1
    assert rig.told == [("results_deferred", "uplink.deferred")]
    rig.forwarder.take(Confirmed(rig.wire.take()), now=now)
    rig.forwarder.pump(now=now + 1)
    assert len(rig.outbox) == 0
    assert rig.forwarder.drops == {}
    rig.forwarder.pump(now=now + EPISODE_S + 1)
    assert rig.told[1:] == [("results_taken", "uplink.deferred")]


def test_refusal_for_good_is_told_each_time_it_begins() -> None:
    rig = Rig()
    rig.up()
    for now in (0.0, 1.0, EPISODE_S, 3 * EPISODE_S):
        rig.forwarder.offer([result(born=now)])
        rig.forwarder.pump(now=now)
        rig.forwarder.take(Confirmed([], [(p, "0x90") for p in rig.wire.take()]), now=now)
    assert rig.forwarder.drops == {"result_refused": 4}
    assert rig.told == [("result_refused", "uplink.refused")] * 2
    assert rig.forwarder.idle


FULL = "the disk is full"


class Absent(MemoryOutbox):
    """A disk that does not serve until it is mended, and then has one row."""

    def __init__(self) -> None:
        super().__init__(max_rows=0)
        self.mended = False
        self.commits = 0

    def open(self) -> int:
        if not self.mended:
            raise OutboxUnavailableError(FULL)
        self._max_rows = 1000
        return len(super().append([("r", b"old", {})]))

    def append(self, rows: Any) -> list[int]:
        if not self.mended:
            raise OutboxUnavailableError(FULL)
        self.commits += 1
        return super().append(rows)


def test_a_disk_that_is_full_at_the_start_is_told_once_and_taken_when_it_serves() -> None:
    disk = Absent()
    rig = Rig(disk)
    for now in range(20):
        rig.forwarder.pump(now=float(now))
    parcel = result()
    rig.forwarder.offer([parcel])
    rig.forwarder.pump(now=21)
    assert rig.told == [("outbox_blocked", "outbox.unavailable")]
    assert rig.forwarder.withheld == 1
    disk.mended = True
    for now in range(22, 30):
        rig.forwarder.pump(now=float(now))
    assert rig.forwarder.withheld == 0
    assert rig.forwarder.rows == 2
    rig.up(now=30)
    assert [p.payload for p in rig.wire.take()] == [b"old", parcel.payload]


def test_at_the_end_all_is_written_in_one_commit() -> None:
    disk = Absent()
    disk.mended = True
    rig = Rig(disk)
    rig.forwarder.pump(now=0)
    rig.forwarder.offer([result(born=1.0) for _ in range(500)])
    rig.forwarder.flush(now=1)
    assert disk.commits == 1
    assert rig.forwarder.idle
    assert rig.forwarder.rows == 501
