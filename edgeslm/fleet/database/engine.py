"""Opens a fleet's database: SQLite, made where it is absent, or PostgreSQL.

Write inside `with engine.begin() as conn:`, read inside `with reading(engine) as conn:`. What the
database says of itself comes out as an error of ours, wherever it is asked something.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Float,
    FunctionElement,
    PoolProxiedConnection,
    QueuePool,
    Table,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles

from edgeslm.fleet.database.errors import DatabaseError, DatabaseInvalidError
from edgeslm.fleet.database.migrate import ready
from edgeslm.fleet.errors import FleetExtraError

BUSY_S: Final = 10.0  # that a writer waits for another
CONNECT_S: Final = 10
IDLE_S: Final = 30  # in a transaction, before PostgreSQL ends it: its process is dead, or hangs
POOL: Final = 5  # connections that are kept
POOL_MORE: Final = 15  # that there may be besides, for a while
POOL_S: Final = 30.0  # that a thread waits for one of them
_MODE: Final = 0o600  # hashes of passwords are in it, and texts of devices
_POSTGRESQL: Final = "postgresql+psycopg"
_FORMS: Final = "Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
_SECRETS: Final = frozenset({"password", "sslpassword", "passfile"})  # in a URL's query
_UNREADABLE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REFUSED: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
_SLOW: Final = "Check that it answers, and how fast."
_PRIMARY: Final = 0xFF  # of SQLite's extended codes
_FORBIDDEN: Final = "42501"  # PostgreSQL's insufficient_privilege
_READS: Final = "edgeslm_reads"


class _Pool(QueuePool):
    """Where all connections are in use for too long, that is an error of ours, too."""

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeoutError:
            msg = f"database: all {POOL + POOL_MORE} connections in use for {POOL_S:g} s. {_SLOW}"
            raise DatabaseError(msg) from None


class now(FunctionElement[float]):  # noqa: N801 -- a function of SQL
    """Seconds since 1970 by the database's clock."""

    type = Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch FROM clock_timestamp())::double precision"


def open_database(url: str) -> Engine:
    """Return the database at `url`, its schema ours.

    SQLite is made, and migrated, by this; PostgreSQL where it is empty.

    Raises:
        DatabaseInvalidError: no URL that can be, or no database of a fleet.
        DatabaseError: it is down, its file cannot be written, or the disk is full.
        SchemaNewerError, SchemaOlderError: see there.
        FleetExtraError: a package is missing.
    """
    engine = connect(url)
    try:
        ready(engine, shown(engine.url))
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect(url: str) -> Engine:
    """Return the database at `url`, whatever is in it.

    Raises:
        EdgeSLMError: as `open_database`, of the schema apart.
    """
    parsed = _parsed(url)
    pool: dict[str, Any] = {
        "pool_size": POOL,
        "max_overflow": POOL_MORE,
        "pool_timeout": POOL_S,
        "poolclass": _Pool,
        "execution_options": {"preserve_rowcount": True},  # of INSERT too: it says who was first
    }
    if parsed.drivername == "sqlite":
        _make_file(Path(parsed.database or ""))
        engine = create_engine(parsed, **pool)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        engine = create_engine(
            parsed, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_S}, **pool
        )
        event.listen(engine, "connect", _prepare_postgresql)
    event.listen(engine, "handle_error", _translate)
    return engine


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Return a connection that only reads: it waits for no writer, and none waits for it."""
    with engine.connect() as conn:
        yield conn.execution_options(**{_READS: True})


def shown(url: URL) -> str:
    """Return a URL without what is secret in it."""
    query = {key: "***" if key in _SECRETS else value for key, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def upsert(  # noqa: PLR0913 -- by name
    conn: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keys: Collection[str],
    update: Collection[str] = (),
    add: Collection[str] = (),
) -> int:
    """Insert rows, or change those that are there; return how many rows that were.

    Args:
        conn: in a transaction.
        table: where.
        rows: all with the same columns, no two with the same keys.
        keys: columns by which a row is known to be there.
        update: columns that are overwritten there.
        add: columns that are added to what is there. With neither, it stays as it is.
    """
    if not rows:
        return 0
    new = insert(conn, table)
    changed: dict[str, Any] = {name: new.excluded[name] for name in update}
    changed |= {name: table.c[name] + new.excluded[name] for name in add}
    if changed:
        new = new.on_conflict_do_update(index_elements=list(keys), set_=changed)
    else:
        new = new.on_conflict_do_nothing(index_elements=list(keys))
    return conn.execute(new, list(rows)).rowcount


def insert(conn: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Return the INSERT of the connection's database, which knows ON CONFLICT."""
    return postgresql.insert(table) if is_postgresql(conn) else sqlite.insert(table)


