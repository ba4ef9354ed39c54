"""Figures over many devices: how many there are of each kind, how models answer, hour by hour."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, select, true

from edgeslm.core.filters import Expression
from edgeslm.fleet.database.filters import condition
from edgeslm.fleet.database.schema import device_models, devices, hours

HOURS_KEPT: Final = 7 * 24
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """How many devices there are of each kind.

    Args:
        total: of all.
        online: of them.
        health: by health.
        phase: by what their updaters do.
        profiles: by profile; "": without.
        models: by model and version that its agents answer with; None: with none.
    """

    total: int
    online: int
    health: Mapping[str, int]
    phase: Mapping[str, int]
    profiles: Mapping[str, int]
    models: Mapping[str, Mapping[int | None, int]]


@dataclass(frozen=True, slots=True)
class Latency:
    """How a version of a model answers on one type of device.

    Args:
        version: of the model.
        profile: of the devices.
        devices: how many.
        p50_ms: the median device's; None: none has measured.
        p99_ms: the same.
        answers: of all, since it runs there.
        errors: of them.
        alarms: of them.
    """

    version: int
    profile: str
    devices: int
    p50_ms: float | None
    p99_ms: float | None
    answers: int
    errors: int
    alarms: int


@dataclass(frozen=True, slots=True)
class Hour:
    """What was answered in an hour.

    Args:
        hour: since 1970.
        version: of the model; 0: it had none.
        answers: errors included.
        errors: of them.
        alarms: of them.
    """

    hour: int
    version: int
    answers: int
    errors: int
    alarms: int


def counts(conn: Connection, where: Expression | None = None, now: float = 0.0) -> FleetCounts:
    """Return how many devices there are of each kind, of those that match."""
    matches = condition(where, now) if where is not None else true()

    def by(column: ColumnElement[Any]) -> dict[Any, int]:
        rows = select(column, func.count()).select_from(devices).where(matches).group_by(column)
        return {key: value for key, value in conn.execute(rows)}  # noqa: C416 -- rows are no pairs to mypy

    online = by(devices.c.online)
    model, version = device_models.c.model, device_models.c.version
    rows = select(model, version, func.count()).group_by(model, version)
    if where is not None:
        rows = rows.join(devices, devices.c.id == device_models.c.device).where(matches)
    models: dict[str, dict[int | None, int]] = defaultdict(dict)
    for name, number, count in conn.execute(rows):
        models[name][number] = count
    return FleetCounts(
        total=sum(online.values()),
        online=online.get(True, 0),
        health=by(devices.c.health),
        phase=by(devices.c.phase),
        profiles=by(devices.c.profile),
        models=models,
    )


def latency(conn: Connection, model: str) -> list[Latency]:
    """Return how a model answers, by version and profile: newest version first."""
    of = device_models.c
    rows = (
        select(
            of.version, devices.c.profile, of.p50_ms, of.p99_ms, of.answers, of.errors, of.alarms
        )
        .join(devices, devices.c.id == of.device)
        .where(of.model == model, of.version.is_not(None), of.version == of.counted)
    )
    grouped: dict[tuple[int, str], list[RowMapping]] = defaultdict(list)
    for row in conn.execute(rows).mappings():
        grouped[row["version"], row["profile"]].append(row)
    return [
        Latency(
            version,
            profile,
            len(group),
            _median([row["p50_ms"] for row in group]),
            _median([row["p99_ms"] for row in group]),
            sum(row["answers"] for row in group),
            sum(row["errors"] for row in group),
            sum(row["alarms"] for row in group),
        )
        for (version, profile), group in sorted(
            grouped.items(), key=lambda item: (-item[0][0], item[0][1])
        )
    ]


def by_hour(
    conn: Connection, *, since: float, device: str | None = None, model: str | None = None
) -> list[Hour]:
    """Return what was answered hour by hour: of a device, of a model, or of all."""
    of = hours.c
    rows = (
        select(
            of.hour,
            of.version,
            func.sum(of.answers).label("answers"),
            func.sum(of.errors).label("errors"),
            func.sum(of.alarms).label("alarms"),
        )
        .where(of.hour >= int(since // _HOUR_S))
        .group_by(of.hour, of.version)
        .order_by(of.hour, of.version)
    )
    if device is not None:
        rows = rows.where(of.device == device)
    if model is not None:
        rows = rows.where(of.model == model)
    return [
        Hour(row.hour, row.version, int(row.answers), int(row.errors), int(row.alarms))
        for row in conn.execute(rows)
    ]


def prune(conn: Connection, now: float) -> None:
    """Forget hours that nobody looks at any more."""
    conn.execute(delete(hours).where(hours.c.hour < int(now // _HOUR_S) - HOURS_KEPT))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
