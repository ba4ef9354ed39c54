"""Queries that only the page needs: a part of what is long, and one wrong password less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from edgeslm.core.rollout import DeviceState
from edgeslm.fleet.database.audit import Entry
from edgeslm.fleet.database.schema import attempts, audit, rollout_targets


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One device in a roll-out, as a table shows it; see `schema.rollout_targets`."""

    device: str
    type: str
    wave: int
    state: str
    since: float
    previous: int | None
    reason: str


def targets(
    conn: Connection,
    rollout: int,
    *,
    state: DeviceState | None = None,
    after: tuple[int, str] | None = None,
    limit: int = 50,
) -> list[TargetRow]:
    """Return some of a roll-out's devices, by wave and id.

    Args:
        conn: that reads.
        rollout: its number.
        state: that they are in; None: any.
        after: wave and id of the last one of the page before.
        limit: most of them.
    """
    of = rollout_targets.c
    columns = (of[name] for name in TargetRow.__dataclass_fields__)
    rows = select(*columns).where(of.rollout == rollout).order_by(of.wave, of.device).limit(limit)
    if state is not None:
        rows = rows.where(of.state == state.value)
    if after is not None:
        wave, device = after
        rows = rows.where((of.wave > wave) | ((of.wave == wave) & (of.device > device)))
    return [TargetRow(**row._mapping) for row in conn.execute(rows)]  # noqa: SLF001 -- its public name


def done_by(
    conn: Connection, who: str, *, before: int | None = None, limit: int = 50
) -> Sequence[Entry]:
    """Return what somebody did, newest first; `before`: as `audit.entries`."""
    rows = select(audit).where(audit.c.who == who).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        rows = rows.where(audit.c.id < before)
    return [Entry(**row._mapping) for row in conn.execute(rows)]  # noqa: SLF001


def spare(conn: Connection, who: str) -> None:
    """Count one wrong password less: it was counted before it turned out right."""
    of = attempts.c
    conn.execute(update(attempts).where(of.who == who, of.count > 0).values(count=of.count - 1))
