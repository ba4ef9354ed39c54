"""What the outbox on disk does besides what every outbox does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeslm.adapters import outbox
from edgeslm.adapters.outbox import SqliteOutbox
from edgeslm.core.backlog import Grown, Thinned
from edgeslm.ports import OutboxDamagedError, OutboxUnavailableError, Rows

WRITER = """
import sys
from pathlib import Path
from edgeslm.adapters.outbox import SqliteOutbox
box = SqliteOutbox(Path(sys.argv[1]), max_rows=10**6, max_bytes=10**9)
n = 0
while True:
    for alert in (False, True):
        box.append([("t", str(i).encode(), {}) for i in range(n, n + 64)], alert=alert)
    n += 64
    print(n, flush=True)
"""


def opened(path: Path) -> SqliteOutbox:
    return SqliteOutbox(path, max_rows=10**6, max_bytes=10**9)


def test_rows_outlive_the_object(tmp_path: Path) -> None:
    first = opened(tmp_path / "o")
    ids = first.append([("t", b"x", {"CorrelationData": b"c"})], alert=False)
    first.close()
    again = opened(tmp_path / "o")
    assert again.peek(9, after=0, alert=False) == [(ids[0], "t", b"x", {"CorrelationData": b"c"})]
    assert again.set_aside is None
    again.close()


def test_what_was_committed_outlives_kill_9(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITER, str(tmp_path / "o")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(5)]
        writer.send_signal(signal.SIGKILL)
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    box = opened(tmp_path / "o")
    for alert in (True, False):
        rows = box.peek(10**6, after=0, alert=alert)
        assert len(rows) >= said[-1]
        assert [row[2] for row in rows] == [str(i).encode() for i in range(len(rows))]
    box.close()


@pytest.mark.parametrize("damage", ["not a database", "torn", "foreign"])
def test_a_damaged_file_is_set_aside_and_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "o"
    if damage == "not a database":
        path.write_bytes(b"something else entirely" * 100)
    else:
        box = opened(path)
        box.append([("t", os.urandom(500), {}) for _ in range(200)], alert=False)
        if damage == "foreign":
            box._db(alert=False).execute("PRAGMA user_version = 99")  # noqa: SLF001 -- as a later release would
        box.close()
    if damage == "torn":
        data = bytearray(path.read_bytes())
        data[4096 : len(data) // 2] = os.urandom(len(data) // 2 - 4096)
        path.write_bytes(data)
    before = path.read_bytes()
    box = opened(path)
    assert len(box) == 0
    assert box.set_aside is not None
    assert box.set_aside.read_bytes() == before
    box.append([("t", b"x", {})], alert=False)
    box.close()


def test_a_disk_that_fails_at_the_start_is_tried_again(tmp_path: Path) -> None:
    before = opened(tmp_path / "disk")
    ids = before.append([("t", b"x", {})] * 3, alert=False)
    before.close()
    (tmp_path / "disk").rename(tmp_path / "away")
    (tmp_path / "disk").mkdir()  # so that the file cannot be opened
    box = opened(tmp_path / "disk")
    assert len(box) == 0
    for use in (
        box.open,
        lambda: box.append([("t", b"y", {})], alert=False),
        lambda: box.peek(1, after=0, alert=False),
    ):
        with pytest.raises(OutboxUnavailableError, match="disk"):
            use()
    (tmp_path / "disk").rmdir()
    (tmp_path / "away").rename(tmp_path / "disk")
    assert box.open() == box.rows == Rows(alerts=0, telemetry=3)
    assert box.open() == Rows(0, 0)
    assert box.append([("t", b"y", {})], alert=False) == [ids[-1] + 1]
    box.close()


def test_a_file_that_another_process_holds_is_given_up_at_once(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    other = sqlite3.connect(tmp_path / "o", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(OutboxUnavailableError, match="locked"):
        box.append([("t", b"x", {})], alert=False)
    assert time.monotonic() - began < 2  # the agent's loop waits for it
    other.execute("ROLLBACK")
    other.close()
    assert len(box.append([("t", b"x", {})], alert=False)) == 1
    box.close()


def test_a_full_disk_refuses_the_batch_and_keeps_the_rest(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    box.append([("t", b"x", {})], alert=False)
    pages = box._db(alert=False).execute("PRAGMA page_count").fetchone()[0]  # noqa: SLF001
    box._db(alert=False).execute(f"PRAGMA max_page_count = {pages + 2}")  # noqa: SLF001 -- SQLITE_FULL, as ENOSPC
    with pytest.raises(OutboxUnavailableError, match="full"):
        box.append([("t", bytes(10_000), {}) for _ in range(64)], alert=False)
    assert len(box) == 1
    assert len(box.peek(9, after=0, alert=False)) == 1
    box._db(alert=False).execute("PRAGMA max_page_count = 100000")  # noqa: SLF001
    box.append([("t", bytes(10_000), {}) for _ in range(64)], alert=False)
    assert len(box) == 65
    box.close()


def test_the_file_shrinks_when_it_is_drained(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    ids = box.append([("t", bytes(10_000), {}) for _ in range(64)], alert=False)
    box.remove(ids, alert=False)
    box.close()
    assert (tmp_path / "o").stat().st_size < 100_000


@pytest.mark.parametrize("bitten", [b"topic-7", b'"CorrelationData"'])
def test_a_flipped_bit_in_one_row_blocks_no_other(tmp_path: Path, bitten: bytes) -> None:
    path = tmp_path / "o"
    box = opened(path)
    box.append([(f"topic-{i}", b"x", {"CorrelationData": b"c"}) for i in range(9)], alert=False)
    box.close()
    data = path.read_bytes()
    at = data.index(bitten)
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
    box = opened(path)
    rows = box.peek(9, after=0, alert=False)
    assert [payload for _, _, payload, _ in rows] == [b"x"] * 9
    assert sum(properties != {} for *_, properties in rows) >= 8
    box.close()


# As edgeslm 0.6 made it.
SCHEMA_1 = """
PRAGMA auto_vacuum = FULL;
PRAGMA journal_mode = WAL;
CREATE TABLE result (id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL,
                     payload BLOB NOT NULL, properties TEXT);
