"""What a device was taught, on disk: SQLite, each lesson flushed before it counts.

Independent of any bundle: a lesson has its text, so that the next model learns it, too. The agent
and the commands of `edgeslm feedback` may have it open at once: `changed` says that another has
written. Nothing that was signed and counts is ever dropped to make room: what nobody has signed
has half of it at most, and gives way. What was taken back is kept on record, within bounds of its
own, and what that lost is counted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgeslm.adapters.lesson_file import moved_aside, opened, refusal
from edgeslm.adapters.lesson_room import LOST, ROW_BYTES, Room, count
from edgeslm.adapters.lesson_sources import SourceLog
from edgeslm.core.overlay import Lesson

NAME: Final = "feedback.sqlite"
MAX_SHOWN: Final = 4096
"""Templates of a model that are known to have been shown."""
TOKENS: Final = 256
"""Tokens that are known to have been right, whatever comes in a flood."""
MAX_HEEDED: Final = 10_000
"""Signed messages that are known again."""
GAVE_WAY: Final = "gave way to what was signed"
"""In place of who took a lesson back."""
_COLUMNS: Final = (
    "id, model, kind, label, text, whole, source, time, arrived, operator, token, result, flags, "
    "undone, undone_by, undone_token, channel"
)
_FLOOR: Final = "time_floor"
_LOST_TOLD: Final = "record_lost_told"
_TOKEN: Final = "token:"  # noqa: S105 -- how such facts are called


@dataclass(frozen=True, slots=True)
class Taught:
    """A lesson, and who gave it.

    Args:
        model: key of [models].
        lesson: its id is 0 before it is kept.
        operator: by a verified token; "" without one.
        token: id of that token; "" without one.
        arrived: when it came, seconds since 1970; never before one that came earlier.
        result: id of the result that it was given for; "" where it was given for a text.
        flags: see `contract.feedback.FeedbackReply`.
        undone: when it was taken back; None: it counts.
        undone_by: who did.
        undone_token: by which token; "" on the device.
    """

    model: str
    lesson: Lesson
    operator: str = ""
    token: str = ""
    arrived: float = 0.0
    result: str = ""
    flags: tuple[str, ...] = ()
    undone: float | None = None
    undone_by: str = ""
    undone_token: str = ""


class LessonLog(SourceLog):
    """Owned by one thread of one process.

    Args:
        path: the database; made where it is absent. One that is damaged is set aside under another
            name, and `set_aside` says which.
        max_lessons: most lessons that count, half of them unsigned; as many are on record besides.
        max_bytes: of their texts, about; as many of those on record, and of what sources learnt.
        readonly: nothing is made and nothing written.
        make: where it is absent; else that is an error.

    Raises:
        LessonsUnavailableError: the disk refused, or there is none and none is to be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_lessons: int,
        max_bytes: int,
        readonly: bool = False,
        make: bool = True,
    ) -> None:
        self.set_aside: Path | None = None
        self._room = Room(path.name, max_lessons, max_bytes)
        try:
            db = opened(path, "ro" if readonly else "rwc" if make else "rw")
        except sqlite3.DatabaseError as err:
            if isinstance(err, sqlite3.OperationalError) or readonly or not make:
                raise refusal(path, err) from None
            self.set_aside = moved_aside(path)
            try:
                db = opened(path, "rwc")
            except sqlite3.Error as again:
                raise refusal(path, again) from None
        super().__init__(path, db, max_bytes)
        self._version = self._data_version()

    def add(self, taught: Taught, digest: str = "") -> tuple[Taught, list[Taught]]:
        """Keep a lesson, flushed; return it with its number, and those that gave way to it.

        Args:
            taught: the lesson.
            digest: of the message that gave it, where that was signed.

        Raises:
            LessonsFullError: there is no room; nothing was written.
            LessonsUnavailableError: the disk refused; nothing was written.
        """
        lesson = taught.lesson
        with self._writing() as db:
            size = len(lesson.text.encode()) + ROW_BYTES
            room = self._room.made(db, size, signed=bool(taught.token))
            gone = _take_back(db, room, taught.arrived, GAVE_WAY, "")
            self._room.bound_record(db)
            row = db.execute(
                "INSERT INTO lesson (model, kind, label, text, whole, source, time, arrived, "
                "operator, token, result, flags, channel, told) "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,0)",
                (
                    *(taught.model, lesson.kind, lesson.label, lesson.text, lesson.whole),
                    *(lesson.source, lesson.time, taught.arrived, taught.operator, taught.token),
                    *(taught.result, ",".join(taught.flags), lesson.channel),
                ),
            )
            if digest:
                _heed(db, digest, row.lastrowid or 0)
        kept = replace(lesson, id=row.lastrowid or 0, signed=bool(taught.token))
        return replace(taught, lesson=kept), gone

    def undo(self, ids: Collection[int], *, at: float, by: str, token: str = "") -> list[Taught]:
        """Take lessons back, flushed; return those of them that counted.

        Raises:
            LessonsUnavailableError: the disk refused; nothing was written.
        """
        with self._writing() as db:
            found = _take_back(db, ids, at, by, token)
            self._room.bound_record(db)
        return found

    def heeded(self, digest: str) -> int | None:
        """Return which lesson a signed message gave or found; None: it was not heeded yet.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        rows = self._rows("SELECT lesson FROM heeded WHERE digest = ?", digest)
        return int(rows[0][0]) if rows else None

    def heed(self, digest: str, id_: int) -> None:
        """Remember that a signed message found this lesson.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            _heed(db, digest, id_)

    def untold(self, most: int) -> list[Taught]:
        """Return lessons of which the fleet is not told yet that they count, or no more.

        Raises:
            LessonsUnavailableError: they cannot be read.
        """
        query = f"SELECT {_COLUMNS} FROM lesson WHERE told = 0 ORDER BY id LIMIT ?"  # noqa: S608 -- ours
        return [_taught(row) for row in self._rows(query, most)]

    def tell(self, told: Collection[Taught], lost: int) -> None:
        """Remember that the fleet was told of these as they are, and that so many were lost.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            count(db, _LOST_TOLD, lost)
            db.executemany(
                "UPDATE lesson SET told = 1 WHERE id = ? AND undone IS ?",
                [(each.lesson.id, each.undone) for each in told],
            )

    def lost(self) -> tuple[int, int]:
        """Return how many that were taken back are on record no more, and how many it is told of.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        found = dict(
            self._rows("SELECT name, value FROM fact WHERE name IN (?, ?)", LOST, _LOST_TOLD)
        )
        return int(found.get(LOST, 0)), int(found.get(_LOST_TOLD, 0))

    def all(self) -> list[Taught]:
        """Return all that is kept, in the order of their numbers, what was undone included.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        return [_taught(row) for row in self._rows(f"SELECT {_COLUMNS} FROM lesson ORDER BY id")]  # noqa: S608 -- ours

    def counting(self, model: str) -> list[Lesson]:
        """Return the lessons of a model that were not taken back.

        Raises:
            LessonsUnavailableError: they cannot be read.
        """
        query = f"SELECT {_COLUMNS} FROM lesson WHERE model = ? AND undone IS NULL ORDER BY id"  # noqa: S608 -- ours
        return [_taught(row).lesson for row in self._rows(query, model)]

    def find(self, id_: int) -> Taught | None:
        """Return a lesson, taken back or not; None: there is none, or no more.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        rows = self._rows(f"SELECT {_COLUMNS} FROM lesson WHERE id = ?", id_)  # noqa: S608 -- ours
        return _taught(rows[0]) if rows else None

    def newest(self) -> float:
        """Return when the last lesson came, seconds since 1970; 0: none has.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        return float(self._rows("SELECT coalesce(max(arrived), 0) FROM lesson")[0][0])

    def changed(self) -> bool:
        """Whether another process has written since this was asked last.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        before, self._version = self._version, self._data_version()
        return before != self._version

    # Time that tokens have shown to be past.

    def time_floor(self) -> float:
        """Return the latest time that a signed token was of, seconds since 1970.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        rows = self._rows("SELECT value FROM fact WHERE name = ?", _FLOOR)
        return float(rows[0][0]) if rows else 0.0

    def raise_floor(self, to: float) -> None:
        """Remember that it is at least so late.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (_FLOOR, to))

    # Tokens that were right.

    def tokens(self) -> list[str]:
        """Return what they were noted by.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        rows = self._rows("SELECT name FROM fact WHERE name GLOB ?", f"{_TOKEN}*")
        return [name.removeprefix(_TOKEN) for (name,) in rows]

    def note_token(self, digest: str, at: float) -> None:
        """Remember that a token was right; the one that was noted first is forgotten for it.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (f"{_TOKEN}{digest}", at))
            db.execute(
                "DELETE FROM fact WHERE name IN (SELECT name FROM fact WHERE name GLOB ? "
                "ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                (f"{_TOKEN}*", TOKENS),
            )

    # Templates that were shown to people.

    def shown(self, model: str) -> list[str]:
        """Return the templates of a model that were shown, by their digests, oldest first.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        return [
            key for (key,) in self._rows("SELECT key FROM shown WHERE model = ? ORDER BY id", model)
        ]

    def show(self, model: str, keys: Sequence[str]) -> None:
        """Remember that these were shown.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO shown (model, key) VALUES (?, ?)", [(model, k) for k in keys]
            )
            db.execute(
                "DELETE FROM shown WHERE model = ?1 AND id <= "
                "(SELECT id FROM shown WHERE model = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                (model, MAX_SHOWN),
            )

    def _data_version(self) -> int:
        return int(self._rows("PRAGMA data_version")[0][0])


