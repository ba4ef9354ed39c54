"""What devices told of what happened to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, func, select

from edgeslm.fleet.database.engine import upsert
from edgeslm.fleet.database.schema import events
from edgeslm.fleet.database.words import bounded, clean, real

KEPT_S: Final = 30 * 86_400.0
_WORD_CHARS: Final = 64
_MESSAGE_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Event:
    """One; see `schema.events`."""

    id: int
    device: str
    at: float
    time: float
    event: str
    model: str
    code: str
    message: str
    detail: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Told:
    """An `event` message, valid by its schema, of the device whose topic it came on."""

    device: str
    message: Mapping[str, Any]
    at: float


def note(conn: Connection, told: Sequence[Told]) -> int:
    """Keep events; return how many were new: of one that is delivered again there is one."""
    rows = {}
    for each in told:
        error = each.message.get("error") or {}
        detail = each.message.get("detail")
        row = {
            "device": each.device,
            "at": each.at,
            "time": real(each.message.get("time")) or 0.0,
            "event": bounded(each.message.get("event"), _WORD_CHARS),
            "model": bounded(each.message.get("model"), _WORD_CHARS),
            "code": bounded(error.get("code"), _WORD_CHARS),
            "message": bounded(error.get("message"), _MESSAGE_CHARS),
            "detail": clean(detail) if detail else None,
        }
        rows[tuple(row[key] for key in _KEYS)] = row
    return upsert(conn, events, list(rows.values()), keys=_KEYS)


def newest(
    conn: Connection,
    *,
    device: str | None = None,
    before: int | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[Event]:
    """Return events, newest first.

    Args:
        conn: that reads.
        device: whose; None: all.
        before: id of the last one of the page before.
        after: id of the newest one that is known.
        limit: most of them.
    """
    rows = select(events).order_by(events.c.id.desc()).limit(limit)
    if device is not None:
        rows = rows.where(events.c.device == device)
    if before is not None:
        rows = rows.where(events.c.id < before)
    if after is not None:
        rows = rows.where(events.c.id > after)
    return [Event(**row) for row in conn.execute(rows).mappings()]


def last_id(conn: Connection) -> int:
    """Return the id of the newest; 0: there is none."""
    return conn.execute(select(func.max(events.c.id))).scalar() or 0


def prune(conn: Connection, now: float) -> None:
    """Forget those that are older than `KEPT_S`."""
    conn.execute(delete(events).where(events.c.at < now - KEPT_S))


_KEYS: Final = ("device", "time", "event", "model", "code")
