"""Brings a database's schema to what this build works with, or says why that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from edgeslm.fleet.database.errors import (
    DatabaseInvalidError,
    SchemaNewerError,
    SchemaOlderError,
)

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

REVISION: Final = "0001"
"""The newest one in `migrations`; the others count up to it."""
VERSION_TABLE: Final = "edgeslm_schema"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x65646765736C6D  # of PostgreSQL, by number: one process migrates at a time
_OWN: Final = "Give the fleet a database of its own."


def ready(engine: Engine, shown: str) -> None:
    """See that the schema is this build's; SQLite's is brought there, PostgreSQL's if it has none.

    Args:
        engine: of the database.
        shown: how it is named in errors.

    Raises:
        SchemaNewerError, SchemaOlderError, DatabaseInvalidError: see there.
        DatabaseError: it cannot be reached or written.
    """
    with engine.connect() as conn:
        found = revision(conn, shown)
    if found == REVISION:
        return
    if found is not None and engine.dialect.name == "postgresql":
        raise SchemaOlderError(
            shown,
            [("", f"its schema is {found}, and this version works with {REVISION}")],
            remedy="Stop all that use it, keep a copy, then: edgeslm fleet database upgrade",
        )
    upgrade(engine, shown)


def upgrade(engine: Engine, shown: str) -> str | None:
    """Bring the schema to `REVISION`, in one transaction; return what it was, None: empty.

    Raises:
        SchemaNewerError, DatabaseInvalidError, DatabaseError: as `ready`.
    """
    with engine.begin() as conn:
        if conn.dialect.name == "postgresql":
            conn.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = revision(conn, shown)
        if found != REVISION:
            _migrate(conn)
        return found


def revision(conn: Connection, shown: str) -> str | None:
    """Return which revision of the schema a database has; None: it is empty.

    Raises:
        SchemaNewerError: one that this build does not know.
        DatabaseInvalidError: it holds something else.
    """
    tables = inspect(conn).get_table_names()
    if VERSION_TABLE not in tables:
        if tables:
            what = f"holds tables that are not a fleet's, such as {min(tables)}"
            raise DatabaseInvalidError(shown, [("", what)], remedy=_OWN)
        return None
    try:
        found = conn.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    except SQLAlchemyError:
        found = None
    if not isinstance(found, str) or not found.isdecimal():
        what = f"{VERSION_TABLE} does not say which schema it has"
        raise DatabaseInvalidError(shown, [("", what)], remedy="Restore it from a copy.")
    if int(found) > int(REVISION):
        what = f"its schema is {found}, and this version knows {REVISION} at most"
        remedy = "Upgrade edgeslm here: pip install --upgrade edgeslm"
        raise SchemaNewerError(shown, [("", what)], remedy=remedy)
    return found


def scripts() -> ScriptDirectory:
    """Return the migrations."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 -- slow, and seldom needed

    return ScriptDirectory(str(_MIGRATIONS))


def _migrate(conn: Connection) -> None:
    from alembic.config import Config  # noqa: PLC0415 -- slow, and seldom needed
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415

    directory = scripts()

    def steps(found: Any, _context: object) -> Any:
        return directory._upgrade_revs(REVISION, found)  # noqa: SLF001 -- as alembic.command does

    with EnvironmentContext(Config(), directory, fn=steps) as environment:
        environment.configure(connection=conn, version_table=VERSION_TABLE, transactional_ddl=True)
        environment.run_migrations()
