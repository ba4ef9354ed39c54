"""What a device was taught, on disk: SQLite, each lesson flushed before it counts.

Independent of any bundle: a lesson has its text, so that the next model learns it, too. The agent
and the commands of `edgeslm feedback` may have it open at once: `changed` says that another has
written. Nothing that counts is ever dropped to make room; what was undone, or said again, is.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgeslm.core.learning import Learnt
from edgeslm.core.numbers import History
from edgeslm.core.overlay import Lesson
from edgeslm.errors import UnavailableError

NAME: Final = "feedback.sqlite"
MAX_SHOWN: Final = 4096
"""Templates of a model that are known to have been shown."""
_SCHEMA: Final = 1
_BUSY_S: Final = 1.0
_ROW_BYTES: Final = 256  # of a lesson, beside its text, about
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
_COLUMNS: Final = (
    "id, model, kind, label, text, whole, source, time, arrived, operator, token, result, flags, "
    "undone, undone_by, undone_token, channel"
)
_FLOOR: Final = "time_floor"


class LessonsUnavailableError(UnavailableError):
    """What was taught cannot be read or written now."""

    code = "feedback.unavailable"


class LessonsFullError(UnavailableError):
    """There is no room for a lesson: undo some, or export and retrain."""

    code = "feedback.full"


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


class LessonLog:
    """Owned by one thread of one process.

    Args:
        path: the database; made where it is absent. One that is damaged is set aside under another
            name, and `set_aside` says which.
        max_lessons: most lessons that count.
        max_bytes: of all that is kept of lessons, about.
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
        self._path = path
        self._max_lessons = max_lessons
        self._max_bytes = max_bytes
        try:
            self._db = _open(path, "ro" if readonly else "rwc" if make else "rw")
        except sqlite3.DatabaseError as err:
            if isinstance(err, sqlite3.OperationalError) or readonly or not make:
                raise _refusal(path, err) from None
            self.set_aside = _move_aside(path)
            try:
                self._db = _open(path, "rwc")
            except sqlite3.Error as again:
                raise _refusal(path, again) from None
        self._version = self._data_version()

    def add(self, taught: Taught) -> Taught:
        """Keep a lesson, flushed; return it with its number.

        Raises:
            LessonsFullError: there is no room; nothing was written.
            LessonsUnavailableError: the disk refused; nothing was written.
        """
        lesson = taught.lesson
        with self._writing() as db:
            self._make_room(db, len(lesson.text.encode()) + _ROW_BYTES)
            row = db.execute(
                "INSERT INTO lesson (model, kind, label, text, whole, source, time, arrived, "
                "operator, token, result, flags, channel) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(taught.model, lesson.kind, lesson.label, lesson.text, lesson.whole),
                    *(lesson.source, lesson.time, taught.arrived, taught.operator, taught.token),
                    *(taught.result, ",".join(taught.flags), lesson.channel),
                ),
            )
        return replace(taught, lesson=replace(lesson, id=row.lastrowid or 0))

    def undo(self, ids: Collection[int], *, at: float, by: str, token: str = "") -> list[Taught]:
        """Take lessons back, flushed; return those of them that counted.

        Raises:
            LessonsUnavailableError: the disk refused; nothing was written.
        """
        found: list[Taught] = []
        with self._writing() as db:
            for id_ in ids:
                done = db.execute(
                    "UPDATE lesson SET undone = ?, undone_by = ?, undone_token = ? "
                    "WHERE id = ? AND undone IS NULL",
                    (at, by, token, id_),
                )
                if done.rowcount:
                    query = f"SELECT {_COLUMNS} FROM lesson WHERE id = ?"  # noqa: S608 -- ours
                    found.append(_taught(db.execute(query, (id_,)).fetchone()))
        return found

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

    # What sources have learnt.

    def keep(self, model: str, learnt: Learnt) -> None:
        """Keep what a source has learnt.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            row = (model, learnt.source, json.dumps(_written(learnt)))
            db.execute("INSERT OR REPLACE INTO learnt VALUES (?, ?, ?)", row)

    def learnt(self, model: str) -> list[Learnt]:
        """Return what sources of a model have learnt; what is damaged is left out.

        Raises:
            LessonsUnavailableError: it cannot be read.
        """
        found = []
        for source, record in self._rows(
            "SELECT source, record FROM learnt WHERE model = ?", model
        ):
            with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
                found.append(_read(source, json.loads(record)))
        return found

    def forget(self, model: str, source: str) -> bool:
        """Forget what a source has learnt; return whether there was something.

        Raises:
            LessonsUnavailableError: the disk refused.
        """
        with self._writing() as db:
            gone = db.execute("DELETE FROM learnt WHERE model = ? AND source = ?", (model, source))
        return gone.rowcount > 0

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

    def close(self) -> None:
        """Let go of it."""
        self._db.close()

    def _make_room(self, db: sqlite3.Connection, size: int) -> None:
        """Drop what does not count, where there is no room else.

        Raises:
            LessonsFullError: all of it counts.
        """
        if self._fits(db, size):
            return
        db.execute("DELETE FROM lesson WHERE undone IS NOT NULL")
        # The same text, once more: the later one is what counts.
        db.execute(
            "DELETE FROM lesson WHERE EXISTS (SELECT 1 FROM lesson AS later "
            "WHERE later.model = lesson.model AND later.text = lesson.text "
            "AND later.whole = lesson.whole AND later.source IS lesson.source "
            "AND (later.time, later.id) > (lesson.time, lesson.id))"
        )
        if not self._fits(db, size):
            msg = f"{self._path.name} has all the lessons that it may hold; undo some"
            raise LessonsFullError(msg)

    def _fits(self, db: sqlite3.Connection, size: int) -> bool:
        count, held = db.execute(
            f"SELECT count(*), coalesce(sum(length(CAST(text AS BLOB)) + {_ROW_BYTES}), 0) "  # noqa: S608 -- ours
            "FROM lesson"
        ).fetchone()
        return bool(count < self._max_lessons and held + size <= self._max_bytes)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._db as db:
                db.execute("BEGIN IMMEDIATE")
                yield db
        except sqlite3.Error as err:
            raise _refusal(self._path, err) from None

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as err:
            raise _refusal(self._path, err) from None

    def _data_version(self) -> int:
        return int(self._rows("PRAGMA data_version")[0][0])


def _open(path: Path, mode: str) -> sqlite3.Connection:
    """Return the database, ready; `sqlite3.DatabaseError`: it is none, or damaged."""
    where = f"{path.absolute().as_uri()}?mode={mode}"
    db = sqlite3.connect(where, uri=True, isolation_level=None, timeout=_BUSY_S)
    try:
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok" or version > _SCHEMA:
            raise sqlite3.DatabaseError("damaged")  # noqa: EM101, TRY301 -- told by the caller
        if mode != "ro":
            db.execute("PRAGMA synchronous = EXTRA")
            if version == 0:
                with db:
                    db.execute("BEGIN IMMEDIATE")
                    for table in _TABLES:
                        db.execute(table)
                    db.execute(f"PRAGMA user_version = {_SCHEMA}")
    except BaseException:
        db.close()
        raise
    return db


def _refusal(path: Path, err: sqlite3.Error) -> LessonsUnavailableError:
    return LessonsUnavailableError(
        f"{path}: {err}. Check the path, the disk, and who may write it."
    )


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    try:
        path.rename(aside)
        for journal in path.parent.glob(f"{path.name}-*"):
            journal.unlink()
    except OSError as err:
        msg = f"{path} is damaged and cannot be set aside: {err.strerror or err}"
        raise LessonsUnavailableError(msg) from None
    return aside


def _taught(row: Sequence[Any]) -> Taught:
    id_, model, kind, label, text, whole, source, when, arrived, *rest = row
    operator, token, result, flags, undone, undone_by, undone_token, channel = rest
    return Taught(
        model=model,
        lesson=Lesson(id_, kind, text, bool(whole), source, label, when, channel),
        operator=operator,
        token=token,
        arrived=arrived,
        result=result,
        flags=tuple(flags.split(",")) if flags else (),
        undone=undone,
        undone_by=undone_by or "",
        undone_token=undone_token or "",
    )


def _written(learnt: Learnt) -> dict[str, object]:
    return {
        "lines": learnt.lines,
        "once": learnt.once,
        "templates": sorted(learnt.templates),
        "histories": {
            template: [
                [h.values, h.counts, h.once, h.others, h.effective, h.scale] for h in histories
            ]
            for template, histories in learnt.histories.items()
        },
    }


def _read(source: str, record: dict[str, Any]) -> Learnt:
    histories = {
        str(template): tuple(
            History(tuple(map(float, v)), tuple(map(int, c)), int(o), int(x), float(e), float(s))
            for v, c, o, x, e, s in found
        )
        for template, found in record["histories"].items()
    }
    templates = frozenset(map(str, record["templates"]))
    return Learnt(source, int(record["lines"]), int(record["once"]), templates, histories)