def is_postgresql(conn: Connection) -> bool:
    """Whether it is PostgreSQL, where rows and tables must be locked; else SQLite."""
    return conn.dialect.name == "postgresql"


def _parsed(url: str) -> URL:
    where = "database"
    try:
        parsed = make_url(url)
        _ = parsed.port
    except (ArgumentError, ValueError):  # it may hold a password: it is not shown
        raise DatabaseInvalidError(where, [("", "not a database's URL")], remedy=_FORMS) from None
    if parsed.drivername in {"postgres", "postgresql", _POSTGRESQL}:
        if importlib.util.find_spec("psycopg") is None:
            msg = "psycopg: not installed. pip install 'edgeslm[postgres]'"
            raise FleetExtraError(msg)
        return parsed.set(drivername=_POSTGRESQL)
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite"}:
        what = f"no database of this kind can be used: {parsed.drivername}"
        raise DatabaseInvalidError(where, [("", what)], remedy=_FORMS)
    if not parsed.database or parsed.database == ":memory:" or "\0" in parsed.database:
        raise DatabaseInvalidError(where, [("", "names no file")], remedy=_FORMS)
    return parsed.set(drivername="sqlite")


def _make_file(file: Path) -> None:
    """Make the file where it is absent, for its owner alone: SQLite's others are made like it."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, _MODE))
    except OSError as err:
        msg = f"{file}: {err.strerror or err}. Check the path, and who may write there."
        raise DatabaseError(msg) from None


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` says when a transaction begins
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {int(BUSY_S * 1000)}",
        "journal_mode = WAL",
        "foreign_keys = ON",
        "synchronous = FULL",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(conn: Connection) -> None:
    # Who writes says so at once: a reader that turns writer would be refused without a wait.
    reads = conn.get_execution_options().get(_READS, False)
    conn.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _prepare_postgresql(connection: Any, _record: object) -> None:
    # A worker that dies or hangs in a transaction lets go of its locks.
    settings = {
        "idle_in_transaction_session_timeout": f"{IDLE_S}s",
        "lock_timeout": f"{int(BUSY_S)}s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
    before = connection.autocommit
    connection.autocommit = True
    with connection.cursor() as cursor:
        for name, value in settings.items():
            cursor.execute(f"SET {name} = '{value}'")
    connection.autocommit = before


def _translate(context: ExceptionContext) -> None:
    """Raise what the database says of itself as an error of ours; faults of ours stay as they are.

    Raises:
        DatabaseError, DatabaseInvalidError: see there.
    """
    err = context.original_exception
    if context.is_pre_ping and context.is_disconnect:
        return  # a connection that was kept is gone; the pool makes another, which may succeed
    url = context.engine.url if context.engine is not None else None
    where = shown(url) if url is not None else "database"
    if isinstance(err, sqlite3.Error):
        _translate_sqlite(err, url.database if url is not None and url.database else where)
    else:
        _translate_postgresql(err, where, lost=context.is_disconnect)


def _translate_sqlite(err: sqlite3.Error, file: str) -> None:
    code = getattr(err, "sqlite_errorcode", 0) & _PRIMARY
    if code in _UNREADABLE:
        raise DatabaseInvalidError(
            file, [("", str(err))], remedy="Restore it from a copy, or name another file."
        ) from None
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        msg = f"{file}: another process has been writing for {BUSY_S:g} s. Give it again."
        raise DatabaseError(msg) from None
    if code in _REFUSED:
        msg = f"{file}: {err}. Free disk space or check who may write there."
        raise DatabaseError(msg) from None


def _translate_postgresql(err: BaseException, where: str, *, lost: bool) -> None:
    import psycopg  # noqa: PLC0415 -- an extra of its own

    if not isinstance(err, psycopg.Error):
        return
    if lost or isinstance(err, psycopg.OperationalError) or err.sqlstate == _FORBIDDEN:
        _down(err, where)


def _down(err: BaseException, where: str) -> NoReturn:
    said = " ".join(str(err).split()).rstrip(".?!") or type(err).__name__
    msg = f"{where}: {said}. Check that it runs, and who may use it."
    raise DatabaseError(msg) from None
