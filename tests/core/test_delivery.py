"""No result is lost, none overtakes another, none is acknowledged before it is safe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeslm.core.delivery import NO_PROPERTIES, Parcel, Row, Uplink
from edgeslm.core.lane import Lane, Ticket
from edgeslm.core.pace import Pace


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_whatever_the_order_of_workers_and_broker_the_lane_keeps_arrival_order(
    answered: list[int], settled: list[int]
) -> None:
    lane: Lane[Ticket] = Lane()
    tickets = [Ticket() for _ in range(8)]
    for ticket in tickets:
        lane.arrive(ticket)
    left: list[Ticket] = []
    for i in answered:
        tickets[i].answered = True
        left += lane.leave()
        assert left == tickets[: len(left)]
        assert all(t.answered for t in left)
    assert left == tickets
    done: list[Ticket] = []
    for i in settled:
        tickets[i].settled = True
        done += lane.acknowledge()
        assert done == tickets[: len(done)]
        assert all(t.settled for t in done)
        assert len(lane) == 8 - len(done)
    assert done == tickets


def test_nothing_is_acknowledged_before_its_result_has_left() -> None:
    lane: Lane[Ticket] = Lane()
    ticket = Ticket()
    lane.arrive(ticket)
    ticket.settled = True  # as a dropped input, which has no result
    assert lane.acknowledge() == []
    ticket.answered = True
    assert lane.leave() == [ticket]
    assert lane.acknowledge() == [ticket]


class Delivery(RuleBasedStateMachine):
    """An `Uplink` with a disk of a few rows and a link that may go at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.made: list[Parcel] = []  # every result, in order of leaving
        self.tickets: list[Ticket] = []
        self.disk: dict[int, Row] = {}
        self.last_row = 0
        self.wire: list[Parcel] = []  # sent and not confirmed on this connection
        self.sent: set[bytes] = set()  # on this connection
        self.received: list[bytes] = []  # by the broker, in order, duplicates included
        self.acked: set[bytes] = set()
        self.given_up: set[bytes] = set()
        self.handed: set[bytes] = set()  # to any connection
        self.room = 0

    @initialize(
        window=st.integers(1, 6),
        room=st.integers(0, 20),
        batch=st.integers(1, 4),
        per_s=st.sampled_from([None, 2, 50]),
    )
    def begin(self, window: int, room: int, batch: int, per_s: int | None) -> None:
        self.room = room
        self.window = window
        self.uplink = Uplink(
            window=window,
            ack_timeout_s=5,
            rows=0,
            batch=batch,
            batch_wait_s=0.2,
            retry_s=1,
            pace=None if per_s is None else Pace(per_s),
        )

    @rule(count=st.integers(1, 5))
    def results_leave(self, count: int) -> None:
        parcels = []
        for _ in range(count):
            ticket = Ticket()
            payload = str(len(self.made)).encode()
            parcels.append(Parcel("t", payload, self.now, ticket))
            self.made.append(parcels[-1])
            self.tickets.append(ticket)
        self.uplink.offer(parcels)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.3, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.uplink.connected)
    @rule()
    def link_comes_up(self) -> None:
        self.uplink.up()

    @precondition(lambda self: self.uplink.connected)
    @rule()
    def link_goes_down(self) -> None:
        self.uplink.down()
        self.wire.clear()
        self.sent.clear()

    @rule(count=st.integers(1, 6))
    def broker_confirms(self, count: int) -> None:
        done, self.wire = self.wire[:count], self.wire[count:]
        self.acked |= {p.payload for p in done}
        self.uplink.confirmed(done, now=self.now)

    @rule(first=st.integers(0, 3), count=st.integers(1, 6))
    def broker_defers(self, first: int, count: int) -> None:
        later = self.wire[first : first + count]
        self.wire = self.wire[:first] + self.wire[first + count :]
        self.sent -= {p.payload for p in later}
        self.uplink.defer(later)

    @rule()
    def broker_is_tried_again(self) -> None:
        self.uplink.resume()

    @rule(room=st.integers(0, 20))
    def disk_changes(self, room: int) -> None:
        self.room = room

    @rule()
    def send(self) -> None:
        parcels = self.uplink.to_send(now=self.now)
        self.wire += parcels
        assert len(self.wire) <= self.window
        for parcel in parcels:
            assert parcel.payload not in self.sent  # twice on one connection
            self.sent.add(parcel.payload)
            self.handed.add(parcel.payload)
            self.received.append(parcel.payload)

    @rule(works=st.booleans())
    def remove(self, *, works: bool) -> None:
        if (ids := self.uplink.to_remove(now=self.now)) and works:
            for row in ids:
                assert self.disk[row][2] in self.acked  # only what the broker has
                del self.disk[row]
            self.uplink.removed()

    @rule()
    def fetch(self) -> None:
        if (wanted := self.uplink.to_fetch(now=self.now)) is not None:
            limit, after = wanted
            assert limit > 0
            rows = [r for i, r in sorted(self.disk.items()) if i > after][:limit]
            assert rows
            self.uplink.fetched(rows, now=self.now)

    @rule()
    def commit(self) -> None:
        while parcels := self.uplink.to_commit(now=self.now):
            free = max(0, self.room - len(self.disk))
            part = parcels[:free]
            if not part:
                self.uplink.refused(now=self.now)
                break
            ids = list(range(self.last_row + 1, self.last_row + 1 + len(part)))
            self.last_row += len(part)
            for i, p in zip(ids, part, strict=True):
                self.disk[i] = (i, p.topic, p.payload, NO_PROPERTIES)
            self.uplink.committed(part, ids)

    @rule(count=st.integers(1, 3), unsent=st.booleans())
    def give_up(self, count: int, *, unsent: bool) -> None:
        """The oldest rows that may go; with `unsent`, of those that nobody can have."""
        most, after = self.uplink.spare
        after = max(after, self.uplink.reached) if unsent else after
        rows = [row for id_, row in sorted(self.disk.items()) if id_ > after][: min(count, most)]
        for id_, _, payload, _ in rows:
            assert payload not in self.sent  # on this connection
            assert not unsent or payload not in self.handed
            del self.disk[id_]
            self.given_up.add(payload)
        self.uplink.gave_up(len(rows))

    @rule()
    def pump(self) -> None:
        self.remove(works=True)
        self.fetch()
        self.send()
        self.commit()

    @invariant()
    def only_what_is_safe_is_settled(self) -> None:
        on_disk = {row[2] for row in self.disk.values()}
        for parcel, ticket in zip(self.made, self.tickets, strict=True):
            if ticket.settled:
                assert parcel.payload in self.acked | on_disk | self.given_up

    @invariant()
    def first_sendings_are_in_order(self) -> None:
        firsts = [int(payload) for payload in dict.fromkeys(self.received)]
        assert firsts == sorted(firsts)
        passed = {str(i).encode() for i in range(firsts[-1])} if firsts else set()
        assert passed <= set(self.received) | self.given_up

    @invariant()
    def the_count_of_rows_is_right(self) -> None:
        if hasattr(self, "uplink"):
            assert self.uplink.rows == len(self.disk)

    def teardown(self) -> None:
        """Everything arrives once the link stays up, whatever the disk does."""
        if not hasattr(self, "uplink"):
            return
        if not self.uplink.connected:
            self.uplink.up()
        self.uplink.resume()
        for _ in range(4 * len(self.made) + 20):
            self.pump()
            self.broker_confirms(100)
            self.now += 0.3
        assert self.acked | self.given_up == {p.payload for p in self.made}
        assert all(t.settled for t in self.tickets)
        assert not self.disk
        assert self.uplink.idle
        assert self.uplink.due_at() is None


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def uplink(**settings: float) -> Uplink:
    return Uplink(window=int(settings.get("window", 100)), ack_timeout_s=5, rows=0, batch=4)


