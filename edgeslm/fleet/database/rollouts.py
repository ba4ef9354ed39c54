"""Roll-outs: what was asked for, where each is, and each of its devices."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, exists, func, insert, or_, select, text, update

from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import (
    DEVICE_TRANSITIONS,
    ENDED,
    DeviceState,
    Health,
    Progress,
    State,
    Target,
)
from edgeslm.fleet.database.engine import is_postgresql, upsert
from edgeslm.fleet.database.errors import (
    RolloutEndedError,
    RolloutOverlapError,
    UnknownRolloutError,
    some,
)
from edgeslm.fleet.database.parts import parts
from edgeslm.fleet.database.schema import rollout_log, rollout_targets, rollouts
from edgeslm.fleet.database.words import bounded

Asked = Literal["pause", "resume", "abort"]
_REASON_CHARS: Final = 500
_NAME_CHARS: Final = 64
_ENDED: Final = [state.value for state in ENDED]
_OPEN: Final = sorted({state.value for state, _ in DEVICE_TRANSITIONS} - {"waiting"})
_CHANGES: Final = (
    *("state", "since", "seq", "previous", "reason"),
    *("before_answers", "before_errors", "before_alarms", "before_p99_ms"),
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A roll-out.

    Args:
        id: its number.
        plan: as it was asked for.
        progress: where it is.
        created_at: seconds since 1970.
        created_by: name of whoever asked for it.
        asked: what an operator wants of it that the conductor has not carried out.
        asked_by: who.
    """

    id: int
    plan: Plan
    progress: Progress
    created_at: float
    created_by: str
    asked: Asked | None = None
    asked_by: str | None = None


@dataclass(frozen=True, slots=True)
class Logged:
    """What a roll-out did."""

    at: float
    what: str


def create(conn: Connection, plan: Plan, targets: Iterable[Target], *, by: str, now: float) -> int:
    """Begin a roll-out; return its number.

    Args:
        conn: in a transaction.
        plan: of it.
        targets: its devices. Where their waves depend on its number, give none, and `join` them in
            the same transaction.
        by: name of whoever asks for it.
        now: seconds since 1970.

    Raises:
        RolloutOverlapError: some are in another that has not ended.
    """
    first = Progress(since=now)
    row = insert(rollouts).values(
        plan=plan.model_dump(mode="json"),
        state=first.state.value,
        wave=first.wave,
        since=first.since,
        created_at=now,
        created_by=bounded(by, _NAME_CHARS),
    )
    number: int = conn.execute(row.returning(rollouts.c.id)).scalar_one()
    _add(conn, number, list(targets))
    return number


def join(
    conn: Connection,
    id: int,  # noqa: A002 -- its name
    targets: Iterable[Target],
    *,
    now: float,
) -> None:
    """Add devices to a roll-out that goes on.

    Raises:
        RolloutOverlapError: some are in another that has not ended.
    """
    new = list(targets)
    _add(conn, id, new)
    _log(conn, id, [f"{some([target.device for target in new])}: joined"] if new else [], now)


def _add(conn: Connection, number: int, new: Sequence[Target]) -> None:
    if not new:
        return
    if is_postgresql(conn):  # so that two who look at the same time do not both see none
        conn.execute(text("LOCK TABLE rollout_targets IN SHARE ROW EXCLUSIVE MODE"))
    if busy := overlapping(conn, [target.device for target in new], without=number):
        raise RolloutOverlapError(busy)
    conn.execute(insert(rollout_targets), [_row_of(number, target) for target in new])


def rollout(conn: Connection, id: int) -> Stored:  # noqa: A002 -- its name
    """Return a roll-out.

    Raises:
        UnknownRolloutError: there is none of this number.
    """
    if (row := conn.execute(select(rollouts).where(rollouts.c.id == id)).first()) is None:
        msg = f"{id}: no roll-out has this number. `edgeslm fleet rollout list` has them."
        raise UnknownRolloutError(msg)
    return _stored(row)


