"""Results that the uplink would not take, in SQLite: bounded, durable, in order.

One file with a table for each lane, and a connection for each, since how durable a commit is
belongs to the connection: those of alerts reach the disk (synchronous FULL), those of telemetry the
kernel (NORMAL), and the disk at the next checkpoint or alert.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from edgeslm.core.backlog import Stored, Thinned
from edgeslm.ports import (
    OutboxDamagedError,
    OutboxFullError,
    OutboxRow,
    OutboxUnavailableError,
    Rows,
)

BUSY_S: Final = 0.1  # for another process that reads the file; the caller tries again later
_SCHEMA: Final = 2  # 1, which had alerts and telemetry in one table, is taken over
_MOST: Final = 2**53  # seconds: what is more was damaged
_ROW_OVERHEAD: Final = 64  # bytes that SQLite adds to a row, about
_MOVE_COPIES: Final = 3  # of what moves: in the log from where it was and to where it is, and there
_LOG_LIMIT: Final = "PRAGMA journal_size_limit = 4194304"
_TABLES: Final = {True: "alert", False: "result"}
# AUTOINCREMENT: an id is never given twice, so a late removal cannot hit a new row. `at` is the
# outbox's own time, in seconds; `results`, how many a row stands for.
_COLUMNS: Final = (
    "id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, "
    "properties TEXT, at INTEGER NOT NULL DEFAULT 0, results INTEGER NOT NULL DEFAULT 1"
)
# Made when something is counted first, in a file of an earlier release too, which reads past it.
_COUNTS: Final = (
    "CREATE TABLE IF NOT EXISTS given_up (reason TEXT PRIMARY KEY, results INTEGER NOT NULL)"
)
_COUNT: Final = (
    "INSERT INTO given_up VALUES (?, ?) "
    "ON CONFLICT (reason) DO UPDATE SET results = excluded.results"
)
_MAX_REASONS: Final = 32
_ALARM: Final = b'"label":"anomaly"'  # in the payload of schema 1; in a text, quotes are escaped


class SqliteOutbox:
    """Implements `edgeslm.ports.Outbox`. Owned by one thread.

    Args:
        path: the database; made where it is absent. One that is damaged is set aside under
            another name, and `set_aside` says which.
        max_rows: most rows held.
        max_bytes: most bytes held, counted as payload, topic and a row's overhead.
        clock: monotonic seconds. Rows age by it alone: the wall clock of a device may say 1970
            today and tomorrow not. So the time between two runs is not counted.

    A disk that is full or broken at the start is tried again at each use: until it serves, the
    outbox is empty and takes nothing.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_rows: int,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.set_aside: Path | None = None
        self._path = path
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._clock = clock
        self._epoch = 0.0  # what the clock said when the ages of rows began
        self.given_up: Counter[str] = Counter()
        self._rows = {True: 0, False: 0}  # by whether they are alerts
        self._bytes = 0
        self._opened: dict[bool, sqlite3.Connection] = {}
        with contextlib.suppress(OutboxUnavailableError):  # who uses it will hear of it
            self.open()

    @property
    def rows(self) -> Rows:
        return Rows(alerts=self._rows[True], telemetry=self._rows[False])

    @property
    def share(self) -> float:
        return max(len(self) / self._max_rows, self._bytes / self._max_bytes)

    def open(self) -> Rows:
        if self._opened:
            return Rows(0, 0)
        try:
            db = _open(self._path)
        except _DamagedError:
            self.set_aside = _move_aside(self._path)
            db = _open(self._path)
        try:
            alerts = _connect(self._path)
            alerts.execute("PRAGMA synchronous = FULL")
            alerts.execute(_LOG_LIMIT)
            found = {
                alert: db.execute(
                    "SELECT count(*), coalesce(sum(length(payload) + length(topic)), 0), "  # noqa: S608 -- ours
                    f"coalesce(max(CAST(at AS INTEGER)), 0) FROM {table}"
                ).fetchone()
                for alert, table in _TABLES.items()
            }
            counted = _counted(db)
        except sqlite3.Error as err:
            db.close()
            msg = f"{self._path}: {err}"
            raise OutboxUnavailableError(msg) from None
        self._opened = {True: alerts, False: db}
        self.given_up.update(counted)
        self._rows = {alert: row[0] for alert, row in found.items()}
        self._bytes = sum(row[1] for row in found.values()) + len(self) * _ROW_OVERHEAD
        self._epoch = self._clock() - min(_MOST, max(row[2] for row in found.values()))
        return self.rows

    def append(
        self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]], *, alert: bool
    ) -> list[int]:
        size = sum(_size(topic, payload) for topic, payload, _ in rows)
        over = (len(self) + len(rows) - self._max_rows, self._bytes + size - self._max_bytes)
        if max(over) > 0:
            msg = f"{len(self)} rows, {self._bytes} bytes held; no room for {len(rows)} more"
            raise OutboxFullError(msg, rows=over[0], size=over[1])
        ids: list[int] = []
        insert = (
            f"INSERT INTO {_TABLES[alert]} (topic, payload, properties, at) VALUES (?, ?, ?, ?)"  # noqa: S608 -- ours
        )
        try:
            at = self._now()
            with _transaction(self._db(alert=alert)) as db:
                for topic, payload, properties in rows:
                    done = db.execute(insert, (topic, payload, _pack(properties), at))
                    ids.append(done.lastrowid or 0)
        except sqlite3.Error as err:
            raise _refusal(err, "; free disk space or replace the disk") from None
        self._rows[alert] += len(rows)
        self._bytes += size
        return ids

    def peek(self, limit: int, *, after: int, alert: bool) -> list[OutboxRow]:
        rows = self._all(
            f"SELECT id, topic, payload, properties FROM {_TABLES[alert]} "  # noqa: S608 -- ours
            "WHERE id > ? ORDER BY id LIMIT ?",
            (after, limit),
            alert=alert,
        )
        return [(id_, topic, payload, _unpack(packed)) for id_, topic, payload, packed in rows]

    def oldest(self, limit: int, *, after: int, alert: bool = False) -> list[Stored]:
        now = self._now()
        rows = self._all(
            f"SELECT id, coalesce(length(payload) + length(topic), 0) + {_ROW_OVERHEAD}, "  # noqa: S608 -- ours
            "coalesce(CAST(results AS INTEGER), 1), ? - coalesce(CAST(at AS INTEGER), 0) "
            f"FROM {_TABLES[alert]} WHERE id > ? ORDER BY id LIMIT ?",
            (now, after, limit),
            alert=alert,
        )
        return [Stored(*row) for row in rows]

    def newest(self, limit: int, *, alert: bool) -> list[bytes]:
        query = f"SELECT CAST(payload AS BLOB) FROM {_TABLES[alert]} ORDER BY id DESC LIMIT ?"  # noqa: S608 -- ours
        return [row[0] for row in self._all(query, (limit,), alert=alert)]

    def set_away(self) -> Path:
        aside = _move_aside(self._path)
        self.close()
        self._opened = {}
        self._rows = {True: 0, False: 0}
        self._bytes = 0
        return aside

    def remove(self, ids: Sequence[int], *, alert: bool) -> None:
        try:
            with _transaction(self._db(alert=alert)) as db:
                rows, size = _delete(db, _TABLES[alert], ids)
        except sqlite3.Error as err:
            raise _refusal(err) from None
        self._rows[alert] -= rows
        self._bytes -= size

    def give_up(self, ids: Sequence[int], *, reason: str, results: int) -> None:
        try:
            with _transaction(self._db(alert=False)) as db:
                rows, size = _delete(db, _TABLES[False], ids)
                self._count(db, reason, results)
        except sqlite3.Error as err:
            raise _refusal(err) from None
        self._rows[False] -= rows
        self._bytes -= size
        self.given_up[reason] += results

    def thin(self, thinned: Thinned, *, reason: str) -> None:
        table = _TABLES[False]
        grow = f"UPDATE {table} SET payload = ?, properties = NULL, results = ? WHERE id = ?"  # noqa: S608 -- ours
        growth = 0
        try:
            # As durable as an alert: a summary that was sent must not become its results again.
            with _transaction(self._db(alert=True)) as db:
                rows, size = _delete(db, table, thinned.gone)
                for id_, payload, results in thinned.grown:
                    measure = f"SELECT length(payload) FROM {table} WHERE id = ?"  # noqa: S608 -- ours
                    growth += len(payload) - db.execute(measure, (id_,)).fetchone()[0]
                    db.execute(grow, (payload, results, id_))
                self._count(db, reason, thinned.results)
        except sqlite3.Error as err:
            raise _refusal(err) from None
        self._rows[False] -= rows
        self._bytes += growth - size
        self.given_up[reason] += thinned.results

    def limit(self, *, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Fold the log into the database and let go of it."""
        for db in self._opened.values():
            db.close()

    def __len__(self) -> int:
        return sum(self._rows.values())

    def _now(self) -> int:
        """Seconds for which agents have run since the file was made, about."""
        return int(self._clock() - self._epoch)

    def _db(self, *, alert: bool) -> sqlite3.Connection:
        if not self._opened:
            msg = f"{self._path} could not be opened; free disk space"
            raise OutboxUnavailableError(msg)
        return self._opened[alert]

    def _count(self, db: sqlite3.Connection, reason: str, results: int) -> None:
        """Write how many there are with these."""
        db.execute(_COUNTS)
        db.execute(_COUNT, (reason, self.given_up[reason] + results))

    def _all(self, query: str, values: tuple[int, ...], *, alert: bool) -> list[Any]:
        try:
            return self._db(alert=alert).execute(query, values).fetchall()
        except sqlite3.Error as err:
            raise _refusal(err) from None


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    with db:
        db.execute("BEGIN IMMEDIATE")
        yield db


def _refusal(err: sqlite3.Error, advice: str = "") -> OutboxUnavailableError:
    """Return what the caller is told of `err`."""
    code = getattr(err, "sqlite_errorcode", 0) & 0xFF
    damaged = code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
    return (OutboxDamagedError if damaged else OutboxUnavailableError)(f"outbox: {err}{advice}")


def _delete(db: sqlite3.Connection, table: str, ids: Sequence[int]) -> tuple[int, int]:
    """Return how many of these rows there were, and their bytes."""
    rows = size = 0
    delete = f"DELETE FROM {table} WHERE id = ? RETURNING length(payload) + length(topic)"  # noqa: S608 -- ours
    for id_ in ids:
        gone = db.execute(delete, (id_,)).fetchone()
        if gone is not None:
            rows += 1
            size += gone[0] + _ROW_OVERHEAD
    return rows, size


def _counted(db: sqlite3.Connection) -> dict[str, int]:
    """Return what agents before this one gave up; what is damaged is not counted."""
    if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'given_up'").fetchone() is None:
        return {}
    rows = db.execute(f"SELECT reason, results FROM given_up LIMIT {_MAX_REASONS}").fetchall()  # noqa: S608 -- ours
    return {
        reason: results
        for reason, results in rows
        if isinstance(reason, str) and isinstance(results, int) and 0 <= results <= _MOST
    }


class _DamagedError(Exception):
    """The file is not a whole database of ours."""


def _open(path: Path) -> sqlite3.Connection:
    """Return the database at `path`, ready for use.

    Raises:
        OutboxUnavailableError: the disk refuses.
        _DamagedError: there is something else, or what is left of one.
    """
    db = _connect(path)
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


def _connect(path: Path) -> sqlite3.Connection:
    try:
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_S)
    except sqlite3.Error as err:
        msg = f"{path}: {err}; make the state directory writable"
        raise OutboxUnavailableError(msg) from None
    # No page has a checksum: a flipped bit in one text must not block all the rows behind it.
    db.text_factory = _decode
    return db


def _prepare(db: sqlite3.Connection) -> bool:
    """Check and set up `db`; return whether it is whole and of our schema."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    known = 0 <= version <= _SCHEMA
    if not known or db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        return False
    if version == 0:
        db.execute("PRAGMA auto_vacuum = FULL")  # so that the file shrinks when it is drained
        db.execute("PRAGMA journal_mode = WAL")
    if version != _SCHEMA:  # a full disk must not be written to at every start
        db.execute("PRAGMA synchronous = FULL")
        _upgrade(db)
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(_LOG_LIMIT)
    return True


def _upgrade(db: sqlite3.Connection) -> None:
    """Make the tables of an empty file or of schema 1 ours, all or nothing."""
    alerts, telemetry = _TABLES[True], _TABLES[False]
    with _transaction(db):
        db.execute(f"CREATE TABLE IF NOT EXISTS {telemetry} ({_COLUMNS})")
        db.execute(f"CREATE TABLE {alerts} ({_COLUMNS})")
        held = {column[1] for column in db.execute(f"PRAGMA table_info({telemetry})")}
        if "at" not in held:
            _see_room(db, telemetry)
            for column in _COLUMNS.split(", ")[-2:]:
                db.execute(f"ALTER TABLE {telemetry} ADD COLUMN {column}")
            alarms = f"FROM {telemetry} WHERE instr(payload, ?)"
            db.execute(
                f"INSERT INTO {alerts} (topic, payload, properties) "
                f"SELECT topic, payload, properties {alarms} ORDER BY id",
                (_ALARM,),
            )
            db.execute(f"DELETE {alarms}", (_ALARM,))
        db.execute(f"PRAGMA user_version = {_SCHEMA}")


def _see_room(db: sqlite3.Connection, table: str) -> None:
    """Fail before a byte is written where the alerts of schema 1 cannot be moved."""
    query = f"SELECT coalesce(sum(length(payload) + length(topic)), 0) FROM {table}"  # noqa: S608 -- ours
    size = db.execute(f"{query} WHERE instr(payload, ?)", (_ALARM,)).fetchone()[0]
    path = db.execute("PRAGMA database_list").fetchone()[2]
    if shutil.disk_usage(path).free < (needed := _MOVE_COPIES * size):
        msg = f"taking over the file of an earlier release needs {needed >> 20} MiB"
        raise sqlite3.OperationalError(msg)


def _move_aside(path: Path) -> Path:
    """Return where the file is now; of those moved before, none is kept: they would fill the disk.

    Raises:
        OutboxUnavailableError: the disk refuses.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            log = path.with_name(path.name + suffix)
            if log.exists():
                log.rename(aside.with_name(aside.name + suffix))
        for old in path.parent.glob(f"{path.name}.damaged-*"):
            if not old.name.startswith(aside.name):
                old.unlink()
    except OSError as err:
        msg = f"{path} is damaged and cannot be set aside: {err.strerror or err}"
        raise OutboxUnavailableError(msg) from None
    return aside


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
