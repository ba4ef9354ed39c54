"""Who did what: rows that are added and never changed."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, insert, select

from edgeslm.fleet.database.schema import audit
from edgeslm.fleet.database.words import bounded, clean

_NAME_CHARS: Final = 64


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something.

    Args:
        who: name of the account, or of the system's user.
        by: which way.
    """

    who: str
    by: Literal["cli", "page", "api", "service"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One row."""

    id: int
    at: float
    who: str
    by: str
    what: str
    detail: dict[str, Any]


def at_terminal() -> Actor:
    """Return whoever gives a command here."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a user whom the system has no name of, in a container say
        who = "unknown"
    return Actor(who, "cli")


def record(conn: Connection, actor: Actor, what: str, *, now: float, **detail: Any) -> None:
    """Add a row.

    Args:
        conn: in the transaction of what was done, so that there is never one without the other.
        actor: who did it.
        what: past tense, stable, such as rollout.started.
        now: seconds since 1970.
        detail: what it was done to; JSON.
    """
    row = {
        "at": now,
        "who": bounded(actor.who, _NAME_CHARS),
        "by": actor.by,
        "what": what,
        "detail": clean(detail),
    }
    conn.execute(insert(audit).values(row))


def in_words(value: object) -> str:
    """Return a value of an entry's detail for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {in_words(each)}" for key, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(in_words, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def entries(
    conn: Connection, *, before: int | None = None, limit: int = 50, what: str | None = None
) -> Sequence[Entry]:
    """Return the newest first; `before`: the id of the last one of the page before."""
    rows = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        rows = rows.where(audit.c.id < before)
    if what is not None:
        rows = rows.where(audit.c.what == what)
    return [Entry(**row) for row in conn.execute(rows).mappings()]
