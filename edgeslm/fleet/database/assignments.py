"""The newest assignment of each device, signed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, func, select, text

from edgeslm.fleet.database.engine import insert, is_postgresql
from edgeslm.fleet.database.errors import SeqTakenError
from edgeslm.fleet.database.parts import parts
from edgeslm.fleet.database.schema import assignments, devices
from edgeslm.fleet.database.words import MAX_WHOLE


@dataclass(frozen=True, slots=True)
class Stored:
    """One.

    Args:
        device: whose.
        seq: its number.
        issued: seconds since 1970.
        expires: the same.
        envelope: signed.
        changed: when it was put here, seconds since 1970.
        rollout: that gave it; None: a person did.
    """

    device: str
    seq: int
    issued: float
    expires: float
    envelope: bytes
    changed: float
    rollout: int | None = None


def last(conn: Connection, device: str) -> Stored | None:
    """Return a device's newest; None where it has none."""
    return many(conn, [device]).get(device)


def many(conn: Connection, ids: Collection[str] | None = None) -> dict[str, Stored]:
    """Return the newest of each of these devices that has one; None: of all, by id."""
    rows = select(assignments).order_by(assignments.c.device)
    if ids is None:
        found = list(conn.execute(rows).mappings())
    else:
        found = [
            row
            for part in parts(ids)
            for row in conn.execute(rows.where(assignments.c.device.in_(part))).mappings()
        ]
    return {row["device"]: Stored(**row) for row in found}


def next_numbers(conn: Connection, ids: Collection[str]) -> dict[str, int]:
    """Return the number that the next assignment of each device must have, at least.

    Above the last one here, and above what the device says it has accepted: it may know more than
    a database that was restored from a copy.
    """
    numbers = dict.fromkeys(ids, 1)
    for part in parts(ids):
        of_ours = select(assignments.c.device, assignments.c.seq)
        theirs = select(devices.c.id, devices.c.seq).where(devices.c.id.in_(part))
        for device, seq in (
            *conn.execute(of_ours.where(assignments.c.device.in_(part))),
            *conn.execute(theirs),
        ):
            numbers[device] = max(numbers[device], min(seq, MAX_WHOLE) + 1)
    return numbers


def put(conn: Connection, new: Sequence[Stored]) -> None:
    """Put these in place of those that are there.

    Raises:
        SeqTakenError: some have a number already that is not lower; then none is put.
    """
    wanted = {each.device: each for each in new}
    moved = set()
    for part in parts(wanted):
        known = select(assignments.c.device, assignments.c.seq).where(
            assignments.c.device.in_(part)
        )
        for device, seq in conn.execute(known.with_for_update()):
            if seq >= wanted[device].seq:
                moved.add(device)
    if moved:
        raise SeqTakenError(moved)
    if not wanted:
        return
    row = insert(conn, assignments)
    columns = [column.name for column in assignments.columns if column.name != "device"]
    row = row.on_conflict_do_update(
        index_elements=["device"],
        set_={name: row.excluded[name] for name in columns},
        where=assignments.c.seq < row.excluded.seq,
    )
    # Where one was not there to be locked, another may have come first.
    if conn.execute(row, [asdict(each) for each in wanted.values()]).rowcount != len(wanted):
        raise SeqTakenError(wanted)


def lock(conn: Connection) -> None:
    """Let nobody put another before this transaction ends."""
    if is_postgresql(conn):  # SQLite's writers are alone anyway
        conn.execute(text("LOCK TABLE assignments IN SHARE ROW EXCLUSIVE MODE"))


def envelopes(conn: Connection, ids: Collection[str] | None = None) -> dict[str, bytes]:
    """Return what is to be retained for each of these devices; None: for all that have one."""
    rows = select(assignments.c.device, assignments.c.envelope).order_by(assignments.c.device)
    if ids is None:
        return {key: value for key, value in conn.execute(rows)}  # noqa: C416 -- rows are no pairs to mypy
    return {
        device: envelope
        for part in parts(ids)
        for device, envelope in conn.execute(rows.where(assignments.c.device.in_(part)))
    }


def stamp(conn: Connection) -> object:
    """Return what changes whenever an assignment is put or removed; cheap."""
    seqs = select(func.count(), func.coalesce(func.sum(assignments.c.seq), 0)).select_from(
        assignments
    )
    newest = select(func.max(assignments.c.changed))
    return (*map(int, conn.execute(seqs).one()), conn.execute(newest).scalar())


def remove(conn: Connection, ids: Collection[str]) -> None:
    """Forget the assignments of these devices."""
    for part in parts(ids):
        conn.execute(delete(assignments).where(assignments.c.device.in_(part)))
