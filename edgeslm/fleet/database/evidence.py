"""Results that devices sent home: for people to judge, and for the next export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, delete, func, select, update

from edgeslm.fleet.database.engine import upsert
from edgeslm.fleet.database.schema import evidence
from edgeslm.fleet.database.words import MAX_WHOLE, bounded, real, whole

KEPT_S: Final = 90 * 86_400.0
_ID_CHARS: Final = 200
_NAME_CHARS: Final = 64
_LABEL_CHARS: Final = 200
_LONG_CHARS: Final = 500
_TEXT_CHARS: Final = 8192
_PART: Final = 500  # rows that are read at once


@dataclass(frozen=True, slots=True)
class Evidence:
    """One result; see `schema.evidence`."""

    id: str
    device: str
    model: str
    version: int
    task: str
    at: float
    time: float
    source: str | None
    key: str | None
    label: str
    score: float | None
    p_value: float | None
    confidence: float | None
    accepted: bool | None
    text: str | None
    judged: str | None = None
    judged_by: str | None = None
    judged_at: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A `result` message, valid by its schema, of the device whose topic it came on."""

    device: str
    message: Mapping[str, Any]
    at: float


def keep(conn: Connection, sent: Sequence[Sent]) -> int:
    """Keep answers, and no errors; return how many were new: a redelivered one is one."""
    rows = {}
    for each in sent:
        message, model = each.message, each.message["model"]
        if "label" not in message:
            continue
        # Its device's id is part of it: no device can take the place of another's.
        name = f"{each.device}/{bounded(message['id'], _ID_CHARS)}"[:_ID_CHARS]
        given = message.get("time")
        rows[name] = {
            "id": name,
            "device": each.device,
            "model": bounded(model["name"], _NAME_CHARS),
            "version": whole(model["version"]) or 0,
            "task": bounded(message["task"], _NAME_CHARS),
            "at": each.at,
            "time": real(given if given is not None else message["time_in"]) or 0.0,
            "source": _words(message.get("source"), _LONG_CHARS),
            "key": _words(message.get("key"), _LONG_CHARS),
            "label": bounded(message["label"], _LABEL_CHARS),
            "score": real(message.get("score")),
            "p_value": real(message.get("p_value")),
            "confidence": real(message.get("confidence")),
            "accepted": message.get("accepted"),
            "text": _words(message.get("text"), _TEXT_CHARS),
        }
    return upsert(conn, evidence, list(rows.values()), keys=("id",))


def judge(conn: Connection, id: str, label: str | None, *, by: str, now: float) -> bool:  # noqa: A002 -- its name
    """Give a result the label that it should have had; None: take it back. False: no such one."""
    new = {
        "judged": bounded(label, _LABEL_CHARS) if label is not None else None,
        "judged_by": bounded(by, _NAME_CHARS) if label is not None else None,
        "judged_at": now if label is not None else None,
    }
    return bool(conn.execute(update(evidence).where(evidence.c.id == id).values(new)).rowcount)


def find(  # noqa: PLR0913 -- by name
    conn: Connection,
    *,
    device: str | None = None,
    model: str | None = None,
    label: str | None = None,
    before: tuple[float, str] | None = None,
    limit: int = 50,
) -> list[Evidence]:
    """Return results, newest first; `before`: `at` and `id` of the last one of the page before."""
    of = evidence.c
    rows = select(evidence).order_by(of.at.desc(), of.id.desc()).limit(limit)
    for column, value in ((of.device, device), (of.model, model), (of.label, label)):
        if value is not None:
            rows = rows.where(column == value)
    if before is not None:
        at, name = before
        rows = rows.where((of.at < at) | ((of.at == at) & (of.id < name)))
    return [Evidence(**row) for row in conn.execute(rows).mappings()]


def collected(
    conn: Connection, model: str, *, since: float = 0.0, until: float = float(MAX_WHOLE)
) -> Iterator[Evidence]:
    """Yield all results of a model that came in a time, oldest first.

    They are read in parts, each in a moment of its own: `conn` may be in no transaction meanwhile.
    """
    of = evidence.c
    at, name = since, ""
    while True:
        rows = (
            select(evidence)
            .where(of.model == model, of.at < until)
            .where((of.at > at) | ((of.at == at) & (of.id > name)))
            .order_by(of.at, of.id)
            .limit(_PART)
        )
        found = [Evidence(**row) for row in conn.execute(rows).mappings()]
        yield from found
        if len(found) < _PART:
            return
        at, name = found[-1].at, found[-1].id


def labels(conn: Connection, model: str, *, since: float) -> dict[tuple[int, str], int]:
    """Return how often a model gave each label since then, by version and label."""
    of = evidence.c
    rows = select(of.version, of.label, func.count()).where(of.model == model, of.at >= since)
    return {(v, label): n for v, label, n in conn.execute(rows.group_by(of.version, of.label))}


def prune(conn: Connection, now: float) -> None:
    """Forget those that nobody has judged and that are older than `KEPT_S`."""
    old = (evidence.c.at < now - KEPT_S, evidence.c.judged.is_(None))
    conn.execute(delete(evidence).where(*old))


def _words(text: object, chars: int) -> str | None:
    return bounded(text, chars) if isinstance(text, str) else None
