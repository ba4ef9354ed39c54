"""Room in the file of lessons: who has how much of it, and what gives way to what."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from edgeslm.errors import UnavailableError

ROW_BYTES: Final = 256
"""Of a lesson, beside its text, about."""
LOST: Final = "record_lost"
"""How many that were taken back are on record no more."""
_SIZE: Final = f"length(CAST(text AS BLOB)) + {ROW_BYTES}"


class LessonsFullError(UnavailableError):
    """There is no room for a lesson: undo some, or export and retrain."""

    code = "feedback.full"


@dataclass(frozen=True, slots=True)
class Room:
    """What there is.

    Args:
        name: of the file.
        lessons: most that count, half of them unsigned; as many are on record besides.
        size: of their texts, in bytes, about; as much of those on record.
    """

    name: str
    lessons: int
    size: int

    def made(self, db: sqlite3.Connection, size: int, *, signed: bool) -> list[int]:
        """Return which lessons have to go for one of that size: none that was signed.

        Raises:
            LessonsFullError: there is no room.
        """
        many, much = _held(db, "undone IS NULL")
        if not signed:
            half = -(-self.lessons // 2)
            unsigned, held = _held(db, "undone IS NULL AND token = ''")
            if unsigned >= half or held + size > self.size // 2:
                msg = (
                    f"{self.name} has all the lessons without a token that it may hold: say it "
                    "with one, or undo some, by `edgeslm feedback undo --unsigned`"
                )
                raise LessonsFullError(msg)
        gone: list[int] = []
        oldest = db.execute(
            f"SELECT id, {_SIZE} FROM lesson WHERE undone IS NULL AND token = '' ORDER BY id"  # noqa: S608 -- ours
        )
        while many >= self.lessons or much + size > self.size:
            row = oldest.fetchone() if signed else None
            if row is None:
                msg = (
                    f"{self.name} has all the lessons that it may hold: undo some, or raise "
                    "max_lessons or max_mb of [feedback]"
                )
                raise LessonsFullError(msg)
            gone.append(row[0])
            many, much = many - 1, much - row[1]
        oldest.close()
        return gone

    def bound_record(self, db: sqlite3.Connection) -> None:
        """Forget of what was taken back what is too much: first what nobody had signed."""
        many, much = _held(db, "undone IS NOT NULL")
        if many <= self.lessons and much <= self.size:
            return
        lost = 0
        oldest = db.execute(
            f"SELECT id, {_SIZE} FROM lesson WHERE undone IS NOT NULL "  # noqa: S608 -- ours
            "ORDER BY token <> '', undone, id"
        ).fetchall()
        for id_, size in oldest:
            if many <= self.lessons and much <= self.size:
                break
            db.execute("DELETE FROM lesson WHERE id = ?", (id_,))
            many, much, lost = many - 1, much - size, lost + 1
        count(db, LOST, lost)


def count(db: sqlite3.Connection, name: str, more: int) -> None:
    """Add to a fact that is a number."""
    db.execute("INSERT OR IGNORE INTO fact VALUES (?, 0)", (name,))
    db.execute("UPDATE fact SET value = value + ? WHERE name = ?", (more, name))


def _held(db: sqlite3.Connection, which: str) -> tuple[int, int]:
    """Return how many lessons there are, and how many bytes."""
    query = f"SELECT count(*), coalesce(sum({_SIZE}), 0) FROM lesson WHERE {which}"  # noqa: S608 -- ours
    many, much = db.execute(query).fetchone()
    return many, much