def parcels(count: int, *, born: float = 0.0) -> list[Parcel]:
    return [Parcel("t", b"%d" % i, born, Ticket()) for i in range(count)]


def test_a_link_that_confirms_in_time_never_costs_a_write() -> None:
    up = uplink()
    up.up()
    for i in range(50):
        made = parcels(3, born=float(i))
        up.offer(made)
        assert up.to_send(now=0) == made
        assert up.to_commit(now=i + 0.5) == []
        up.confirmed(made, now=i + 0.5)
        assert all(p.ticket is not None and p.ticket.settled for p in made)
    assert up.rows == 0


def test_what_the_broker_put_off_counts_as_handed_over_when_it_comes_to_disk() -> None:
    up = uplink()
    up.up()
    made = parcels(2)
    up.offer(made)
    up.defer(up.to_send(now=0)[:1])
    up.committed(up.to_commit(now=6, flush=True)[:1], [7])
    assert up.reached == 7


def test_without_a_link_results_are_written_in_batches_or_after_200_ms() -> None:
    up = uplink()
    made = parcels(5)
    up.offer(made)
    assert up.to_commit(now=0.01) == made[:4]
    up.committed(made[:4], [1, 2, 3, 4])
    assert up.to_commit(now=0.19) == []
    assert up.due_at() == pytest.approx(0.2)
    assert up.to_commit(now=0.21) == made[4:]


