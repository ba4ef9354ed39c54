"""What the registry knows of devices, as roll-outs see it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, Row, and_, select

from edgeslm.core.rollout import Health, Sight
from edgeslm.fleet.database.parts import parts
from edgeslm.fleet.database.schema import device_models, devices

_MODEL: Final = (
    *("version", "committed", "state", "trial", "error"),
    *("counted", "answers", "errors", "alarms", "p99_ms"),
)
PASSING: Final = frozenset(
    {
        *("agent.away", "clock.untrusted", "disk.full", "slots.unavailable", "trial.abandoned"),
        *("fetch.metadata", "fetch.missing", "fetch.stalled", "update.incomplete"),
        *("trust.not_there", "trust.unavailable", "update.superseded", "updater.busy"),
    }
)
"""Codes of errors after which an updater that does not say so tries again by itself."""
_SERVING: Final = "serving"
_FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Seen:
    """A device and one model on it.

    Args:
        sight: what it has said last.
        version: that its agent has answered with last; None: with none.
        health: how that version has answered.
    """

    sight: Sight
    version: int | None = None
    health: Health = field(default_factory=Health)


def seen(conn: Connection, model: str, ids: Collection[str]) -> dict[str, Seen]:
    """Return what is known of these devices; those that the fleet does not have are absent."""
    wanted = (
        *(devices.c.id, devices.c.seq, devices.c.phase, devices.c.heard_at),
        *(devices.c.failure, devices.c.failure_model, devices.c.retries),
        *(device_models.c[name] for name in _MODEL),
    )
    of_model = and_(device_models.c.device == devices.c.id, device_models.c.model == model)
    query = select(*wanted).select_from(devices.outerjoin(device_models, of_model))
    found: dict[str, Seen] = {}
    for some in parts(ids):
        for row in conn.execute(query.where(devices.c.id.in_(some))):
            found[row.id] = _seen(row, model)
    return found


def _seen(row: Row[Any], model: str) -> Seen:
    others = row.failure_model is not None and row.failure_model != model
    passing = row.failure in PASSING if row.retries is None else row.retries
    about_it = row.version is None or row.version == row.committed
    sight = Sight(
        seq=row.seq,
        idle=row.phase == "idle",
        committed=row.committed,
        error=None if others else row.failure or None,
        passing=passing,
        serving=row.version if row.state == _SERVING and not row.trial else None,
        # Of an agent that has not told yet of what was committed, it is the old one's.
        broken=(row.error or _FAILED) if row.state == _FAILED and about_it else None,
        heard_at=row.heard_at,
    )
    if row.counted is None:
        return Seen(sight)
    health = Health(row.answers, row.errors, row.alarms, row.p99_ms)
    return Seen(sight, row.counted, health)