def active(conn: Connection) -> list[Stored]:
    """Return those that have not ended, oldest first."""
    rows = select(rollouts).where(rollouts.c.state.not_in(_ENDED)).order_by(rollouts.c.id)
    return [_stored(row) for row in conn.execute(rows)]


def ended(conn: Connection, states: Collection[DeviceState], *, since: float) -> list[Stored]:
    """Return those that ended after `since` and have devices in these states, oldest first."""
    of = rollout_targets.c
    open_ = select(of.rollout).where(of.state.in_([state.value for state in states]))
    rows = select(rollouts).where(rollouts.c.state.in_(_ENDED), rollouts.c.since > since)
    rows = rows.where(rollouts.c.id.in_(open_)).order_by(rollouts.c.id)
    return [_stored(row) for row in conn.execute(rows)]


def unsettled(conn: Connection) -> list[Stored]:
    """Return those that have not ended, and those of whose devices something may still be heard."""
    open_devices = exists().where(
        rollout_targets.c.rollout == rollouts.c.id, rollout_targets.c.state.in_(_OPEN)
    )
    goes_on = rollouts.c.state.not_in(_ENDED)
    rows = select(rollouts).where(or_(goes_on, open_devices)).order_by(rollouts.c.id)
    return [_stored(row) for row in conn.execute(rows)]


def newest(conn: Connection, *, before: int | None = None, limit: int = 50) -> list[Stored]:
    """Return all, newest first; `before`: the number of the last one of the page before."""
    rows = select(rollouts).order_by(rollouts.c.id.desc()).limit(limit)
    if before is not None:
        rows = rows.where(rollouts.c.id < before)
    return [_stored(row) for row in conn.execute(rows)]


def ask(conn: Connection, id: int, what: Asked, by: str) -> None:  # noqa: A002 -- its name
    """Ask the conductor to pause, resume or abort a roll-out; what was asked last counts.

    Raises:
        UnknownRolloutError: there is none of this number.
        RolloutEndedError: it has ended.
    """
    asked = update(rollouts).where(rollouts.c.id == id, rollouts.c.state.not_in(_ENDED))
    row = asked.values(asked=what, asked_by=bounded(by, _NAME_CHARS))
    if not conn.execute(row).rowcount:
        state = rollout(conn, id).progress.state.value
        msg = f"roll-out {id}: {state} already. Start another to change what its devices run."
        raise RolloutEndedError(msg)


def targets(conn: Connection, id: int) -> list[Target]:  # noqa: A002 -- its name
    """Return a roll-out's devices by wave and id; how they answer now is in the registry."""
    of = rollout_targets.c
    rows = select(rollout_targets).where(of.rollout == id).order_by(of.wave, of.device)
    return [_target(row) for row in conn.execute(rows)]


def target(conn: Connection, id: int, device: str) -> Target | None:  # noqa: A002 -- its name
    """Return one of a roll-out's devices; None where it is none."""
    of = rollout_targets.c
    rows = select(rollout_targets).where(of.rollout == id, of.device == device)
    row = conn.execute(rows).first()
    return _target(row) if row is not None else None


def of_device(conn: Connection, device: str, *, limit: int = 20) -> list[tuple[int, Target]]:
    """Return the roll-outs that a device is or was in, newest first."""
    of = rollout_targets.c
    rows = select(rollout_targets).where(of.device == device)
    found = conn.execute(rows.order_by(of.rollout.desc()).limit(limit))
    return [(row.rollout, _target(row)) for row in found]


def record(  # noqa: PLR0913 -- by name
    conn: Connection,
    id: int,  # noqa: A002 -- its name
    progress: Progress,
    targets: Collection[Target] = (),
    *,
    now: float,
    log: Iterable[str] = (),
    asked: str | None = None,
) -> None:
    """Write down what was decided, in the transaction that decides it.

    Args:
        conn: in it.
        id: of the roll-out.
        progress: of it, afterwards.
        targets: those that have changed.
        now: seconds since 1970.
        log: lines for people.
        asked: what an operator asked, and is carried out; what was asked meanwhile stays.
    """
    values = {
        "state": progress.state.value,
        "wave": progress.wave,
        "since": progress.since,
        "reason": bounded(progress.reason, _REASON_CHARS),
        "accepted_at": progress.accepted_at,
        "soaked_s": progress.soaked_s,
        "soaked_at": progress.soaked_at,
    }
    conn.execute(update(rollouts).where(rollouts.c.id == id).values(values))
    if asked is not None:
        was = update(rollouts).where(rollouts.c.id == id, rollouts.c.asked == asked)
        conn.execute(was.values(asked=None, asked_by=None))
    rows = [_row_of(id, target) for target in targets]
    upsert(conn, rollout_targets, rows, keys=("rollout", "device"), update=_CHANGES)
    _log(conn, id, log, now)