def test_what_is_not_confirmed_in_time_is_written_but_not_sent_twice() -> None:
    up = uplink()
    up.up()
    made = parcels(2)
    up.offer(made)
    up.to_send(now=0)
    assert up.to_commit(now=4.9) == []
    assert up.to_commit(now=5.1) == made
    tickets = [p.ticket for p in made]
    up.committed(made, [1, 2])
    assert all(t is not None and t.settled for t in tickets)
    assert up.to_send(now=0) == []
    assert up.to_fetch(now=0) is None
    up.confirmed(made, now=6)
    assert up.to_remove(now=7) == [1, 2]


def test_what_was_in_flight_when_the_link_went_is_sent_again_first() -> None:
    up = uplink(window=3)
    up.up()
    made = parcels(5)
    up.offer(made)
    assert up.to_send(now=0) == made[:3]
    up.confirmed(made[:1], now=0)
    up.down()
    up.confirmed(made[1:2], now=0)  # too late: it speaks of the old connection
    up.up()
    assert up.to_send(now=0) == made[1:4]


def test_nothing_new_overtakes_rows_that_wait() -> None:
    up = Uplink(window=9, ack_timeout_s=5, rows=2)
    up.up()
    up.offer(parcels(1))
    assert up.to_send(now=0) == []
    assert up.to_fetch(now=0) == (9, 0)
    up.fetched([(1, "t", b"", NO_PROPERTIES)], now=0)
    assert [p.row for p in up.to_send(now=0)] == [1]
    up.fetched([(2, "t", b"", NO_PROPERTIES)], now=0)
    assert [p.row for p in up.to_send(now=0)] == [2, None]


class Disk:
    """Rows as an outbox keeps them, and a link that takes what it is given."""

    def __init__(self, up: Uplink, rows: int) -> None:
        self.up = up
        self.rows = list(range(1, rows + 1))

    def turn(self) -> list[int | None]:
        """Fetch and send once; return the rows that were sent."""
        if (wanted := self.up.to_fetch(now=0)) is not None:
            limit, after = wanted
            found = [(i, "t", b"%d" % i, NO_PROPERTIES) for i in self.rows if i > after][:limit]
            self.up.fetched(found, now=0)
        self.sent = self.up.to_send(now=0)
        return [p.row for p in self.sent]


def test_rows_are_sent_once_each_in_order_by_windows() -> None:
    disk = Disk(Uplink(window=2, ack_timeout_s=5, rows=5), 5)
    disk.up.up()
    seen: list[int | None] = []
    for _ in range(4):
        seen += disk.turn()
        disk.up.confirmed(disk.sent, now=0)
    assert seen == [1, 2, 3, 4, 5]


def test_rows_not_confirmed_when_the_link_goes_are_read_again() -> None:
    disk = Disk(Uplink(window=3, ack_timeout_s=5, rows=5), 5)
    disk.up.up()
    assert disk.turn() == [1, 2, 3]
    disk.up.confirmed(disk.sent[:2], now=0)
    disk.up.to_fetch(now=0)
    disk.up.fetched([(4, "t", b"4", NO_PROPERTIES), (5, "t", b"5", NO_PROPERTIES)], now=0)
    disk.up.down()
    disk.up.up()
    assert disk.up.to_fetch(now=0) is None  # 1 and 2 would come back: they are to be removed first
    assert disk.up.to_remove(now=0) == [1, 2]
    disk.rows = [3, 4, 5]
    disk.up.removed()
    assert disk.turn() == [3, 4, 5]


def test_rows_written_while_in_flight_are_not_read_back() -> None:
    up = Uplink(window=2, ack_timeout_s=5, rows=0, batch=9)
    disk = Disk(up, 4)
    up.up()
    made = parcels(4)
    up.offer(made)
    assert up.to_send(now=0) == made[:2]
    assert up.to_commit(now=6) == made
    up.committed(made, [1, 2, 3, 4])
    up.confirmed(made[:2], now=6)
    assert disk.turn() == [3, 4]


