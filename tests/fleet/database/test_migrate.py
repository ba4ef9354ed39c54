"""What migrations make is what `schema.py` says, and no other database is touched."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.database import migrate
from edgeslm.fleet.database.engine import connect, open_database, shown
from edgeslm.fleet.database.errors import (
    DatabaseInvalidError,
    SchemaNewerError,
    SchemaOlderError,
)
from edgeslm.fleet.database.schema import METADATA


def differs(context: MigrationContext, *said: Any) -> bool | None:
    """Whether two defaults do; None: alembic compares them, which has its own way with SQLite's."""
    _, _, found, _, wanted = said
    if context.dialect.name != "sqlite":
        return None
    return (found or "").strip("()'") != (wanted or "").strip("()'")


def test_migrations_make_what_the_schema_says(database: Engine) -> None:
    with database.connect() as conn:
        context = MigrationContext.configure(
            conn,
            opts={"version_table": migrate.VERSION_TABLE, "compare_server_default": differs},
        )
        assert compare_metadata(context, METADATA) == []


def test_what_migrations_lack_would_be_seen(database: Engine) -> None:
    with database.begin() as conn:
        conn.execute(text("DROP INDEX ix_events_device_id"))
        conn.execute(text("ALTER TABLE devices ADD COLUMN strange INTEGER"))
        context = MigrationContext.configure(conn, opts={"version_table": migrate.VERSION_TABLE})
        assert len(compare_metadata(context, METADATA)) == 2


def test_they_count_up_to_the_one_that_is_opened() -> None:
    revisions = [each.revision for each in migrate.scripts().walk_revisions()]
    assert revisions == [f"{n:04}" for n in range(len(revisions), 0, -1)]
    assert revisions[0] == migrate.REVISION


def test_it_is_made_once(database_url: str) -> None:
    for _ in range(3):
        engine = open_database(database_url)
        with engine.connect() as conn:
            assert migrate.revision(conn, "x") == migrate.REVISION
        engine.dispose()


def said(url: str, statement: str) -> None:
    engine = connect(url)
    with engine.begin() as conn:
        conn.execute(text(statement))
    engine.dispose()


def test_a_newer_schema_is_left_alone(database_url: str) -> None:
    open_database(database_url).dispose()
    said(database_url, "UPDATE edgeslm_schema SET version_num = '0999'")
    with pytest.raises(SchemaNewerError, match=r"0999.*Upgrade edgeslm here") as caught:
        open_database(database_url)
    assert caught.value.exit_status == 78
    engine = connect(database_url)
    with engine.connect() as conn:
        found = conn.execute(text("SELECT version_num FROM edgeslm_schema")).scalar()
        assert found == "0999"
    engine.dispose()


@pytest.mark.parametrize("left", ["", "x", "-1", "None"])
def test_a_version_that_is_none_is_no_fleets(database_url: str, left: str) -> None:
    open_database(database_url).dispose()
    said(database_url, f"UPDATE edgeslm_schema SET version_num = '{left}'")  # noqa: S608
    with pytest.raises(DatabaseInvalidError, match="does not say which schema"):
        open_database(database_url)


def test_a_database_of_something_else_is_left_alone(database_url: str) -> None:
    said(database_url, "CREATE TABLE orders (id INTEGER)")
    with pytest.raises(DatabaseInvalidError, match=r"such as orders.*a database of its own"):
        open_database(database_url)
    engine = connect(database_url)
    assert inspect(engine).get_table_names() == ["orders"]
    engine.dispose()


def test_an_older_schema_is_migrated_by_opening_or_by_command(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a second migration, as there will be."""
    open_database(database_url).dispose()
    monkeypatch.setattr(migrate, "REVISION", "0002")
    steps: list[str] = []
    monkeypatch.setattr(migrate, "_migrate", lambda conn: steps.append(conn.dialect.name))
    if database_url.startswith("sqlite"):
        open_database(database_url).dispose()
    else:
        with pytest.raises(SchemaOlderError, match="edgeslm fleet database upgrade"):
            open_database(database_url)
        assert not steps
        engine = connect(database_url)
        assert migrate.upgrade(engine, shown(engine.url)) == "0001"
        engine.dispose()
    assert len(steps) == 1


def test_a_migration_that_fails_leaves_nothing(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = migrate._migrate  # noqa: SLF001

    def fails(conn: object) -> None:
        real(conn)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(migrate, "_migrate", fails)
    with pytest.raises(KeyboardInterrupt):
        open_database(database_url)
    engine = connect(database_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    monkeypatch.undo()
    open_database(database_url).dispose()


def test_many_that_open_an_empty_one_at_once_make_it_once(database_url: str) -> None:
    def opened(_: int) -> str | None:
        engine = open_database(database_url)
        with engine.connect() as conn:
            found = migrate.revision(conn, "x")
        engine.dispose()
        return found

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(opened, range(4))) == {migrate.REVISION}


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "fleet.db"
    file.write_bytes(b"not a database, and long enough to be looked at as one" * 100)
    with pytest.raises(DatabaseInvalidError, match=r"fleet.db: file is not a database") as caught:
        open_database(f"sqlite:///{file}")
    assert isinstance(caught.value, EdgeSLMError)
