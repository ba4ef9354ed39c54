"""Results that the uplink would not take, in SQLite: bounded, durable, in order."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from edgeslm.ports import OutboxFullError, OutboxRow, OutboxUnavailableError

BUSY_S: Final = 0.1  # for another process that reads the file; the caller tries again later
_SCHEMA: Final = 1
_ROW_OVERHEAD: Final = 64  # bytes that SQLite adds to a row, about


class SqliteOutbox:
    """Implements `edgeslm.ports.Outbox`. Owned by one thread.

    Every commit reaches the disk (WAL, synchronous FULL): inputs are acknowledged on its word.

    Args:
        path: the database; made where it is absent. One that is damaged is set aside under
            another name, and `set_aside` says which.
        max_rows: most rows held.
        max_bytes: most bytes held, counted as payload, topic and a row's overhead.

    A disk that is full or broken at the start is tried again at each use: until it serves, the
    outbox is empty and takes nothing.
    """

    def __init__(self, path: Path, *, max_rows: int, max_bytes: int) -> None:
        self.set_aside: Path | None = None
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._rows = 0
        self._bytes = 0
        self._opened: sqlite3.Connection | None = None
        with contextlib.suppress(OutboxUnavailableError):  # who uses it will hear of it
            self.open()

    def open(self) -> int:
        if self._opened is not None:
            return 0
        try:
            db = _open(self._path)
        except _DamagedError:
            self.set_aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
            _move_aside(self._path, self.set_aside)
            db = _open(self._path)
        try:
            row = db.execute(
                "SELECT count(*), coalesce(sum(length(payload) + length(topic)), 0) FROM result"
            ).fetchone()
        except sqlite3.Error as err:
            db.close()
            msg = f"{self._path}: {err}"
            raise OutboxUnavailableError(msg) from None
        self._opened = db
        self._rows = row[0]
        self._bytes = row[1] + self._rows * _ROW_OVERHEAD
        return self._rows

    def append(self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]]) -> list[int]:
        size = sum(_size(topic, payload) for topic, payload, _ in rows)
        if self._rows + len(rows) > self._max_rows or self._bytes + size > self._max_bytes:
            msg = f"{self._rows} rows, {self._bytes} bytes held; no room for {len(rows)} more"
            raise OutboxFullError(msg)
        ids: list[int] = []
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for topic, payload, properties in rows:
                    done = self._db.execute(
                        "INSERT INTO result (topic, payload, properties) VALUES (?, ?, ?)",
                        (topic, payload, _pack(properties)),
                    )
                    ids.append(done.lastrowid or 0)
        except sqlite3.Error as err:
            msg = f"outbox: {err}; free disk space or replace the disk"
            raise OutboxUnavailableError(msg) from None
        self._rows += len(rows)
        self._bytes += size
        return ids

    def peek(self, limit: int, *, after: int) -> list[OutboxRow]:
        try:
            rows = self._db.execute(
                "SELECT id, topic, payload, properties FROM result "
                "WHERE id > ? ORDER BY id LIMIT ?",
                (after, limit),
            ).fetchall()
        except sqlite3.Error as err:
            msg = f"outbox: {err}"
            raise OutboxUnavailableError(msg) from None
        return [(id_, topic, payload, _unpack(packed)) for id_, topic, payload, packed in rows]

    def remove(self, ids: Sequence[int]) -> None:
        rows = size = 0
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for id_ in ids:
                    gone = self._db.execute(
                        "DELETE FROM result WHERE id = ? RETURNING length(payload) + length(topic)",
                        (id_,),
                    ).fetchone()
                    if gone is not None:
                        rows += 1
                        size += gone[0] + _ROW_OVERHEAD
        except sqlite3.Error as err:
            msg = f"outbox: {err}"
            raise OutboxUnavailableError(msg) from None
        self._rows -= rows
        self._bytes -= size

    def limit(self, *, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Fold the log into the database and let go of it."""
        if self._opened is not None:
            self._opened.close()

    def __len__(self) -> int:
        return self._rows

    @property
    def _db(self) -> sqlite3.Connection:
        if self._opened is None:
            msg = f"{self._path} could not be opened; free disk space"
            raise OutboxUnavailableError(msg)
        return self._opened


class _DamagedError(Exception):
    """The file is not a whole database of ours."""


def _open(path: Path) -> sqlite3.Connection:
    """Return the database at `path`, ready for use.

    Raises:
        OutboxUnavailableError: the disk refuses.
        _DamagedError: there is something else, or what is left of one.
    """
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    except sqlite3.Error as err:
        msg = f"{path}: {err}; make the state directory writable"
        raise OutboxUnavailableError(msg) from None
    # No page has a checksum: a flipped bit in one text must not block all the rows behind it.
    db.text_factory = _decode
    try:
        whole = _prepare(db)
    except sqlite3.OperationalError as err:
        db.close()
        msg = f"{path}: {err}; free disk space and make the state directory writable"
        raise OutboxUnavailableError(msg) from None
    except sqlite3.DatabaseError:  # not a database, or a malformed one
        whole = False
    if not whole:
        db.close()
        raise _DamagedError
    return db


def _prepare(db: sqlite3.Connection) -> bool:
    """Check and set up `db`; return whether it is whole and of our schema."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in {0, _SCHEMA} or db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        return False
    if version == 0:
        db.execute("PRAGMA auto_vacuum = FULL")  # so that the file shrinks when it is drained
        db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA journal_size_limit = 4194304")
    if version == 0:  # a full disk must not be written to at every start
        # AUTOINCREMENT: an id is never given twice, so a late removal cannot hit a new row.
        db.execute(
            "CREATE TABLE IF NOT EXISTS result (id INTEGER PRIMARY KEY AUTOINCREMENT, "
            "topic TEXT NOT NULL, payload BLOB NOT NULL, properties TEXT)"
        )
        db.execute(f"PRAGMA user_version = {_SCHEMA}")
    return True


def _move_aside(path: Path, aside: Path) -> None:
    try:
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            log = path.with_name(path.name + suffix)
            if log.exists():
                log.rename(aside.with_name(aside.name + suffix))
    except OSError as err:
        msg = f"{path} is damaged and cannot be set aside: {err.strerror or err}"
        raise OutboxUnavailableError(msg) from None


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _size(topic: str, payload: bytes) -> int:
    return len(payload) + len(topic) + _ROW_OVERHEAD


def _pack(properties: Mapping[str, object]) -> str | None:
    """JSON of properties; bytes, of which there are none but correlation data, as hex."""
    if not properties:
        return None
    return json.dumps({k: v.hex() if isinstance(v, bytes) else v for k, v in properties.items()})


def _unpack(packed: str | None) -> Mapping[str, object]:
    """Return what `_pack` was given; nothing where the disk has damaged it.

    A result without its correlation data is better than one that stands in the way of all others.
    """
    try:
        found = json.loads(packed or "{}")
        if not isinstance(found, dict):
            return {}
        if isinstance(hexed := found.get("CorrelationData"), str):
            found["CorrelationData"] = bytes.fromhex(hexed)
    except (ValueError, RecursionError):
        return {}
    return found
