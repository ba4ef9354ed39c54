"""What the outbox on disk does besides what every outbox does."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeslm.adapters.outbox import SqliteOutbox
from edgeslm.ports import OutboxUnavailableError

WRITER = """
import sys
from pathlib import Path
from edgeslm.adapters.outbox import SqliteOutbox
box = SqliteOutbox(Path(sys.argv[1]), max_rows=10**6, max_bytes=10**9)
n = 0
while True:
    box.append([("t", str(i).encode(), {}) for i in range(n, n + 64)])
    n += 64
    print(n, flush=True)
"""


def opened(path: Path) -> SqliteOutbox:
    return SqliteOutbox(path, max_rows=10**6, max_bytes=10**9)


def test_rows_outlive_the_object(tmp_path: Path) -> None:
    first = opened(tmp_path / "o")
    ids = first.append([("t", b"x", {"CorrelationData": b"c"})])
    first.close()
    again = opened(tmp_path / "o")
    assert again.peek(9, after=0) == [(ids[0], "t", b"x", {"CorrelationData": b"c"})]
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
    rows = box.peek(10**6, after=0)
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
        box.append([("t", os.urandom(500), {}) for _ in range(200)])
        if damage == "foreign":
            box._db.execute("PRAGMA user_version = 99")  # noqa: SLF001 -- as a later release would
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
    box.append([("t", b"x", {})])
    box.close()


def test_a_disk_that_fails_at_the_start_is_tried_again(tmp_path: Path) -> None:
    before = opened(tmp_path / "disk")
    ids = before.append([("t", b"x", {})] * 3)
    before.close()
    (tmp_path / "disk").rename(tmp_path / "away")
    (tmp_path / "disk").mkdir()  # so that the file cannot be opened
    box = opened(tmp_path / "disk")
    assert len(box) == 0
    for use in (box.open, lambda: box.append([("t", b"y", {})]), lambda: box.peek(1, after=0)):
        with pytest.raises(OutboxUnavailableError, match="disk"):
            use()
    (tmp_path / "disk").rmdir()
    (tmp_path / "away").rename(tmp_path / "disk")
    assert box.open() == len(box) == 3
    assert box.open() == 0
    assert box.append([("t", b"y", {})]) == [ids[-1] + 1]
    box.close()


def test_a_file_that_another_process_holds_is_given_up_at_once(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    other = sqlite3.connect(tmp_path / "o", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(OutboxUnavailableError, match="locked"):
        box.append([("t", b"x", {})])
    assert time.monotonic() - began < 2  # the agent's loop waits for it
    other.execute("ROLLBACK")
    other.close()
    assert len(box.append([("t", b"x", {})])) == 1
    box.close()


def test_a_full_disk_refuses_the_batch_and_keeps_the_rest(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    box.append([("t", b"x", {})])
    pages = box._db.execute("PRAGMA page_count").fetchone()[0]  # noqa: SLF001
    box._db.execute(f"PRAGMA max_page_count = {pages + 2}")  # noqa: SLF001 -- SQLITE_FULL, as ENOSPC
    with pytest.raises(OutboxUnavailableError, match="full"):
        box.append([("t", bytes(10_000), {}) for _ in range(64)])
    assert len(box) == 1
    assert len(box.peek(9, after=0)) == 1
    box._db.execute("PRAGMA max_page_count = 100000")  # noqa: SLF001
    box.append([("t", bytes(10_000), {}) for _ in range(64)])
    assert len(box) == 65
    box.close()


def test_the_file_shrinks_when_it_is_drained(tmp_path: Path) -> None:
    box = opened(tmp_path / "o")
    ids = box.append([("t", bytes(10_000), {}) for _ in range(64)])
    box.remove(ids)
    box.close()
    assert (tmp_path / "o").stat().st_size < 100_000


@pytest.mark.parametrize("bitten", [b"topic-7", b'"CorrelationData"'])
def test_a_flipped_bit_in_one_row_blocks_no_other(tmp_path: Path, bitten: bytes) -> None:
    path = tmp_path / "o"
    box = opened(path)
    box.append([(f"topic-{i}", b"x", {"CorrelationData": b"c"}) for i in range(9)])
    box.close()
    data = path.read_bytes()
    at = data.index(bitten)
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :])
    box = opened(path)
    rows = box.peek(9, after=0)
    assert [payload for _, _, payload, _ in rows] == [b"x"] * 9
    assert sum(properties != {} for *_, properties in rows) >= 8
    box.close()
