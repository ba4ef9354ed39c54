"""What sources that were not in training have learnt, and learn, in the file of lessons."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeslm.adapters.lesson_file import refusal
from edgeslm.core import records
from edgeslm.core.learning import Learnt, Pupil

MAX_FORGOTTEN: Final = 1000
"""Sources that are known to have been forgotten."""


@dataclass(frozen=True, slots=True)
class Attendance:
    """How far a source that was not in training has come.

    Args:
        source: its name.
        spent_s: that it has been learning, while the agent ran.
        silent_s: since it was heard, likewise.
        pupil: what it has learnt so far, or that it ended with nothing; None: it is not known, or
            has learnt.
    """

    source: str
    spent_s: float
    silent_s: float
    pupil: Pupil | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a source had learnt was taken back.

    Args:
        id: its number.
        model: key of [models].
        source: that learns anew.
        at: when, seconds since 1970.
        by: who did.
        told: the fleet knows.
    """

    id: int
    model: str
    source: str
    at: float
    by: str
    told: bool = False


class SourceLog:
    """The part of `LessonLog` that is of sources, and what every part needs.

    Args:
        path: of the file.
        db: it, opened.
        max_bytes: of what sources have learnt, and as many of what they have learnt so far.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, max_bytes: int) -> None:
        self._path = path
        self._db = db
        self._max_bytes = max_bytes

    def keep(self, model: str, learnt: Learnt) -> None:
        """Keep what a source has learnt; what others learnt longest ago makes room for it.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            row = (model, learnt.source, records.of_learnt(learnt))
            db.execute("INSERT OR REPLACE INTO learnt VALUES (?, ?, ?)", row)
            db.execute(
                "UPDATE pupil SET record = '' WHERE model = ? AND source = ?",
                (model, learnt.source),
            )
            _bound(db, "learnt", self._max_bytes)

    def learnt(self, model: str) -> list[Learnt]:
        """Return what sources of a model have learnt; what is damaged is left out.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        found = []
        for source, record in self._rows(
            "SELECT source, record FROM learnt WHERE model = ?", model
        ):
            with contextlib.suppress(ValueError):
                found.append(records.learnt_of(source, record))
        return found

    def attend(self, model: str, attendances: Iterable[Attendance]) -> None:
        """Keep how far sources of a model have come.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            for each in attendances:
                row = (model, each.source, each.spent_s, each.silent_s)
                if each.pupil is None:
                    db.execute(
                        "INSERT INTO pupil VALUES (?1, ?2, ?3, ?4, '') "
                        "ON CONFLICT (model, source) DO UPDATE SET spent_s = ?3, silent_s = ?4",
                        row,
                    )
                else:
                    record = records.of_pupil(each.pupil)
                    db.execute("INSERT OR REPLACE INTO pupil VALUES (?,?,?,?,?)", (*row, record))
            _bound(db, "pupil", self._max_bytes)

    def attendances(self, model: str) -> list[Attendance]:
        """Return how far sources of a model have come; of a record that is damaged, no pupil.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        query = "SELECT source, spent_s, silent_s, record FROM pupil WHERE model = ?"
        found = []
        for source, spent_s, silent_s, record in self._rows(query, model):
            pupil = None
            with contextlib.suppress(ValueError):
                pupil = records.pupil_of(record)
            found.append(Attendance(source, spent_s, silent_s, pupil))
        return found

    def models_of(self, source: str) -> list[str]:
        """Return the models for which a source has learnt, or learns.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        rows = self._rows(
            "SELECT model FROM learnt WHERE source = ?1 UNION "
            "SELECT model FROM pupil WHERE source = ?1 ORDER BY model",
            source,
        )
        return [model for (model,) in rows]

    def drop(self, model: str, sources: Iterable[str]) -> None:
        """Drop what sources of a model have learnt: they gave way to others.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            for source in sources:
                _drop(db, model, source)

    def readmit(self, model: str, source: str) -> None:
        """Forget of a source that its period is over and it has learnt nothing, if it is so.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        query = "SELECT record FROM pupil WHERE model = ? AND source = ?"
        for (record,) in self._rows(query, model, source):
            with contextlib.suppress(ValueError):
                if records.pupil_of(record).ended:
                    self.drop(model, [source])

    def forget(self, model: str, source: str, *, at: float, by: str) -> bool:
        """Take back what a source has learnt, for somebody; return whether there was something.

        Raises:
            LessonsUnavailableError: the disk refused; nothing was written.
        """
        with self._writing() as db:
            if not _drop(db, model, source):
                return False
            row = (model, source, at, by)
            db.execute("INSERT INTO forgotten (model, source, at, by) VALUES (?, ?, ?, ?)", row)
            db.execute(
                "DELETE FROM forgotten WHERE id <= (SELECT max(id) FROM forgotten) - ?",
                (MAX_FORGOTTEN,),
            )
        return True

    def forgotten(self) -> list[Forgotten]:
        """Return who was forgotten, oldest first.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        rows = self._rows("SELECT id, model, source, at, by, told FROM forgotten ORDER BY id")
        return [
            Forgotten(id_, model, source, at, by, bool(told))
            for id_, model, source, at, by, told in rows
        ]

    def told(self, forgotten: Forgotten) -> None:
        """Note that the fleet knows.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            db.execute("UPDATE forgotten SET told = 1 WHERE id = ?", (forgotten.id,))

    def close(self) -> None:
        """Let go of it."""
        self._db.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._db as db:
                db.execute("BEGIN IMMEDIATE")
                yield db
        except sqlite3.Error as err:
            raise refusal(self._path, err) from None

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as err:
            raise refusal(self._path, err) from None


def _drop(db: sqlite3.Connection, model: str, source: str) -> bool:
    """Delete what a source has learnt, or learns; return whether there was something."""
    gone = [
        db.execute(f"DELETE FROM {table} WHERE model = ? AND source = ?", (model, source)).rowcount  # noqa: S608 -- ours
        for table in ("learnt", "pupil")
    ]
    return any(gone)


def _bound(db: sqlite3.Connection, table: str, max_bytes: int) -> None:
    """Drop the records of a table that were written longest ago, beyond so many bytes."""
    db.execute(
        f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM (SELECT rowid, "  # noqa: S608 -- ours
        f"sum(length(record)) OVER (ORDER BY rowid DESC) AS held FROM {table}) WHERE held > ?)",
        (max_bytes,),
    )
