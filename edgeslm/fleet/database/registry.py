"""The fleet's devices: found, tagged, forgotten. `heard.py` writes them, `figures.py` counts."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    asc,
    bindparam,
    delete,
    desc,
    func,
    or_,
    select,
)

from edgeslm.core.filters import Expression
from edgeslm.fleet.database import assignments
from edgeslm.fleet.database.engine import upsert
from edgeslm.fleet.database.errors import PlaceError, UnknownDeviceError, some
from edgeslm.fleet.database.figures import (
    HOURS_KEPT,
    FleetCounts,
    Hour,
    Latency,
    by_hour,
    counts,
    latency,
    prune,
)
from edgeslm.fleet.database.filters import condition
from edgeslm.fleet.database.heard import Heard, heard
from edgeslm.fleet.database.parts import parts
from edgeslm.fleet.database.schema import device_models, devices, reports, tags
from edgeslm.fleet.database.words import bounded, clean

Sort = Literal[
    "id",
    "profile",
    "arch",
    "agent_version",
    "updater_version",
    "online",
    "health",
    "phase",
    "heard_at",
    "registered_at",
]
MAX_PAGE: Final = 1000
_VALUE_CHARS: Final = 200
_UNSHOWN: Final = frozenset({"state_time", "update_time", "began", "failure_model", "retries"})
_LISTED: Final = [column for column in devices.columns if column.name not in _UNSHOWN]


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """A model on a device; see `schema.device_models`."""

    model: str
    version: int | None
    committed: int | None
    state: str
    trial: bool
    provider: str
    variant: str
    node_share: float | None
    error: str
    p50_ms: float | None
    p99_ms: float | None
    counted: int | None
    answers: int
    errors: int
    alarms: int
    before_version: int | None
    before_answers: int
    before_errors: int
    before_alarms: int
    before_p99_ms: float | None
    bad: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """A device; see `schema.devices`.

    Args:
        tags: those that count: the manager's, and of the device's own those that it does not set.
        given: keys of those that the manager gave.
        models: by name.
        state: its last `state` message, where one device was asked for.
        update: its last `update` message, there.
    """

    id: str
    profile: str
    arch: str
    agent_version: str
    updater_version: str
    online: bool
    reason: str
    health: str
    registered_at: float
    heard_at: float
    state_at: float | None
    update_at: float | None
    seq: int
    phase: str
    failure: str
    tags: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    models: tuple[DeviceModel, ...] = ()
    state: dict[str, Any] | None = None
    update: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the devices that were looked for.

    Args:
        devices: without their messages.
        total: of all pages.
        next: what `after` must be for the next page; None: there is none.
    """

    devices: Sequence[DeviceRow]
    total: int
    next: str | None


def find(  # noqa: PLR0913 -- by name
    conn: Connection,
    expression: Expression,
    *,
    now: float,
    sort: Sort = "id",
    descending: bool = False,
    after: str | None = None,
    limit: int = 50,
) -> Page:
    """Return the devices that match, a page of them.

    Args:
        conn: that reads.
        expression: which; see `core.filters`.
        now: seconds since 1970.
        sort: by what; then by id.
        descending: the other way round.
        after: `next` of the page before; None: the first page.
        limit: of devices on it, up to `MAX_PAGE`.

    Raises:
        PlaceError: `after` is no page's.
    """
    matches = condition(expression, now)
    limit = min(max(limit, 1), MAX_PAGE)
    total = conn.execute(select(func.count()).select_from(devices).where(matches)).scalar_one()
    key, order = devices.c[sort], desc if descending else asc
    rows = select(*_LISTED).where(matches).order_by(order(key), order(devices.c.id))
    if after is not None:
        rows = rows.where(_behind(key, after, descending=descending))
    found = conn.execute(rows.limit(limit + 1)).mappings().all()
    shown = found[:limit]
    place = None
    if len(found) > limit:
        place = _place(shown[-1][sort], shown[-1]["id"])
    return Page(_whole(conn, shown), total, place)


def ids(conn: Connection, expression: Expression, *, now: float) -> dict[str, str]:
    """Return the profile of each device that matches, by id."""
    rows = select(devices.c.id, devices.c.profile).where(condition(expression, now))
    return {row.id: row.profile for row in conn.execute(rows.order_by(devices.c.id))}


