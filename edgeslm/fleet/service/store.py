"""What devices say, on its way into the database; and what leaves it again, by age and by count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

from sqlalchemy import Engine, delete, func, select

from edgeslm.fleet import access
from edgeslm.fleet.database import accounts, events, evidence, registry
from edgeslm.fleet.database import schema as tables
from edgeslm.fleet.service.inbound import RETAINED, Inbound, Retained
from edgeslm.fleet.service.sampler import Sampler

MAX_EVENTS: Final = 1_000_000
MAX_EVIDENCE: Final = 2_000_000  # that nobody has judged


class Store:
    """Implements `ingest.Keeps`. One thread's.

    Args:
        engine: of the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sampler = Sampler()

    def keep(self, messages: Sequence[Inbound], now: float) -> Mapping[str, int]:
        said = [
            registry.Heard(each.device, cast("Retained", each.kind), each.message, now)
            for each in messages
            if each.kind in RETAINED
        ]
        told = [
            events.Told(each.device, each.message, now) for each in messages if each.kind == "event"
        ]
        sent = [
            evidence.Sent(each.device, each.message, now)
            for each in messages
            if each.kind == "result" and self._sampler.keeps(each.device, each.message, now)
        ]
        if not (said or told or sent):
            return {}
        with self._engine.begin() as conn:
            refused = registry.heard(conn, said) if said else {}
            if told:
                events.note(conn, told)
            if sent:
                evidence.keep(conn, sent)
        return refused


def prune(engine: Engine, now: float) -> None:
    """Remove what is old, and the oldest where there is too much.

    Raises:
        DatabaseError: not now.
    """
    for old in (events.prune, evidence.prune, registry.prune):
        with engine.begin() as conn:
            old(conn, now)
    with engine.begin() as conn:
        accounts.prune(
            conn,
            now,
            session_s=access.ABSOLUTE_S,
            idle_s=access.IDLE_S,
            forget_s=access.FORGOTTEN_S,
        )
    with engine.begin() as conn:
        newest = select(func.max(tables.events.c.id)).scalar_subquery()
        conn.execute(delete(tables.events).where(tables.events.c.id <= newest - MAX_EVENTS))
    with engine.begin() as conn:
        of = tables.evidence.c
        rows = select(of.at).where(of.judged.is_(None)).order_by(of.at.desc())
        last = conn.execute(rows.offset(MAX_EVIDENCE).limit(1)).scalar()
        if last is not None:
            conn.execute(delete(tables.evidence).where(of.judged.is_(None), of.at <= last))
