"""What every outbox must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from edgeslm.adapters.loopback import MemoryOutbox
from edgeslm.adapters.outbox import SqliteOutbox
from edgeslm.core.backlog import Grown, Thinned
from edgeslm.ports import Outbox, OutboxFullError, OutboxRow, Rows

NONE: Mapping[str, object] = {}


class OneLane:
    """An outbox as one of its lanes sees it."""

    def __init__(self, outbox: Outbox, *, alert: bool) -> None:
        self.outbox = outbox
        self.limit = outbox.limit
        self._alert = alert

    def append(self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]]) -> list[int]:
        return self.outbox.append(rows, alert=self._alert)

    def peek(self, limit: int, *, after: int) -> list[OutboxRow]:
        return self.outbox.peek(limit, after=after, alert=self._alert)

    def remove(self, ids: Sequence[int]) -> None:
        self.outbox.remove(ids, alert=self._alert)

    def __len__(self) -> int:
        return len(self.outbox)


MakeBox = Callable[..., Outbox]
Make = Callable[..., OneLane]


@pytest.fixture(params=["memory", "sqlite"])
def make_box(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBox]:
    made: list[SqliteOutbox] = []

    def sqlite(*, max_rows: int, max_bytes: int = 1 << 30) -> Outbox:
        path = tmp_path / f"outbox{len(made)}.sqlite"
        made.append(SqliteOutbox(path, max_rows=max_rows, max_bytes=max_bytes))
        return made[-1]

    yield MemoryOutbox if request.param == "memory" else sqlite
    for box in made:
        box.close()


@pytest.fixture(params=[True, False], ids=["alerts", "telemetry"])
def make(request: pytest.FixtureRequest, make_box: MakeBox) -> Make:
    return lambda **bounds: OneLane(make_box(**bounds), alert=request.param)


def test_rows_come_back_whole_and_in_order(make: Make) -> None:
    box = make(max_rows=10)
    data = {"CorrelationData": b"\x00\xff"}
    ids = box.append([("a/b", b"1", NONE), ("a/\N{SNOWMAN}", b"\x00\xff", data)])
    ids += box.append([("c", b"", NONE)])
    assert ids == sorted(set(ids))
    assert box.peek(10, after=0) == [
        (ids[0], "a/b", b"1", NONE),
        (ids[1], "a/\N{SNOWMAN}", b"\x00\xff", data),
        (ids[2], "c", b"", NONE),
    ]
    assert len(box) == 3


def test_peek_begins_after_a_row_and_stops_at_its_limit(make: Make) -> None:
    box = make(max_rows=10)
    ids = box.append([("t", bytes([i]), NONE) for i in range(6)])
    assert [row[0] for row in box.peek(2, after=ids[1])] == ids[2:4]
    assert box.peek(5, after=ids[5]) == []


def test_removed_rows_are_gone_and_unknown_ids_are_ignored(make: Make) -> None:
    box = make(max_rows=10)
    ids = box.append([("t", b"x", NONE)] * 3)
    box.remove([ids[0], ids[2], 99, ids[0]])
    assert [row[0] for row in box.peek(9, after=0)] == [ids[1]]
    assert len(box) == 1


def test_an_id_is_never_given_twice(make: Make) -> None:
    box = make(max_rows=10)
    first = box.append([("t", b"x", NONE)])
    box.remove(first)
    assert box.append([("t", b"x", NONE)])[0] > first[0]


def test_a_batch_past_the_rows_bound_is_refused_whole(make: Make) -> None:
    box = make(max_rows=3)
    box.append([("t", b"x", NONE)] * 2)
    with pytest.raises(OutboxFullError):
        box.append([("t", b"y", NONE)] * 2)
    assert len(box) == 2
    box.append([("t", b"z", NONE)])
    assert [row[2] for row in box.peek(9, after=0)] == [b"x", b"x", b"z"]


def test_bounds_may_change_and_what_is_held_stays(make: Make) -> None:
    box = make(max_rows=3)
    ids = box.append([("t", b"x", NONE)] * 3)
    box.limit(max_rows=2, max_bytes=1 << 30)
    assert len(box) == 3
    box.remove(ids[:1])
    with pytest.raises(OutboxFullError):
        box.append([("t", b"y", NONE)])
    box.limit(max_rows=9, max_bytes=4)
    with pytest.raises(OutboxFullError):
        box.append([("t", b"y", NONE)])
    box.limit(max_rows=9, max_bytes=1 << 30)
    assert box.append([("t", b"y", NONE)])


def test_a_batch_past_the_bytes_bound_is_refused_and_removing_makes_room(make: Make) -> None:
    box = make(max_rows=100, max_bytes=2000)
    ids = box.append([("t", bytes(900), NONE)])
    with pytest.raises(OutboxFullError):
        box.append([("t", bytes(1200), NONE)])
    box.remove(ids)
    box.append([("t", bytes(1200), NONE)])
    assert len(box) == 1


def test_lanes_are_apart_and_share_the_bound(make_box: MakeBox) -> None:
    box = make_box(max_rows=4)
    alerts = box.append([("t", b"alert", NONE)] * 2, alert=True)
    telemetry = box.append([("t", b"telemetry", NONE)], alert=False)
    assert box.rows == Rows(alerts=2, telemetry=1)
    assert box.share == 3 / 4
    assert [row[2] for row in box.peek(9, after=0, alert=True)] == [b"alert"] * 2
    assert [row[2] for row in box.peek(9, after=0, alert=False)] == [b"telemetry"]
    for alert in (True, False):
        with pytest.raises(OutboxFullError) as failure:
            box.append([("t", b"x", NONE)] * 3, alert=alert)
        assert failure.value.rows == 2
    box.remove(alerts, alert=True)
    assert box.rows == Rows(alerts=0, telemetry=1)
    box.remove(telemetry, alert=False)
    assert len(box) == 0


def test_a_full_outbox_says_by_how_many_bytes(make_box: MakeBox) -> None:
    box = make_box(max_rows=10, max_bytes=2000)
    box.append([("t", bytes(1000), NONE)], alert=False)
    with pytest.raises(OutboxFullError) as failure:
        box.append([("t", bytes(1500), NONE)], alert=True)
    assert 500 <= failure.value.size <= 700
    assert failure.value.rows <= 0


def test_thinned_rows_keep_their_place_and_say_what_they_stand_for(make_box: MakeBox) -> None:
    box = make_box(max_rows=10)
    data = {"CorrelationData": b"c"}
    ids = box.append([("t", bytes([i]), data) for i in range(5)], alert=False)
    before = box.share
    box.thin(Thinned([Grown(ids[2], b"sum", 3)], [ids[0], ids[1]], 3), reason="thinned")
    assert box.peek(9, after=0, alert=False) == [
        (ids[2], "t", b"sum", NONE),
        (ids[3], "t", b"\x03", data),
        (ids[4], "t", b"\x04", data),
    ]
    found = box.oldest(2, after=0)
    assert [(stored.row, stored.results) for stored in found] == [(ids[2], 3), (ids[3], 1)]
    assert found[0].size == found[1].size + 2
    assert found[0].age_s < 5
    assert len(box) == 3
    assert box.share < before


def test_what_is_given_up_is_gone_and_counted(make_box: MakeBox) -> None:
    box = make_box(max_rows=10)
    ids = box.append([("t", bytes([i]), NONE) for i in range(5)], alert=False)
    box.give_up(ids[:2], reason="evicted", results=7)
    box.give_up(ids[2:3], reason="evicted", results=1)
    box.thin(Thinned([Grown(ids[4], b"sum", 2)], ids[3:4], 2), reason="thinned")
    assert dict(box.given_up) == {"evicted": 8, "thinned": 2}
    assert [row[0] for row in box.peek(9, after=0, alert=False)] == ids[4:]
    assert len(box) == 1


def test_the_newest_rows_are_those_written_last(make_box: MakeBox) -> None:
    box = make_box(max_rows=10)
    for alert in (True, False):
        box.append([("t", bytes([i]), NONE) for i in range(5)], alert=alert)
        assert sorted(box.newest(2, alert=alert)) == [b"\x03", b"\x04"]
        assert box.newest(0, alert=alert) == []
    assert len(box.newest(99, alert=False)) == 5


def test_what_is_set_away_is_held_no_more(make_box: MakeBox) -> None:
    box = make_box(max_rows=10)
    box.append([("t", b"x", NONE)] * 5, alert=True)
    box.set_away()
    assert box.rows == Rows(0, 0)
    box.open()
    assert box.peek(9, after=0, alert=True) == []
    box.append([("t", b"y", NONE)], alert=True)
    assert len(box) == 1