def test_a_refused_write_is_tried_again_after_a_second_or_when_there_is_room() -> None:
    up = uplink()
    made = parcels(4)
    up.offer(made)
    assert up.to_commit(now=1)
    up.refused(now=1)
    assert up.withheld == 4
    assert up.to_commit(now=1.9) == []
    assert up.due_at() == pytest.approx(2)
    assert up.to_commit(now=2) == made
    up.committed(made, [1, 2, 3, 4])
    assert up.withheld == 0


def test_while_rows_wait_writing_is_at_most_half_of_sending() -> None:
    up = Uplink(window=4, ack_timeout_s=1000, rows=1000, batch=4)
    up.up()
    disk = 1000
    sent = written = 0
    row = 1000
    cursor = 0
    for turn in range(2000):
        now = turn * 0.3
        up.offer(parcels(8, born=now))
        if up.to_remove(now=now):
            up.removed()
        if (wanted := up.to_fetch(now=0)) is not None:
            rows = [(i, "t", b"", NO_PROPERTIES) for i in range(cursor + 1, row + 1)][: wanted[0]]
            cursor = rows[-1][0]
            up.fetched(rows, now=now)
        out = up.to_send(now=0)
        sent += len(out)
        up.confirmed(out, now=now)
        while batch := up.to_commit(now=now):
            up.committed(batch, range(row + 1, row + 1 + len(batch)))
            row += len(batch)
            written += len(batch)
        disk = up.rows
        if disk == 0:
            break
    assert disk == 0
    assert 0 < written <= sent / 2 + 8


def test_the_disk_empties_at_its_pace_beside_what_comes_in() -> None:
    """Twenty new results a second and ten from disk: a hundred rows take ten seconds."""
    up = Uplink(window=100, ack_timeout_s=5, rows=100, batch=4, pace=Pace(10))
    up.up()
    rows = list(range(1, 101))
    sent: list[tuple[float, int | None]] = []
    now = 0.0
    while up.rows and now < 30:
        if gone := up.to_remove(now=now):
            rows = [row for row in rows if row not in gone]
            up.removed()
        up.offer(parcels(2, born=now))
        while (wanted := up.to_fetch(now=now)) is not None:
            found = [(i, "t", b"", NO_PROPERTIES) for i in rows if i > wanted[1]][: wanted[0]]
            up.fetched(found, now=now)
            out = up.to_send(now=now)
            sent += [(now, parcel.row) for parcel in out]
            up.confirmed(out, now=now)
        while batch := up.to_commit(now=now):
            ids = [(rows[-1] if rows else 1000) + i + 1 for i in range(len(batch))]
            rows += ids
            up.committed(batch, ids)
        assert up.withheld == 0
        now += 0.1
    assert 8 <= now <= 12
    assert all(sum(now - 1 < at <= now for at, _ in sent) <= 42 for now in range(1, 10))
    assert sum(2 < at <= 8 for at, _ in sent) == pytest.approx(6 * 30, rel=0.1)


def test_a_pace_says_when_there_is_room_again() -> None:
    up = Uplink(window=100, ack_timeout_s=5, rows=50, pace=Pace(10))
    up.up()
    up.fetched([(i, "t", b"", NO_PROPERTIES) for i in range(1, 11)], now=0)
    assert len(up.to_send(now=0)) == 10
    assert up.to_fetch(now=0.05) is None
    assert up.due_at() == pytest.approx(0.1)
    assert up.to_fetch(now=0.35) == (3, 10)


def test_what_came_in_during_the_outage_waits_for_the_pace_like_the_rest() -> None:
    up = Uplink(window=100, ack_timeout_s=5, rows=0, batch=4, pace=Pace(10))
    made = parcels(50)
    up.offer(made)
    row = 0
    while batch := up.to_commit(now=1):
        up.committed(batch, range(row + 1, row + 1 + len(batch)))
        row += len(batch)
        up.offer(parcels(2, born=1.0))
    up.up()
    assert up.to_fetch(now=1) == (10, 0)


def paced(rows: int, *, per_s: int = 1000) -> Disk:
    """A disk of so many rows, whose link has come up."""
    disk = Disk(Uplink(window=10, ack_timeout_s=5, rows=rows, batch=4, pace=Pace(per_s)), rows)
    disk.up.up()
    return disk


def test_what_a_connection_may_have_brought_is_not_forgotten_in_a_shorter_one() -> None:
    disk = paced(20)
    assert disk.turn() == list(range(1, 11))
    disk.up.down()
    disk.up.up()
    disk.up.to_fetch(now=0)
    disk.up.fetched([(1, "t", b"1", NO_PROPERTIES)], now=0)
    assert [p.row for p in disk.up.to_send(now=0)] == [1]
    disk.up.down()
    assert disk.up.reached == 10


