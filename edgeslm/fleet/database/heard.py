"""What devices say of themselves, written into the registry: a device registers by speaking.

Some hundreds of messages are one transaction. What comes again changes nothing, and what is older
than what is known is refused: brokers deliver twice, retain, and whoever can listen can replay.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import Connection, delete, select, tuple_

from edgeslm.core.counters import Counts, Tally, same_start, tally
from edgeslm.fleet.database.engine import upsert
from edgeslm.fleet.database.parts import parts
from edgeslm.fleet.database.schema import device_models, devices, hours, reports, tags
from edgeslm.fleet.database.words import bounded, clean, real, whole

MAX_MODELS: Final = 64
"""On one device, as an assignment has them at most."""
MAX_TAGS: Final = 32
MAX_BAD: Final = 64
_NAME_CHARS: Final = 64
_WORD_CHARS: Final = 16
_VALUE_CHARS: Final = 200
_HOUR_S: Final = 3600.0
_KNOWN: Final = (
    devices.c.id,
    devices.c.online,
    devices.c.heard_at,
    devices.c.state_time,
    devices.c.update_time,
    devices.c.began,
    devices.c.seq,
)
_STATE: Final = (
    *("heard_at", "state_at", "state_time", "began", "profile", "agent_version", "health"),
)
_UPDATE: Final = (
    *("heard_at", "update_at", "update_time", "updater_version", "arch", "seq", "phase"),
    *("failure", "failure_model", "retries"),
)


@dataclass(frozen=True, slots=True)
class Heard:
    """A message, valid by its schema, of the device whose topic it came on.

    Args:
        device: its id.
        kind: of message.
        message: itself.
        at: when it came, seconds since 1970.
    """

    device: str
    kind: Literal["status", "state", "update"]
    message: Mapping[str, Any]
    at: float


@dataclass(slots=True)
class _Device:
    """What is known of one device, and what is to be written."""

    id: str
    heard_at: float
    online: bool = False
    state_time: float | None = None
    update_time: float | None = None
    began: float | None = None
    seq: int = 0
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind of message
    reports: dict[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class _Batch:
    known: dict[str, _Device]
    models: dict[tuple[str, str], dict[str, Any]]
    gone: set[tuple[str, str]] = field(default_factory=set)
    changed: set[tuple[str, str]] = field(default_factory=set)
    of_device: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    hours: dict[tuple[str, str, int, int], Counts] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)


def heard(conn: Connection, messages: Sequence[Heard]) -> Counter[str]:
    """Write what devices have said, in this order; return what was refused, by reason.

    `replayed`: it is older than what is known. `model_name`, `models`: a state names what can be
    no model, or more of them than a device runs; the rest of it counts.
    """
    batch = _read(conn, {message.device for message in messages})
    for each in messages:
        device = batch.known.get(each.device)
        if device is None:
            device = batch.known[each.device] = _Device(each.device, each.at)
        if each.kind == "status":
            _status(device, each)
        elif each.kind == "state":
            _state(batch, device, each)
        else:
            _update(batch, device, each)
    _write(conn, batch)
    return batch.refused


def _status(device: _Device, each: Heard) -> None:
    online = each.message.get("online") is True
    # A last will is the broker's word, and who is online says so once.
    if online and not device.online:
        device.heard_at = max(device.heard_at, each.at)
    device.online = online
    device.rows["status"] = {
        "online": online,
        "reason": bounded(each.message.get("reason"), _WORD_CHARS),
    }


def _state(batch: _Batch, device: _Device, each: Heard) -> None:
    message = each.message
    time = real(message.get("time")) or 0.0
    began = time - (real(message.get("uptime_s")) or 0.0)
    restarted = device.began is not None and not same_start(began, device.began)
    if device.began is not None and device.state_time is not None and not restarted:
        if time == device.state_time:
            return  # it is there already
        if time < device.state_time:
            batch.refused["replayed"] += 1
            return
    device.heard_at = max(device.heard_at, each.at)
    device.state_time, device.began = time, began
    device.rows["state"] = {
        "state_at": each.at,
        "state_time": time,
        "began": began,
        "profile": bounded(message.get("profile"), _NAME_CHARS),
        "agent_version": bounded(message.get("agent_version"), _NAME_CHARS),
        "health": health_of(message),
    }
    device.reports["state"] = message
    _tags(batch, device, message)
    running = _named(batch, message)
    for name, model in running.items():
        _count(batch, device.id, name, model, each.at, restarted=restarted)
    for name in batch.of_device[device.id] - running.keys():
        row = batch.models[device.id, name]
        row |= {"version": None, "state": "", "trial": False, "error": ""}
        _touch(batch, device.id, name)


def _update(batch: _Batch, device: _Device, each: Heard) -> None:
    message = each.message
    time, seq = real(message.get("time")) or 0.0, whole(message.get("seq")) or 0
    if device.update_time is not None:
        # A device that was made anew begins at 0 again; it says so later than what it said before.
        if seq < device.seq and time <= device.update_time:
            batch.refused["replayed"] += 1
            return
        if (time, seq) == (device.update_time, device.seq):
            return  # it is there already
    device.heard_at = max(device.heard_at, each.at)
    device.update_time, device.seq = time, seq
    platform = message.get("platform")
    device.rows["update"] = {
        "update_at": each.at,
        "update_time": time,
        "updater_version": bounded(message.get("updater_version"), _NAME_CHARS),
        "arch": bounded(platform.get("arch"), _NAME_CHARS) if isinstance(platform, dict) else "",
        "seq": seq,
        "phase": bounded(message.get("phase"), _WORD_CHARS),
        "failure": _code(message.get("error")),
        "failure_model": bounded(message.get("error_model"), _NAME_CHARS) or None,
        "retries": message.get("retries") if "error" in message else None,
    }
    device.reports["update"] = message
    held = _named(batch, message)
    for name, model in held.items():
        row = _row(batch, device.id, name)
        row["committed"] = whole(model.get("version"))
        row["bad"] = [bounded(bad, _NAME_CHARS) for bad in (model.get("bad") or ())[:MAX_BAD]]
        _touch(batch, device.id, name)
    for name in batch.of_device[device.id] - held.keys():
        batch.models[device.id, name] |= {"committed": None, "bad": None}
        _touch(batch, device.id, name)


def health_of(state: Mapping[str, Any]) -> str:
    """Return what a state message says of its device: failing, starting, ok, or idle."""
    states = {model.get("state") for model in state.get("models", ())}
    if "failed" in states:
        return "failing"
    if "loading" in states:
        return "starting"
    return "ok" if states else "idle"


def _named(batch: _Batch, message: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return a message's models by name, those whose name can be one."""
    found: dict[str, Mapping[str, Any]] = {}
    for model in message.get("models", ()):
        name = model.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= _NAME_CHARS or not name.isprintable():
            batch.refused["model_name"] += 1
        elif len(found) >= MAX_MODELS and name not in found:
            batch.refused["models"] += 1
        else:
            found[name] = model
    return found


