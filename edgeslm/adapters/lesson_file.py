"""The file of lessons: its tables, and opening it whatever state it is in."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeslm.errors import UnavailableError

_SCHEMA: Final = 3
_MODE: Final = 0o600  # texts and people are in it
_BUSY_S: Final = 1.0
_TABLES: Final = (
    (
        "CREATE TABLE lesson (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, "
        "kind TEXT NOT NULL, label TEXT NOT NULL, text TEXT NOT NULL, whole INTEGER NOT NULL, "
        "source TEXT, time REAL NOT NULL, arrived REAL NOT NULL, operator TEXT NOT NULL, "
        "token TEXT NOT NULL, result TEXT NOT NULL, flags TEXT NOT NULL, undone REAL, "
        "undone_by TEXT, undone_token TEXT, channel TEXT NOT NULL)"
    ),
    (
        "CREATE TABLE learnt (model TEXT NOT NULL, source TEXT NOT NULL, record TEXT NOT NULL, "
        "PRIMARY KEY (model, source))"
    ),
    (
        "CREATE TABLE shown (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, "
        "key TEXT NOT NULL, UNIQUE (model, key))"
    ),
    "CREATE TABLE fact (name TEXT PRIMARY KEY, value REAL NOT NULL)",
)
_SINCE_1: Final = (
    # Whether the fleet was told that it counts, or does not any more.
    "ALTER TABLE lesson ADD COLUMN told INTEGER NOT NULL DEFAULT 1",
    "CREATE INDEX lesson_untold ON lesson (id) WHERE told = 0",
    # Signed messages, and the lessons that they gave or found.
    (
        "CREATE TABLE heeded (id INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL UNIQUE, "
        "lesson INTEGER NOT NULL)"
    ),
)

_SINCE_2: Final = (
    # How far sources have come that were not in training, and who had them learn anew.
    (
        "CREATE TABLE pupil (model TEXT NOT NULL, source TEXT NOT NULL, spent_s REAL NOT NULL, "
        "silent_s REAL NOT NULL, record TEXT NOT NULL, PRIMARY KEY (model, source))"
    ),
    (
        "CREATE TABLE forgotten (id INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, "
        "source TEXT NOT NULL, at REAL NOT NULL, by TEXT NOT NULL, "
        "told INTEGER NOT NULL DEFAULT 0)"
    ),
)
_CHANGES: Final = (_TABLES, _SINCE_1, _SINCE_2)
"""What makes each schema of the one before it."""


class LessonsUnavailableError(UnavailableError):
    """What was taught cannot be read or written now."""

    code = "feedback.unavailable"


def opened(path: Path, mode: str) -> sqlite3.Connection:
    """Return the database, ready.

    Args:
        path: where it is.
        mode: of SQLite: ro, rw, rwc.

    Raises:
        sqlite3.DatabaseError: it is none, or damaged.
    """
    if mode == "rwc":
        # SQLite makes its journal like it. Where the disk refuses, it is SQLite that says why.
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    where = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(where, uri=True, isolation_level=None, timeout=_BUSY_S)
    try:
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok" or version > _SCHEMA:
            raise sqlite3.DatabaseError("damaged")  # noqa: EM101, TRY301 -- told by the caller
        if mode != "ro":
            db.execute("PRAGMA synchronous = EXTRA")
            if version < _SCHEMA:
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    for changes in _CHANGES[version:]:
                        for change in changes:
                            db.execute(change)
                    db.execute(f"PRAGMA user_version = {_SCHEMA}")
    except BaseException:
        db.close()
        raise
    return db


def refusal(path: Path, err: sqlite3.Error) -> LessonsUnavailableError:
    """Return what a fault of the database is to who asked for lessons."""
    return LessonsUnavailableError(
        f"{path}: {err}. Check the path, the disk, and who may write it."
    )


def moved_aside(path: Path) -> Path:
    """Set a damaged file aside; return its new name.

    Raises:
        LessonsUnavailableError: the disk refused.
    """
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        path.rename(aside)
        for journal in path.parent.glob(f"{path.name}-*"):
            journal.unlink()
    except OSError as err:
        msg = f"{path} is damaged and cannot be set aside: {err.strerror or err}"
        raise LessonsUnavailableError(msg) from None
    return aside