def device(conn: Connection, id: str) -> DeviceRow | None:  # noqa: A002 -- its name
    """Return a device with all it has said; None where it has not registered."""
    rows = select(*_LISTED, reports.c.state, reports.c.update).where(devices.c.id == id)
    rows = rows.outerjoin(reports, reports.c.device == devices.c.id)
    row = conn.execute(rows).mappings().first()
    return _whole(conn, [row])[0] if row is not None else None


def any_device(conn: Connection) -> bool:
    """Whether a device has registered."""
    return conn.execute(select(devices.c.id).limit(1)).first() is not None


def tag(conn: Connection, ids: Collection[str], key: str, value: str | None) -> None:
    """Give devices a tag, in place of their own of this key; None: take what was given.

    Raises:
        UnknownDeviceError: one has not registered; then none is changed.
    """
    known = {
        name
        for part in parts(ids)
        for name in conn.execute(select(devices.c.id).where(devices.c.id.in_(part))).scalars()
    }
    if missing := set(ids) - known:
        msg = f"{some(missing)}: not registered. A device registers itself when it connects."
        raise UnknownDeviceError(msg)
    if value is None:
        for part in parts(ids):
            gone = and_(tags.c.device.in_(part), tags.c.key == key, tags.c.given)
            conn.execute(delete(tags).where(gone))
        return
    value = bounded(value, _VALUE_CHARS)
    rows = [{"device": name, "key": key, "given": True, "value": value} for name in sorted(known)]
    upsert(conn, tags, rows, keys=("device", "key", "given"), update=("value",))


def forget(conn: Connection, id: str) -> bool:  # noqa: A002 -- its name
    """Forget a device, with its tags, models and assignment; return whether it was known.

    One that is still there registers again. Its events and evidence stay.
    """
    assignments.remove(conn, [id])
    return bool(conn.execute(delete(devices).where(devices.c.id == id)).rowcount)


def models_of(conn: Connection, model: str) -> dict[str, DeviceModel]:
    """Return what each device that has this model runs of it, by id."""
    rows = select(device_models).where(device_models.c.model == model)
    return {row["device"]: _model(row) for row in conn.execute(rows).mappings()}


def _whole(conn: Connection, rows: Sequence[RowMapping]) -> list[DeviceRow]:
    """Return devices with their tags and models."""
    models: dict[str, list[DeviceModel]] = defaultdict(list)
    valid: dict[str, dict[str, str]] = defaultdict(dict)
    given: dict[str, set[str]] = defaultdict(set)
    for part in parts(row["id"] for row in rows):
        of_models = select(device_models).where(device_models.c.device.in_(part))
        for row in conn.execute(of_models.order_by(device_models.c.model)).mappings():
            models[row["device"]].append(_model(row))
        of_tags = select(tags).where(tags.c.device.in_(part))
        for each in conn.execute(of_tags.order_by(tags.c.given, tags.c.key)):
            valid[each.device][each.key] = each.value  # the manager's come last, and count
            if each.given:
                given[each.device].add(each.key)
    return [
        DeviceRow(
            **row,
            tags=valid[row["id"]],
            given=frozenset(given[row["id"]]),
            models=tuple(models[row["id"]]),
        )
        for row in rows
    ]


def _model(row: RowMapping) -> DeviceModel:
    values = {name: row[name] for name in DeviceModel.__dataclass_fields__}
    return DeviceModel(**{**values, "bad": tuple(row["bad"] or ())})


def _place(value: object, name: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([value, name]).encode()).decode()


def _behind(key: ColumnElement[Any], place: str, *, descending: bool) -> ColumnElement[bool]:
    """Return the condition of rows that come after a place in the order."""
    kind = key.type.python_type
    try:
        value, name = json.loads(base64.urlsafe_b64decode(place.encode()))
    except (ValueError, TypeError, RecursionError):
        value, name = None, None
    known = isinstance(name, str) and isinstance(value, kind)
    if not known or clean([value, name]) != [value, name]:
        msg = "no page begins there. Begin with the first."
        raise PlaceError(msg)
    at = bindparam(None, value, key.type)
    if descending:
        return or_(key < at, and_(key == at, devices.c.id < name))
    return or_(key > at, and_(key == at, devices.c.id > name))


__all__ = [
    "HOURS_KEPT",
    "DeviceModel",
    "DeviceRow",
    "FleetCounts",
    "Heard",
    "Hour",
    "Latency",
    "Page",
    "by_hour",
    "counts",
    "device",
    "find",
    "forget",
    "heard",
    "ids",
    "latency",
    "models_of",
    "prune",
    "tag",
]