def _row(batch: _Batch, device: str, name: str) -> dict[str, Any]:
    key = (device, name)
    if key not in batch.models:
        batch.models[key] = {"device": device, "model": name, **_FRESH}
        batch.of_device[device].add(name)
    return batch.models[key]


def _count(  # noqa: PLR0913 -- the parts of one message
    batch: _Batch,
    device: str,
    name: str,
    model: Mapping[str, Any],
    at: float,
    *,
    restarted: bool,
) -> None:
    row = _row(batch, device, name)
    errors = whole(model.get("errors")) or 0
    seen = Counts(
        (whole(model.get("answered")) or 0) + errors, errors, whole(model.get("alarms")) or 0
    )
    version, p99 = whole(model.get("version")), real(model.get("p99_ms"))
    known = None if row["seen_answers"] is None else _tally_of(row)
    after, new = tally(known, version, seen, p99, restarted=restarted)
    fresh = known is None or after.version != known.version
    p50 = real(model.get("p50_ms"))
    row |= {
        "version": version,
        "state": bounded(model.get("state"), _WORD_CHARS),
        "trial": model.get("trial") is True,
        "provider": bounded(model.get("provider"), _NAME_CHARS),
        "variant": bounded(model.get("variant"), _NAME_CHARS),
        "node_share": real(model.get("node_share")),
        "error": _code(model.get("error")),
        "p50_ms": p50 if p50 is not None or fresh else row["p50_ms"],
        **_columns_of(after),
    }
    _touch(batch, device, name)
    if new != Counts():
        key = (device, name, int(at // _HOUR_S), after.version or 0)
        batch.hours[key] = batch.hours.get(key, Counts()) + new


def _code(error: object) -> str:
    return bounded(error.get("code"), _NAME_CHARS) if isinstance(error, dict) else ""


def _touch(batch: _Batch, device: str, name: str) -> None:
    """Have a model's row written, or removed where neither agent nor updater has the model."""
    row = batch.models[device, name]
    there = row["state"] or row["committed"] is not None or row["bad"]
    for which, does in ((batch.changed, there), (batch.gone, not there)):
        (which.add if does else which.discard)((device, name))


def _tally_of(row: Mapping[str, Any]) -> Tally:
    return Tally(
        version=row["counted"],
        counts=Counts(row["answers"], row["errors"], row["alarms"]),
        seen=Counts(row["seen_answers"], row["seen_errors"], row["seen_alarms"]),
        p99_ms=row["p99_ms"],
        before_version=row["before_version"],
        before=Counts(row["before_answers"], row["before_errors"], row["before_alarms"]),
        before_p99_ms=row["before_p99_ms"],
    )


def _columns_of(found: Tally) -> dict[str, Any]:
    return {
        "counted": found.version,
        "answers": found.counts.answers,
        "errors": found.counts.errors,
        "alarms": found.counts.alarms,
        "p99_ms": found.p99_ms,
        "before_version": found.before_version,
        "before_answers": found.before.answers,
        "before_errors": found.before.errors,
        "before_alarms": found.before.alarms,
        "before_p99_ms": found.before_p99_ms,
        "seen_answers": found.seen.answers,
        "seen_errors": found.seen.errors,
        "seen_alarms": found.seen.alarms,
    }


# A model that no message has spoken of; `seen_answers` says so until its agent counts.
_FRESH: Final[dict[str, Any]] = {
    "version": None,
    "committed": None,
    "bad": None,
    "state": "",
    "trial": False,
    "provider": "",
    "variant": "",
    "node_share": None,
    "error": "",
    "p50_ms": None,
    **_columns_of(Tally()),
    "seen_answers": None,
    "seen_errors": None,
    "seen_alarms": None,
}


def _tags(batch: _Batch, device: _Device, message: Mapping[str, Any]) -> None:
    said = message.get("tags")
    pairs = list(said.items())[:MAX_TAGS] if isinstance(said, dict) else []
    batch.tags[device.id] = {
        bounded(key, _NAME_CHARS): bounded(value, _VALUE_CHARS) for key, value in pairs if key
    }


def _read(conn: Connection, names: set[str]) -> _Batch:
    known: dict[str, _Device] = {}
    models: dict[tuple[str, str], dict[str, Any]] = {}
    batch = _Batch(known, models)
    for part in parts(sorted(names)):
        for row in conn.execute(select(*_KNOWN).where(devices.c.id.in_(part))).mappings():
            known[row["id"]] = _Device(**row)
        of_models = select(device_models).where(device_models.c.device.in_(part))
        for row in conn.execute(of_models).mappings():
            models[row["device"], row["model"]] = dict(row)
            batch.of_device[row["device"]].add(row["model"])
    return batch


def _write(conn: Connection, batch: _Batch) -> None:
    for kind, columns in (("status", ("online", "reason")), ("state", _STATE), ("update", _UPDATE)):
        rows = [
            {
                "id": device.id,
                "registered_at": device.heard_at,
                "heard_at": device.heard_at,
                **({} if kind == "status" else {"online": device.online}),
                **device.rows[kind],
            }
            for device in batch.known.values()
            if kind in device.rows
        ]
        upsert(conn, devices, rows, keys=("id",), update={"heard_at", *columns})
    for kind in ("state", "update"):
        rows = [
            {"device": device.id, kind: clean(dict(device.reports[kind]))}
            for device in batch.known.values()
            if kind in device.reports
        ]
        upsert(conn, reports, rows, keys=("device",), update=(kind,))
    rows = [batch.models[key] for key in sorted(batch.changed)]
    upsert(conn, device_models, rows, keys=("device", "model"), update=list(_FRESH))
    for part in parts(sorted(batch.gone)):
        pairs = tuple_(device_models.c.device, device_models.c.model)
        conn.execute(delete(device_models).where(pairs.in_(part)))
    rows = [
        {
            **dict(zip(("device", "model", "hour", "version"), key, strict=True)),
            "answers": new.answers,
            "errors": new.errors,
            "alarms": new.alarms,
        }
        for key, new in sorted(batch.hours.items())
    ]
    counted = ("answers", "errors", "alarms")
    upsert(conn, hours, rows, keys=("device", "model", "hour", "version"), add=counted)
    _write_tags(conn, batch.tags)


def _write_tags(conn: Connection, said: Mapping[str, Mapping[str, str]]) -> None:
    """Write the devices' own tags, of those that say others than before."""
    known: dict[str, dict[str, str]] = defaultdict(dict)
    for part in parts(sorted(said)):
        rows = select(tags).where(tags.c.device.in_(part), tags.c.given.is_(False))
        for row in conn.execute(rows):
            known[row.device][row.key] = row.value
    changed = [device for device in sorted(said) if said[device] != known[device]]
    for part in parts(changed):
        conn.execute(delete(tags).where(tags.c.device.in_(part), tags.c.given.is_(False)))
    new = [
        {"device": device, "key": key, "given": False, "value": value}
        for device in changed
        for key, value in said[device].items()
    ]
    upsert(conn, tags, new, keys=("device", "key", "given"))