PRAGMA user_version = 1;
"""


def written_by_0_6(path: Path, count: int) -> None:
    """Every third an alert; one telemetry text that looks like one."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA_1)
        for n in range(count):
            told = {"id": str(n), "label": "normal" if n % 3 else "anomaly"}
            if n == 1:
                told["text"] = '"label":"anomaly"'
            payload = json.dumps(told, separators=(",", ":")).encode()
            properties = '{"CorrelationData": "63"}' if n == 2 else None
            db.execute(
                "INSERT INTO result (topic, payload, properties) VALUES (?, ?, ?)",
                ("t", payload, properties),
            )
        db.commit()


def numbers(box: SqliteOutbox, *, alert: bool) -> list[int]:
    rows = box.peek(10**6, after=0, alert=alert)
    return [int(json.loads(payload)["id"]) for _, _, payload, _ in rows]


def test_a_file_of_an_earlier_release_is_taken_over_whole(tmp_path: Path) -> None:
    written_by_0_6(tmp_path / "o", 99)
    for _ in range(2):
        box = opened(tmp_path / "o")
        assert box.set_aside is None
        assert box.rows == Rows(alerts=33, telemetry=66)
        assert numbers(box, alert=True) == [n for n in range(99) if n % 3 == 0]
        assert numbers(box, alert=False) == [n for n in range(99) if n % 3]
        assert box.peek(9, after=0, alert=False)[1][3] == {"CorrelationData": b"c"}
        assert [stored.results for stored in box.oldest(3, after=0)] == [1, 1, 1]
        box.close()
    box = opened(tmp_path / "o")
    [row] = box.append([("t", b"x", {})], alert=False)
    assert row == 100
    box.close()