def log(
    conn: Connection,
    id: int,  # noqa: A002 -- its name
    *,
    after: int = 0,
    limit: int = 1000,
) -> list[tuple[int, Logged]]:
    """Return what a roll-out did, oldest first, each with its number; `after`: those behind it."""
    of = rollout_log.c
    rows = select(rollout_log).where(of.rollout == id, of.id > after).order_by(of.id).limit(limit)
    return [(row.id, Logged(row.at, row.what)) for row in conn.execute(rows)]


def waves(conn: Connection, ids: Collection[int]) -> dict[int, dict[int, Counter[DeviceState]]]:
    """Return how many devices are in each state, by roll-out and wave."""
    of = rollout_targets.c
    found: dict[int, dict[int, Counter[DeviceState]]] = defaultdict(lambda: defaultdict(Counter))
    rows = select(of.rollout, of.wave, of.state, func.count()).where(of.rollout.in_(list(ids)))
    for number, wave, state, count in conn.execute(rows.group_by(of.rollout, of.wave, of.state)):
        found[number][wave][DeviceState(state)] = count
    return {number: dict(by_wave) for number, by_wave in found.items()}


def overlapping(
    conn: Connection, devices: Collection[str], *, without: int | None = None
) -> dict[str, int]:
    """Return which of these devices are in a roll-out that has not ended, and in which."""
    of = rollout_targets.c
    rows = (
        select(of.device, of.rollout)
        .join(rollouts, rollouts.c.id == of.rollout)
        .where(rollouts.c.state.not_in(_ENDED), of.state != DeviceState.LEFT_OUT.value)
    )
    if without is not None:
        rows = rows.where(of.rollout != without)
    return {
        device: number
        for part in parts(sorted(devices))
        for device, number in conn.execute(rows.where(of.device.in_(part)))
    }


def _log(conn: Connection, number: int, lines: Iterable[str], now: float) -> None:
    rows = [{"rollout": number, "at": now, "what": bounded(line, _REASON_CHARS)} for line in lines]
    if rows:
        conn.execute(insert(rollout_log), rows)


def _stored(row: Row[Any]) -> Stored:
    progress = Progress(
        State(row.state),
        row.wave,
        row.since,
        row.reason,
        accepted_at=row.accepted_at,
        soaked_s=row.soaked_s,
        soaked_at=row.soaked_at,
    )
    plan = Plan.model_validate_json(json.dumps(row.plan))  # strict: JSON has no tuples
    return Stored(row.id, plan, progress, row.created_at, row.created_by, row.asked, row.asked_by)


def _row_of(number: int, target: Target) -> dict[str, Any]:
    before = target.before or Health()
    return {
        "rollout": number,
        "device": target.device,
        "type": bounded(target.type, _NAME_CHARS),
        "wave": target.wave,
        "state": target.state.value,
        "since": target.since,
        "seq": target.seq,
        "previous": target.previous,
        "reason": bounded(target.reason, _REASON_CHARS),
        "before_answers": before.answers,
        "before_errors": before.errors,
        "before_alarms": before.alarms,
        "before_p99_ms": before.p99_ms,
    }


def _target(row: Row[Any]) -> Target:
    return Target(
        device=row.device,
        type=row.type,
        wave=row.wave,
        state=DeviceState(row.state),
        since=row.since,
        seq=row.seq,
        previous=row.previous,
        reason=row.reason,
        before=Health(row.before_answers, row.before_errors, row.before_alarms, row.before_p99_ms),
    )
