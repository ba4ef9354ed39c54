"""What every outbox must do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from edgeslm.adapters.loopback import MemoryOutbox
from edgeslm.adapters.outbox import SqliteOutbox
from edgeslm.ports import Outbox, OutboxFullError

Make = Callable[..., Outbox]
NONE: Mapping[str, object] = {}


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[SqliteOutbox] = []

    def sqlite(*, max_rows: int, max_bytes: int = 1 << 30) -> Outbox:
        path = tmp_path / f"outbox{len(made)}.sqlite"
        made.append(SqliteOutbox(path, max_rows=max_rows, max_bytes=max_bytes))
        return made[-1]

    yield MemoryOutbox if request.param == "memory" else sqlite
    for box in made:
        box.close()


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