def test_taking_a_file_over_is_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies at the last statement but one; the release before it could go on."""
    written_by_0_6(tmp_path / "o", 30)
    monkeypatch.setattr(outbox, "_SCHEMA", "no number")
    monkeypatch.setattr(outbox, "_prepare", lambda db: outbox._upgrade(db))  # noqa: SLF001, PLW0108
    with pytest.raises(OutboxUnavailableError):
        opened(tmp_path / "o").open()
    with contextlib.closing(sqlite3.connect(tmp_path / "o")) as db:
        assert db.execute("SELECT count(*) FROM result").fetchone() == (30,)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    monkeypatch.undo()
    box = opened(tmp_path / "o")
    assert box.rows == Rows(alerts=10, telemetry=20)
    box.close()


def test_alerts_are_committed_to_the_disk_and_telemetry_is_not_waited_for(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    durable = {
        alert: box._db(alert=alert).execute("PRAGMA synchronous").fetchone()[0]  # noqa: SLF001
        for alert in (True, False)
    }
    assert durable == {True: 2, False: 1}  # FULL, NORMAL
    box.close()


def test_rows_age_while_somebody_runs_and_not_by_the_calendar(tmp_path: Path) -> None:
    now = 1000.0
    made = []

    def at_now() -> SqliteOutbox:
        made.append(SqliteOutbox(tmp_path / "o", max_rows=9, max_bytes=10**6, clock=lambda: now))
        return made[-1]

    box = at_now()
    box.append([("t", b"x", {})], alert=False)
    now += 100
    box.append([("t", b"y", {})], alert=False)
    assert [stored.age_s for stored in box.oldest(9, after=0)] == [100, 0]
    box.close()
    now = 5.0  # another boot
    box = at_now()
    now += 50
    assert [stored.age_s for stored in box.oldest(9, after=0)] == [150, 50]
    box.close()


def test_thinning_that_the_disk_refuses_changes_nothing(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    ids = box.append([("t", b"x", {})] * 3, alert=False)
    pages = box._db(alert=True).execute("PRAGMA page_count").fetchone()[0]  # noqa: SLF001
    box._db(alert=True).execute(f"PRAGMA max_page_count = {pages}")  # noqa: SLF001
    with pytest.raises(OutboxUnavailableError, match="full"):
        box.thin(Thinned([Grown(ids[2], bytes(100_000), 3)], ids[:2], 3), reason="thinned")
    assert [row[2] for row in box.peek(9, after=0, alert=False)] == [b"x"] * 3
    assert len(box) == 3
    box.close()


def test_what_was_given_up_outlives_who_gave_it_up(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    ids = box.append([("t", b"x", {})] * 3, alert=False)
    box.give_up(ids[:1], reason="evicted", results=4)
    again = opened(tmp_path / "o")  # the first was killed: nothing is written at the end
    assert again.given_up == {"evicted": 4}
    again.give_up(ids[1:2], reason="evicted", results=1)
    assert opened(tmp_path / "o").given_up == {"evicted": 5}
    pages = again._db(alert=False).execute("PRAGMA page_count").fetchone()[0]  # noqa: SLF001
    again._db(alert=False).execute("PRAGMA query_only = ON")  # noqa: SLF001 -- as a broken disk
    with pytest.raises(OutboxUnavailableError):
        again.give_up(ids[2:], reason="evicted", results=1)
    assert again.given_up == {"evicted": 5}
    assert len(again) == 1
    assert pages < 20
    for each in (again, box):
        each.close()


def test_a_summary_is_as_durable_as_an_alert(tmp_path: Path) -> None:
    """After a power cut its results must not be there again: somebody may have the summary."""
    box = opened(tmp_path / "o")
    ids = box.append([("t", b"x", {})] * 3, alert=False)
    full: list[str] = []
    box._db(alert=True).set_trace_callback(full.append)  # noqa: SLF001 -- that connection is FULL
    box.thin(Thinned([Grown(ids[2], b"sum", 3)], ids[:2], 3), reason="thinned")
    assert [said.split()[0] for said in full] == [
        "BEGIN",
        "DELETE",
        "DELETE",
        "SELECT",
        "UPDATE",
        "CREATE",
        "INSERT",
        "COMMIT",
    ]
    assert [row[2] for row in box.peek(9, after=0, alert=False)] == [b"sum"]
    box.close()


def test_of_damaged_files_the_newest_is_kept(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / "o").write_bytes(b"something else %d" % n * 100)
        box = opened(tmp_path / "o")
        box.close()
    [left] = tmp_path.glob("o.damaged-*")
    assert left == box.set_aside
    assert left.read_bytes() == b"something else 3" * 100


def test_a_page_that_goes_bad_while_we_run_is_told_from_a_disk_that_refuses(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    box.append([("t", os.urandom(900), {}) for _ in range(200)], alert=False)
    box._db(alert=False).execute("PRAGMA wal_checkpoint(TRUNCATE)")  # noqa: SLF001
    with (tmp_path / "o").open("r+b") as file:
        file.seek(8 * 4096)
        file.write(os.urandom(60 * 4096))
    before = (tmp_path / "o").read_bytes()
    box._db(alert=False).execute("PRAGMA cache_size = 0")  # noqa: SLF001 -- read it again
    with pytest.raises(OutboxDamagedError):
        box.peek(200, after=0, alert=False)
    aside = box.set_away()
    assert aside.read_bytes() == before
    with pytest.raises(OutboxUnavailableError):
        box.append([("t", b"x", {})], alert=False)
    assert box.open() == Rows(0, 0)
    assert box.append([("t", b"x", {})], alert=False) == [1]
    box.close()


def test_taking_a_file_over_writes_nothing_where_there_is_no_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by_0_6(tmp_path / "o", 3000)
    before = (tmp_path / "o").stat().st_size
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    box = opened(tmp_path / "o")
    with pytest.raises(OutboxUnavailableError, match="needs"):
        box.open()
    log = tmp_path / "o-wal"
    assert not log.exists() or log.stat().st_size == 0
    assert (tmp_path / "o").stat().st_size == before
    free.free = 10**9
    assert box.open() == Rows(alerts=1000, telemetry=2000)
    box.close()


def test_alerts_have_an_age_too(tmp_path: Path) -> None:
    now = 0.0
    box = SqliteOutbox(tmp_path / "o", max_rows=9, max_bytes=10**6, clock=lambda: now)
    box.append([("t", b"x", {})], alert=True)
    now = 70.0
    assert box.oldest(1, after=0) == []
    assert [stored.age_s for stored in box.oldest(1, after=0, alert=True)] == [70]
    box.close()
