"""What a database says of itself comes out as our error: with its name, without its password."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, text

from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.database import engine as engine_module
from edgeslm.fleet.database.engine import now, open_database, reading, shown, upsert
from edgeslm.fleet.database.errors import DatabaseError, DatabaseInvalidError
from edgeslm.fleet.database.schema import attempts
from tests.databases import Postgresql

SECRET = "s3cr3t-of-the-tests"  # noqa: S105


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a database's URL"),
        ("fleet.db", "not a database's URL"),
        (f"postgresql://u:{SECRET}@h:port/x", "not a database's URL"),
        (f"mysql://u:{SECRET}@h/x", "can be used: mysql"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///a\0b", "names no file"),
    ],
)
def test_what_is_no_database_is_said(url: str, says: str) -> None:
    with pytest.raises(DatabaseInvalidError, match=says) as caught:
        open_database(url)
    assert caught.value.exit_status == 78
    assert "postgresql://USER" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_server_that_is_down_is_named_without_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    url = f"postgresql://u:{SECRET}@/fleet?host={tmp_path}"
    with pytest.raises(DatabaseError, match=r"u:.*@/fleet.*[^.?]\. Check that it runs") as caught:
        open_database(url)
    assert caught.value.exit_status == 75
    assert SECRET not in str(caught.value)


def test_a_password_in_the_query_is_not_shown_either() -> None:
    engine = engine_module.connect(f"postgresql://u@h/x?password={SECRET}&application_name=y")
    assert SECRET not in shown(engine.url)
    assert "application_name=y" in shown(engine.url)
    engine.dispose()


def test_a_server_that_goes_down_is_said_and_found_again() -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with contextlib.closing(Postgresql()) as server:
        server.start()
        engine = open_database(server.new())
        server.kill()
        with pytest.raises(DatabaseError, match="Check that it runs"), reading(engine) as conn:
            conn.execute(text("SELECT 1"))
        server.start()
        with reading(engine) as conn:
            assert conn.execute(text("SELECT 1")).scalar() == 1
            server.kill()
            with pytest.raises(DatabaseError, match="Check that it runs"):
                conn.execute(text("SELECT 1"))
        server.start()
        with reading(engine) as conn:
            assert conn.execute(text("SELECT 1")).scalar() == 1
        engine.dispose()


def test_connections_that_were_kept_are_no_error_once_the_server_is_back() -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with contextlib.closing(Postgresql()) as server:
        server.start()
        engine = open_database(server.new())
        with contextlib.ExitStack() as kept:
            for _ in range(3):
                kept.enter_context(reading(engine)).execute(text("SELECT 1"))
        server.kill()
        server.start()
        for _ in range(3):
            with reading(engine) as conn:
                assert conn.execute(text("SELECT 1")).scalar() == 1
        engine.dispose()


def test_a_database_whose_connections_are_all_taken_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "POOL", 1)
    monkeypatch.setattr(engine_module, "POOL_MORE", 0)
    monkeypatch.setattr(engine_module, "POOL_S", 0.1)
    engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    with reading(engine), pytest.raises(DatabaseError, match="in use"), reading(engine):
        pass
    engine.dispose()


def test_a_database_that_is_not_there_is_named(postgresql: Postgresql) -> None:
    with pytest.raises(DatabaseError, match='"nowhere" does not exist'):
        open_database(postgresql.url("nowhere"))


def test_who_may_not_write_there_is_told(postgresql: Postgresql) -> None:
    url = postgresql.new()
    postgresql.say("DROP ROLE IF EXISTS guest")
    postgresql.say("CREATE ROLE guest LOGIN")
    with pytest.raises(DatabaseError, match="permission denied for schema public"):
        open_database(url.replace("edgeslm@", "guest@"))
    postgresql.drop(url)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"gone/fleet.db: No such file.*Check the path"):
        open_database(f"sqlite:///{tmp_path / 'gone' / 'fleet.db'}")


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="Is a directory"):
        open_database(f"sqlite:///{tmp_path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "fleet.db"
    open_database(f"sqlite:///{file}").dispose()
    file.chmod(0o400)
    with pytest.raises(DatabaseError, match=r"fleet.db: Permission denied"):
        open_database(f"sqlite:///{file}")


def test_nobody_else_reads_its_file(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    with engine.begin() as conn:
        conn.execute(attempts.insert().values(who="x", count=1, last_at=0))
        files = list(tmp_path.iterdir())
        assert len(files) == 3
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    engine.dispose()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    rows = [{"who": f"{n:090}", "count": n, "last_at": 0.0} for n in range(5000)]
    with engine.begin() as conn:
        conn.execute(text("PRAGMA max_page_count = 1"))
        with pytest.raises(DatabaseError, match=r"is full.*Free disk space"):
            conn.execute(attempts.insert(), rows)
    engine.dispose()


def test_who_writes_for_too_long_is_waited_for_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "BUSY_S", 0.2)
    engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    with engine.begin() as conn:
        conn.execute(attempts.insert().values(who="x", count=1, last_at=0))
        with reading(engine) as other:  # reading goes on
            assert other.execute(select(attempts.c.who)).all() == []
        with pytest.raises(DatabaseError, match="another process has been writing"):
            engine.begin().__enter__()
    engine.dispose()


def test_a_readers_view_does_not_change(tmp_path: Path) -> None:
    """SQLite's; PostgreSQL's readers see what is committed, statement by statement."""
    engine = open_database(f"sqlite:///{tmp_path / 'fleet.db'}")
    with reading(engine) as conn:
        assert conn.execute(select(attempts.c.who)).all() == []
        with engine.begin() as other:
            other.execute(attempts.insert().values(who="x", count=1, last_at=0))
        assert conn.execute(select(attempts.c.who)).all() == []
    engine.dispose()


def test_a_fault_of_ours_stays_one(database: Engine) -> None:
    for statement in ("SELECT nothing FROM nowhere", "no sql"):
        with pytest.raises(Exception, match=r"nowhere|syntax") as caught, reading(database) as conn:
            conn.execute(text(statement))
        assert not isinstance(caught.value, EdgeSLMError)


def test_rows_are_inserted_changed_or_left(database: Engine) -> None:
    rows = [{"who": name, "count": 1, "last_at": 1.0} for name in ("a", "b")]
    again = [{"who": name, "count": 5, "last_at": 2.0} for name in ("b", "c")]
    with database.begin() as conn:
        assert upsert(conn, attempts, rows, keys=("who",)) == 2
        assert upsert(conn, attempts, again, keys=("who",)) == 1
        upsert(conn, attempts, again, keys=("who",), update=("last_at",), add=("count",))
        upsert(conn, attempts, [], keys=("who",))
        found = conn.execute(select(attempts).order_by(attempts.c.who)).all()
    assert found == [("a", 1, 1.0), ("b", 6, 2.0), ("c", 10, 2.0)]


def test_many_writers_at_once_lose_nothing(database: Engine) -> None:
    row = [{"who": "x", "count": 1, "last_at": 0.0}]

    def write() -> None:
        for _ in range(20):
            with database.begin() as conn:
                upsert(conn, attempts, row, keys=("who",), add=("count",))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with reading(database) as conn:
        assert conn.execute(select(attempts.c.count)).scalar() == 80


def test_the_databases_clock_is_a_clock(database: Engine) -> None:
    with reading(database) as conn:
        found = conn.execute(select(now())).scalar()
    assert found is not None
    assert abs(found - time.time()) < 5


def test_sqlite_is_new_enough() -> None:
    """For ON CONFLICT and RETURNING."""
    assert sqlite3.sqlite_version_info >= (3, 35)
