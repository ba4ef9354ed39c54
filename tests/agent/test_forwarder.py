"""A broker that takes no such result, or none now, holds up no other and loses none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.loopback import MemoryOutbox
from edgeslm.agent.forwarder import (
    EPISODE_S,
    GONE_S,
    MAX_GONE,
    MAX_LET_GO,
    MAX_NOTES,
    NOTE_CAP_S,
    NOTE_S,
    RESUME_CAP_S,
    WINDOW,
    Forwarder,
)
from edgeslm.contract.messages import ADAPTERS
from edgeslm.contract.settings import OutboxSettings
from edgeslm.core.delivery import Parcel
from edgeslm.core.lane import Ticket
from edgeslm.ports import Confirmed, Down, OutboxDamagedError, OutboxUnavailableError, Rows, Up


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

    def __init__(self, outbox: Any = None, *, unacknowledged: int = 0, **settings: Any) -> None:
        self.wire = Wire()
        self.told: list[tuple[str, str]] = []
        self.outbox = MemoryOutbox(max_rows=1000) if outbox is None else outbox
        self.forwarder = Forwarder(
            self.wire,  # type: ignore[arg-type] # the part of a transport that it uses
            self.outbox,
            settings=OutboxSettings(ack_timeout_s=5, **settings),
            unacknowledged=unacknowledged,
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
    rig.forwarder.pump(now=3 + GONE_S)
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
    rig.forwarder.pump(now=now + GONE_S)
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

    def open(self) -> Rows:
        if not self.mended:
            raise OutboxUnavailableError(FULL)
        self._max_rows = 1000
        return Rows(0, len(super().append([("r", b"old", {})], alert=False)))

    def append(self, rows: Any, *, alert: bool) -> list[int]:
        if not self.mended:
            raise OutboxUnavailableError(FULL)
        self.commits += 1
        return super().append(rows, alert=alert)


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
    for now in range(22, 40):
        rig.forwarder.pump(now=float(now))
    assert rig.forwarder.withheld == 0
    assert rig.forwarder.rows == 2
    rig.up(now=40)
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


def numbered(first: int, count: int, *, alert: bool = False, source: str = "s") -> list[Parcel]:
    """Results whose ids are numbers."""
    made = []
    for n in range(first, first + count):
        whole = json.loads(result().payload) | {"id": str(n), "source": source, "score": float(n)}
        made.append(Parcel("r", json.dumps(whole).encode(), 0.0, Ticket(), alert=alert))
    return made


def ids(parcels: list[Parcel]) -> list[str]:
    return [json.loads(p.payload)["id"] for p in parcels]


def settled(parcels: list[Parcel]) -> list[bool]:
    """What was committed has let go of its ticket."""
    return [p.ticket is None or p.ticket.settled for p in parcels]


def test_an_alert_waits_behind_no_telemetry() -> None:
    rig = Rig(catch_up_per_s=5)
    rig.forwarder.offer(numbered(0, 100))
    rig.forwarder.pump(now=1)
    rig.forwarder.offer(numbered(500, 3, alert=True))
    rig.forwarder.pump(now=2)
    assert rig.outbox.rows == Rows(alerts=3, telemetry=100)
    assert (rig.forwarder.rows, rig.forwarder.alerts) == (103, 3)
    rig.up(now=3)
    sent = rig.wire.take()
    assert ids(sent) == ["500", "501", "502", "0", "1"]
    rig.forwarder.offer(numbered(600, 1, alert=True))
    rig.forwarder.pump(now=3.01)
    rig.forwarder.take(Confirmed(sent), now=3.02)
    rig.forwarder.pump(now=3.3)
    assert ids(rig.wire.take())[0] == "600"


def test_alerts_that_were_on_disk_leave_as_alerts() -> None:
    """Else those that come after them would overtake them in the link."""
    rig = Rig()
    rig.forwarder.offer([*numbered(0, 3), *numbered(500, 3, alert=True)])
    rig.forwarder.pump(now=1)
    rig.forwarder.offer(numbered(600, 1, alert=True))
    rig.up(now=1.1)
    sent = rig.wire.take()
    assert [(i, p.alert) for i, p in zip(ids(sent), sent, strict=True)] == [
        *((str(n), True) for n in (500, 501, 502, 600)),
        *((str(n), False) for n in range(3)),
    ]


def test_both_lanes_keep_their_order_over_an_outage() -> None:
    rig = Rig(catch_up_per_s=10_000)
    made = [*numbered(0, 40), *numbered(1000, 40, alert=True)]
    mixed = [made[i // 2 + 40 * (i % 2)] for i in range(80)]
    rig.up()
    rig.forwarder.offer(mixed[:30])
    rig.forwarder.pump(now=0)
    rig.down(now=1)
    rig.forwarder.offer(mixed[30:60])
    rig.forwarder.pump(now=2)
    rig.wire.take()
    rig.up(now=3)
    rig.forwarder.offer(mixed[60:])
    rig.forwarder.pump(now=3)
    got = ids(rig.wire.take())
    assert [i for i in got if int(i) < 1000] == [str(i) for i in range(40)]
    assert [i for i in got if int(i) >= 1000] == [str(i) for i in range(1000, 1040)]


def test_a_full_outbox_gives_up_the_oldest_telemetry_and_no_alert() -> None:
    rig = Rig(MemoryOutbox(max_rows=100), max_results=100, thin_share=1)
    rig.forwarder.offer(numbered(0, 70))
    rig.forwarder.offer(numbered(500, 20, alert=True))
    rig.forwarder.pump(now=1)
    rig.forwarder.offer(numbered(600, 30, alert=True))
    rig.forwarder.offer(numbered(70, 10))
    rig.forwarder.pump(now=2)
    assert rig.outbox.rows == Rows(alerts=50, telemetry=50)
    left = [json.loads(row[2])["id"] for row in rig.outbox.peek(99, after=0, alert=False)]
    assert left == [str(n) for n in range(30, 80)]
    assert rig.forwarder.drops == {"telemetry_evicted": 30}
    assert rig.told == [("telemetry_evicted", "outbox.evicted")]
    assert rig.forwarder.withheld == 0


def test_a_bound_full_of_alerts_withholds_acknowledgements() -> None:
    rig = Rig(MemoryOutbox(max_rows=40), max_results=40)
    alerts, telemetry = numbered(0, 50, alert=True), numbered(900, 5)
    rig.forwarder.offer(telemetry)
    rig.forwarder.pump(now=1)
    rig.forwarder.offer(alerts)
    rig.forwarder.pump(now=2)
    assert rig.outbox.rows == Rows(alerts=40, telemetry=0)
    assert rig.forwarder.drops == {"telemetry_evicted": 5}
    assert settled(alerts) == [True] * 40 + [False] * 10
    assert rig.forwarder.withheld == 10
    assert ("outbox_blocked", "outbox.full") in rig.told
    rig.up(now=4)
    sent = rig.wire.take()
    assert ids(sent) == [str(n) for n in range(50)]
    rig.forwarder.take(Confirmed(sent), now=4)
    rig.forwarder.pump(now=5)
    assert rig.forwarder.withheld == 0
    assert settled(alerts) == [True] * 50


def test_a_long_outage_is_summed_up_and_every_result_is_in_one_message_alone() -> None:
    rig = Rig(MemoryOutbox(max_rows=400), max_results=400, catch_up_per_s=10_000)
    rig.up()
    first = numbered(0, 10)
    rig.forwarder.offer(first)
    rig.forwarder.pump(now=0)
    seen = rig.wire.take()  # the broker has them, and the link goes before it says so
    rig.down(now=1)
    now = 1.0
    for n in range(10, 2000, 10):
        rig.forwarder.offer(numbered(n, 10, source="ab"[n // 10 % 2]))
        if n % 200 == 0:
            rig.forwarder.offer(numbered(10_000 + n, 1, alert=True))
        now += 0.3
        rig.forwarder.pump(now=now)
    assert len(rig.outbox) <= 400
    assert rig.outbox.share <= 0.75
    assert set(rig.forwarder.drops) == {"telemetry_thinned"}
    assert ("telemetry_thinned", "outbox.thinned") in rig.told
    rig.up(now=now)
    rig.forwarder.pump(now=now)
    got = [json.loads(p.payload) for p in rig.wire.take()]
    assert [r["id"] for r in got[:9]] == [str(10_000 + n) for n in range(200, 2000, 200)]
    assert [r["id"] for r in got[9:19]] == ids(seen)  # once more, and under the same ids
    count = 0
    latest = {"a": -1, "b": -1, "s": -1}
    for one in got[9:]:
        summary = one.get("summary")
        begin, end = (summary["first_id"], summary["last_id"]) if summary else (one["id"],) * 2
        assert int(begin) > latest[one["source"]]
        latest[one["source"]] = int(end)
        count += summary["count"] if summary else 1
    assert count == 2000
    assert sum("summary" in r for r in got) >= 2
    thinned = sum(r["summary"]["count"] for r in got if "summary" in r)
    assert rig.forwarder.drops == {"telemetry_thinned": thinned}


class Ageing(MemoryOutbox):
    """A disk whose first rows are a month old."""

    def oldest(self, limit: int, *, after: int, alert: bool = False) -> list[Any]:
        found = super().oldest(limit, after=after, alert=alert)
        return [one._replace(age_s=30 * 86_400.0 if one.row <= 5 else 60.0) for one in found]


def test_telemetry_that_is_too_old_goes_and_is_counted() -> None:
    rig = Rig(Ageing(max_rows=100))
    rig.forwarder.offer(numbered(0, 3, alert=True))
    rig.forwarder.pump(now=1)
    rig.forwarder.offer(numbered(10, 5))
    rig.forwarder.pump(now=2)
    rig.forwarder.pump(now=100)
    assert rig.outbox.rows == Rows(alerts=3, telemetry=3)
    assert rig.forwarder.drops == {"telemetry_expired": 2}
    assert rig.told == [("telemetry_expired", "outbox.evicted")]


LONG: dict[str, Any] = {"max_results": 4000, "catch_up_per_s": 200, "summary_s": 86_400}


def long_rig(outbox: Any = None, **more: Any) -> Rig:
    """A forwarder for a long outage."""
    return Rig(MemoryOutbox(max_rows=4000) if outbox is None else outbox, **LONG, **more)


def fill(rig: Rig, first: int, count: int, *, now: float = 0.0) -> float:
    """Offer so many results while the uplink is down, a hundred a second; return the time."""
    for n in range(first, first + count, 100):
        now += 1
        rig.forwarder.offer(numbered(n, 100))
        rig.forwarder.pump(now=now)
    return now


def spans(outbox: Any) -> list[tuple[int, int]]:
    """First and last number of each summary on disk."""
    found = [json.loads(row[2]) for row in outbox.peek(10**6, after=0, alert=False)]
    told = [one["summary"] for one in found if "summary" in one]
    return [(int(one["first_id"]), int(one["last_id"])) for one in told]


def again(first: int, count: int) -> list[Parcel]:
    """The same inputs, which the broker has sent before."""
    made = numbered(first, count)
    for parcel in made:
        parcel.payload = json.dumps(json.loads(parcel.payload) | {"redelivered": True}).encode()
        parcel.again = True
    return made


def test_what_a_connection_handed_over_is_not_summed_up_after_a_shorter_one() -> None:
    rig = long_rig()
    now = fill(rig, 0, 2300)
    rig.up(now=now)
    got: list[Parcel] = []
    for _ in range(100):
        sent = rig.wire.take()
        got += sent
        if len(got) < 1200:  # what comes after it, the broker has, and cannot say so
            rig.forwarder.take(Confirmed(sent), now=now)
        now += 0.1
        rig.forwarder.pump(now=now)
    rig.down(now=now)
    rig.up(now=now)
    short = rig.wire.take()
    assert 0 < len(short) < len(got) - 1200
    rig.down(now=now)
    fill(rig, 2300, 2000, now=now + 1)
    found = spans(rig.outbox)
    assert found
    alone = {int(number) for number in ids(got) if ".." not in number}
    assert not any(first <= number <= last for number in alone for first, last in found)


def test_what_comes_again_after_a_kill_is_not_summed_up() -> None:
    """The uplink broker has it, and the input broker had not heard that we took it."""
    before = long_rig(unacknowledged=1500)
    before.up()
    before.forwarder.offer(numbered(0, 1500))
    got: list[Parcel] = []
    for _ in range(4):
        before.forwarder.pump(now=0)
        sent = before.wire.take()
        got += sent
        before.forwarder.take(Confirmed(sent), now=0.1)
    assert len(got) == 1500
    rig = long_rig(before.outbox, unacknowledged=1500)
    rig.forwarder.offer(again(0, 1500))
    rig.forwarder.pump(now=10)
    fill(rig, 1500, 2500, now=11)
    found = spans(rig.outbox)
    assert found
    assert all(first >= 1500 for first, _ in found)


def test_an_input_whose_result_is_on_disk_when_it_comes_again_is_counted_once() -> None:
    """Killed between the commit and the acknowledgement."""
    before = long_rig(unacknowledged=300, thin_share=0.05)
    now = fill(before, 0, 3100)
    assert spans(before.outbox)
    rig = long_rig(before.outbox, unacknowledged=300, thin_share=0.05)
    repeated = again(2800, 300)
    rig.forwarder.offer(repeated)
    rig.forwarder.offer(numbered(3100, 100))
    rig.forwarder.pump(now=now)
    assert settled(repeated) == [True] * 300
    fill(rig, 3200, 2000, now=now)
    rows = [json.loads(row[2]) for row in rig.outbox.peek(10**6, after=0, alert=False)]
    assert sum(one["summary"]["count"] if "summary" in one else 1 for one in rows) == 5200
    assert not any("redelivered" in one for one in rows)


def test_an_input_that_comes_again_on_a_new_connection_is_counted_once() -> None:
    """Its broker ended before it heard the acknowledgement; this agent has lived on."""
    rig = long_rig(unacknowledged=300, thin_share=0.05)
    now = fill(rig, 0, 3100)
    assert spans(rig.outbox)
    rig.forwarder.recall()
    repeated = again(2800, 300)
    rig.forwarder.offer(repeated)
    rig.forwarder.pump(now=now)
    assert settled(repeated) == [True] * 300
    fill(rig, 3100, 2000, now=now)
    rows = [json.loads(row[2]) for row in rig.outbox.peek(10**6, after=0, alert=False)]
    assert sum(one["summary"]["count"] if "summary" in one else 1 for one in rows) == 5100


def test_a_disk_that_removes_nothing_is_not_filled_with_what_the_broker_has() -> None:
    class Refusing(MemoryOutbox):
        tries = 0
        refuses = True

        def remove(self, ids: Any, *, alert: bool) -> None:
            self.tries += 1
            if self.refuses:
                raise OutboxUnavailableError(FULL)
            super().remove(ids, alert=alert)

    disk = Refusing(max_rows=4000)
    rig = long_rig(disk)
    now = fill(rig, 0, 1500)
    rig.up(now=now)
    got: list[Parcel] = []
    for _ in range(300):
        sent = rig.wire.take()
        got += sent
        now += 0.1
        rig.forwarder.take(Confirmed(sent), now=now)
        rig.forwarder.pump(now=now)
    assert MAX_GONE <= len(got) <= MAX_GONE + WINDOW
    assert disk.tries <= 35
    disk.refuses = False
    fresh = long_rig(disk)  # which has not seen what was sent
    fill(fresh, 1500, 2000, now=now)
    found = spans(disk)
    assert found
    assert all(first > int(ids(got)[-1]) for first, _ in found)


def test_rows_that_a_late_disk_has_leave_without_another_connection() -> None:
    disk = Absent()
    rig = Rig(disk)
    rig.forwarder.pump(now=0)
    rig.up(now=0.1)
    rig.forwarder.offer(numbered(5, 1))
    rig.forwarder.pump(now=1)
    [first] = rig.wire.take()
    disk.mended = True
    rig.forwarder.pump(now=6)
    assert [p.payload for p in rig.wire.take()] == [b"old"]
    rig.forwarder.take(Confirmed([first]), now=6.1)


def test_a_lowered_bound_is_kept_at_once_and_blocks_no_alert() -> None:
    rig = Rig(MemoryOutbox(max_rows=20_000), max_results=20_000, thin_share=1)
    now = fill(rig, 0, 6000)
    rig.forwarder.live_by(OutboxSettings(max_results=1000, thin_share=1), unacknowledged=0)
    for _ in range(10):
        if rig.forwarder.due_at() is None:
            break
        rig.forwarder.pump(now=now)
    assert len(rig.outbox) <= 1000
    alerts = numbered(90_000, 5, alert=True)
    rig.forwarder.offer(alerts)
    rig.forwarder.pump(now=now + GONE_S)
    assert settled(alerts) == [True] * 5
    assert 5000 <= rig.forwarder.drops["telemetry_evicted"] < 5100
    assert [event for event, _ in rig.told] == ["telemetry_evicted"]


def test_alerts_need_no_turn_of_their_own_where_the_bound_was_lowered() -> None:
    rig = Rig(MemoryOutbox(max_rows=20_000), max_results=20_000, thin_share=1)
    now = fill(rig, 0, 6000)
    rig.forwarder.live_by(OutboxSettings(max_results=1000, thin_share=1), unacknowledged=0)
    alerts = numbered(90_000, 200, alert=True)
    rig.forwarder.offer(alerts)
    rig.forwarder.pump(now=now + GONE_S)
    assert settled(alerts) == [True] * 200
    assert rig.told == [("telemetry_evicted", "outbox.evicted")]


class Unreadable(MemoryOutbox):
    """A disk with a page that nobody can read."""

    bad = False

    def peek(self, limit: int, *, after: int, alert: bool) -> list[Any]:
        if self.bad and not alert:
            msg = "outbox: disk I/O error"
            raise OutboxUnavailableError(msg)
        return super().peek(limit, after=after, alert=alert)

    def set_away(self) -> Path:
        self.bad = False
        return super().set_away()


def test_rows_that_cannot_be_read_hold_up_the_others_for_a_minute() -> None:
    disk = Unreadable(max_rows=1000)
    rig = Rig(disk)
    rig.forwarder.offer([*numbered(0, 10), *numbered(500, 2, alert=True)])
    rig.forwarder.pump(now=1)
    disk.bad = True
    rig.up(now=2)
    sent = rig.wire.take()
    made = []
    for now in range(3, 80):
        made += numbered(now * 10, 1)
        rig.forwarder.offer(made[-1:])
        rig.forwarder.pump(now=float(now))
        rig.forwarder.take(Confirmed(rig.wire.take()), now=float(now))
    assert ids(sent) == ["500", "501"]
    assert settled(made) == [True] * len(made)
    assert rig.told[1:] == [("outbox_set_aside", "outbox.damaged")]
    for now in range(80, 84):
        rig.forwarder.take(Confirmed([*sent, *rig.wire.take()]), now=float(now))
        rig.forwarder.pump(now=float(now))
    assert rig.forwarder.rows == 0
    assert rig.forwarder.idle


def test_a_file_that_is_found_damaged_is_set_aside_at_once() -> None:
    class Damaged(Unreadable):
        def append(self, rows: Any, *, alert: bool) -> list[int]:
            if self.bad:
                msg = "outbox: database disk image is malformed"
                raise OutboxDamagedError(msg)
            return super().append(rows, alert=alert)

    disk = Damaged(max_rows=1000)
    rig = Rig(disk)
    rig.forwarder.offer(numbered(0, 10))
    rig.forwarder.pump(now=1)
    disk.bad = True
    made = numbered(10, 3)
    rig.forwarder.offer(made)
    rig.forwarder.pump(now=2)
    rig.forwarder.pump(now=3)
    assert settled(made) == [True] * 3
    assert rig.forwarder.rows == 3
    assert ("outbox_set_aside", "outbox.damaged") in rig.told
    rig.up(now=4)
    assert ids(rig.wire.take()) == ["10", "11", "12"]


def test_a_disk_that_never_serves_is_tried_once_a_minute() -> None:
    class Counting(Absent):
        tries = 0

        def open(self) -> Rows:
            self.tries += 1
            return super().open()

    disk = Counting()
    rig = Rig(disk)
    for now in range(3600):
        rig.forwarder.pump(now=float(now))
    assert disk.tries <= 65


def event(number: int) -> Parcel:
    return Parcel("e", b"%d" % number, 0.0, None)


def test_events_that_make_room_on_their_way_are_lost_only_if_the_link_goes() -> None:
    rig = Rig()
    rig.up()
    events = [event(number) for number in range(MAX_NOTES + 30)]
    for one in events:
        rig.forwarder.note(one)
    assert rig.wire.take() == events
    assert rig.forwarder.drops == {}
    rig.forwarder.take(Confirmed(events[:20]), now=1)
    rig.down(now=2)
    assert rig.forwarder.drops == {"event": 10}
    rig.up(now=3)
    assert rig.wire.take() == events[30:]


def test_events_that_make_room_while_the_link_is_down_or_takes_none_are_lost() -> None:
    rig = Rig()
    for number in range(MAX_NOTES + 7):
        rig.forwarder.note(event(number))
    assert rig.forwarder.drops == {"event": 7}
    rig.up()
    for number in range(MAX_LET_GO + 3):
        rig.forwarder.note(event(number))
    assert rig.forwarder.drops == {"event": 10}


def test_an_event_that_the_broker_put_off_is_not_on_its_way() -> None:
    rig = Rig()
    rig.up()
    events = [event(number) for number in range(MAX_NOTES)]
    for one in events:
        rig.forwarder.note(one)
    rig.forwarder.take(Confirmed([], [], [(one, "quota") for one in events[:5]]), now=1)
    for number in range(8):
        rig.forwarder.note(event(number))
    assert rig.forwarder.drops == {"event": 5}
    rig.forwarder.take(Confirmed([], [], [(one, "quota") for one in events[5:7]]), now=2)
    assert rig.forwarder.drops == {"event": 7}
    rig.forwarder.take(Confirmed(events[7:]), now=3)
    rig.down(now=4)
    assert rig.forwarder.drops == {"event": 7}


def test_events_that_the_broker_put_off_are_sent_again_after_a_while_on_the_same_link() -> None:
    rig = Rig()
    rig.up()
    first, second, third = (event(number) for number in range(3))
    rig.forwarder.note(first)
    rig.forwarder.note(second)
    assert rig.wire.take() == [first, second]
    rig.forwarder.take(Confirmed([], [], [(first, "quota")]), now=1)
    rig.forwarder.take(Confirmed([], [], [(second, "quota")]), now=2)
    rig.forwarder.note(third)
    assert rig.wire.take() == [third]
    assert rig.forwarder.due_at() == 1 + NOTE_S
    rig.forwarder.pump(now=NOTE_S)
    assert rig.wire.take() == []
    rig.forwarder.pump(now=1 + NOTE_S)
    assert rig.wire.take() == [first, second], "and not the one that is on its way"
    assert rig.forwarder.due_at() is None
    rig.forwarder.take(Confirmed([second, third], [], [(first, "quota")]), now=50)
    rig.down(now=51)
    rig.forwarder.pump(now=50 + NOTE_S)
    rig.up(now=90)
    assert rig.wire.take() == [first]
    assert rig.forwarder.drops == {}


def test_events_that_the_broker_never_takes_are_sent_ever_less_often() -> None:
    rig = Rig()
    rig.up()
    rig.forwarder.note(event(0))
    waits, now = [], 0.0
    for _ in range(12):
        rig.forwarder.take(Confirmed([], [], [(e, "rules") for e in rig.wire.take()]), now=now)
        due = rig.forwarder.due_at()
        assert due is not None
        waits.append(due - now)
        now = due
        rig.forwarder.pump(now=now)
    assert waits[:3] == [NOTE_S, 2 * NOTE_S, 4 * NOTE_S]
    assert waits[-1] == NOTE_CAP_S
    rig.forwarder.take(Confirmed(rig.wire.take()), now=now)
    rig.forwarder.note(event(1))
    rig.forwarder.take(Confirmed([], [], [(e, "rules") for e in rig.wire.take()]), now=now)
    assert rig.forwarder.due_at() == now + NOTE_S