def _heed(db: sqlite3.Connection, digest: str, id_: int) -> None:
    db.execute("INSERT OR IGNORE INTO heeded (digest, lesson) VALUES (?, ?)", (digest, id_))
    db.execute("DELETE FROM heeded WHERE id <= (SELECT max(id) FROM heeded) - ?", (MAX_HEEDED,))


def _take_back(
    db: sqlite3.Connection, ids: Collection[int], at: float, by: str, token: str
) -> list[Taught]:
    found: list[Taught] = []
    for id_ in ids:
        done = db.execute(
            "UPDATE lesson SET undone = ?, undone_by = ?, undone_token = ?, told = 0 "
            "WHERE id = ? AND undone IS NULL",
            (at, by, token, id_),
        )
        if done.rowcount:
            query = f"SELECT {_COLUMNS} FROM lesson WHERE id = ?"  # noqa: S608 -- ours
            found.append(_taught(db.execute(query, (id_,)).fetchone()))
    return found


def _taught(row: Sequence[Any]) -> Taught:
    id_, model, kind, label, text, whole, source, when, arrived, *rest = row
    operator, token, result, flags, undone, undone_by, undone_token, channel = rest
    return Taught(
        model=model,
        lesson=Lesson(id_, kind, text, bool(whole), source, label, when, channel, bool(token)),
        operator=operator,
        token=token,
        arrived=arrived,
        result=result,
        flags=tuple(flags.split(",")) if flags else (),
        undone=undone,
        undone_by=undone_by or "",
        undone_token=undone_token or "",
    )