def test_rows_that_are_found_late_leave_while_newer_ones_are_on_their_way() -> None:
    for written in (False, True):
        up = Uplink(window=10, ack_timeout_s=5, rows=0, batch=4)
        disk = Disk(up, 0)
        up.up()
        made = parcels(2)
        up.offer(made)
        assert up.to_send(now=0) == made
        up.found(3)
        disk.rows = [1, 2, 3]
        if written:
            assert up.to_commit(now=6) == made
            disk.rows += [4, 5]
            up.committed(made, [4, 5])
        up.offer(parcels(1, born=6.0))
        assert up.spare == (0, 0)  # they are below what is on its way
        assert disk.turn()[:3] == [1, 2, 3]
        up.confirmed([*made, *disk.sent], now=7)
        disk.rows = [row for row in disk.rows if row not in up.to_remove(now=8)]
        up.removed()
        assert up.to_fetch(now=9) is None
        assert not disk.rows
        assert up.rows == 0


def test_what_is_removed_waits_for_company_unless_room_is_wanted() -> None:
    up = Uplink(window=20, ack_timeout_s=5, rows=9, batch=2, gone_batch=4, gone_wait_s=1.0)
    disk = Disk(up, 9)
    up.up()
    disk.turn()
    up.confirmed(disk.sent[:3], now=10)
    assert up.to_remove(now=10.9) == []
    assert up.due_at() == pytest.approx(11.0)
    assert up.to_remove(now=11) == [1, 2, 3]
    up.removed()
    up.confirmed(disk.sent[3:7], now=12)
    assert up.to_remove(now=12) == [4, 5, 6, 7]
    up.removed()
    up.confirmed(disk.sent[7:8], now=13)
    assert up.to_remove(now=13) == []
    up.refused(now=13)  # there is no room for another result
    assert up.to_remove(now=13) == [8]


def test_a_disk_that_removes_nothing_is_asked_once_a_second_and_read_no_further() -> None:
    disk = Disk(Uplink(window=4, ack_timeout_s=5, rows=50, batch=4, max_gone=8), 50)
    disk.up.up()
    seen: list[int | None] = []
    tries = 0
    for tenth in range(50):
        now = tenth / 10
        if disk.up.to_remove(now=now):
            tries += 1
            disk.up.not_removed(now=now)
        seen += disk.turn()
        disk.up.confirmed(disk.sent, now=now)
    assert seen == list(range(1, 9))
    assert tries == 5
    assert disk.up.due_at() == pytest.approx(5.1, abs=0.2)
    gone = disk.up.to_remove(now=6)
    assert gone == seen
    disk.up.removed()
    disk.rows = [row for row in disk.rows if row not in gone]
    assert disk.turn() == [9, 10, 11, 12]


def test_a_disk_that_begins_anew_takes_what_is_in_memory() -> None:
    disk = paced(20)
    assert disk.turn() == list(range(1, 11))
    on_the_way = disk.sent
    made = parcels(2)
    disk.up.offer(made)
    disk.up.confirmed(on_the_way[:4], now=0)
    disk.up.fetched([(11, "t", b"11", NO_PROPERTIES)], now=0)
    disk.up.lost()
    assert disk.up.rows == 0
    assert disk.up.to_remove(now=9) == []
    [eleven, *rest] = disk.up.to_send(now=0)
    assert eleven.payload == b"11"
    assert rest == made
    disk.up.down()
    out: list[Parcel] = []
    while batch := disk.up.to_commit(now=9):
        disk.up.committed(batch, range(len(out) + 1, len(out) + 1 + len(batch)))
        out += batch
    assert out == [*on_the_way[4:], eleven, *made]


def test_what_is_on_its_way_is_not_written_because_there_is_much_to_catch_up_with() -> None:
    """Nor is what waits behind it: on disk it would overtake it."""
    up = Uplink(window=100, ack_timeout_s=5, rows=2, pace=Pace(3))
    made = parcels(5)
    up.offer(made)
    up.up()
    up.fetched([(n, "t", b"", NO_PROPERTIES) for n in (1, 2)], now=0)
    assert up.to_send(now=0)[2:] == made[:1]
    assert up.to_commit(now=0.6) == []
    assert up.to_commit(now=5.1) == made
    up.confirmed(made[:1], now=0.6)
    assert up.to_commit(now=0.6) == made[1:]
