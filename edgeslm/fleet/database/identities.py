"""Who may have a certificate, and which were issued. Of tokens, hashes alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, insert, select, update

from edgeslm.fleet.database.engine import upsert
from edgeslm.fleet.database.parts import parts
from edgeslm.fleet.database.schema import certificates, identities
from edgeslm.fleet.database.words import bounded

Kind = Literal["token", "factory_key"]
LISTED_AFTER_S: Final = 14 * 86_400.0
"""What was replaced comes on the list of revoked certificates then, and not before: a device that
lost the answer to its renewal has no other to come with."""
_WHY_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One device; see `schema.identities`."""

    device: str
    kind: Kind
    proof: str
    enrolled_at: float
    expires_at: float | None = None
    used_at: float | None = None
    revoked_at: float | None = None
    machine: str | None = None
    clones: int = 0
    cloned_at: float | None = None
    cloned_why: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """One certificate; see `schema.certificates`."""

    serial: str
    device: str
    key: str
    request: str
    not_before: float
    not_after: float
    issued_at: float
    pem: str
    ended_at: float | None = None
    ended: str | None = None


def enrol(conn: Connection, rows: Sequence[Enrolled]) -> None:
    """Let these devices in; those that were enrolled before, anew."""
    new = ("kind", "proof", "enrolled_at", "expires_at", "used_at", "revoked_at")
    again = (*new, "machine", "clones", "cloned_at", "cloned_why")
    for part in parts(rows):
        upsert(conn, identities, [asdict(row) for row in part], keys=["device"], update=again)


def some(conn: Connection, ids: Collection[str]) -> dict[str, Enrolled]:
    """Return those of these devices that are enrolled."""
    return {each.device: each for each in _found(conn, identities.c.device, ids)}


def holders(conn: Connection, proofs: Collection[str]) -> dict[str, str]:
    """Return the devices that these proofs let in, by proof."""
    return {each.proof: each.device for each in _found(conn, identities.c.proof, proofs)}


def every(conn: Connection) -> list[tuple[Enrolled, Issued | None]]:
    """Return all devices by id, each with the certificate in force."""
    live = {
        row["device"]: Issued(**row)
        for row in conn.execute(
            select(certificates).where(certificates.c.ended.is_(None))
        ).mappings()
    }
    rows = conn.execute(select(identities).order_by(identities.c.device)).mappings()
    return [(Enrolled(**row), live.get(row["device"])) for row in rows]


def in_force(conn: Connection, now: float) -> Iterator[str]:
    """Return the certificates, PEM, that devices have by now and that have not expired."""
    rows = select(certificates.c.pem).where(
        certificates.c.ended.is_(None), certificates.c.not_after > now
    )
    return iter(conn.execute(rows).scalars())


def let_in_by(conn: Connection, proof: str) -> Enrolled | None:
    """Return whom a proof lets in; nobody else decides about them before this transaction ends."""
    return _locked(conn, identities.c.proof == proof)


def of(conn: Connection, device: str) -> Enrolled | None:
    """Return the same of a device."""
    return _locked(conn, identities.c.device == device)


def used(conn: Connection, device: str, now: float) -> None:
    """What let a device in has done so."""
    conn.execute(update(identities).where(identities.c.device == device).values(used_at=now))


def bound(conn: Connection, device: str, machine: str) -> None:
    """From now on a device is this hardware, until it is enrolled anew."""
    conn.execute(update(identities).where(identities.c.device == device).values(machine=machine))


def known(conn: Connection, proof: str) -> bool:
    """Whether a proof lets somebody in; looked up without holding their row."""
    return (
        conn.execute(select(identities.c.kind).where(identities.c.proof == proof)).first()
        is not None
    )


def cloned(conn: Connection, device: str, why: str, now: float) -> None:
    """A second machine was seen under a device's identity."""
    seen = {"cloned_at": now, "cloned_why": bounded(why, _WHY_CHARS)}
    row = update(identities).where(identities.c.device == device)
    conn.execute(row.values(clones=identities.c.clones + 1, **seen))


def revoke(conn: Connection, ids: Collection[str], now: float) -> None:
    """Let these devices in no more, and end their certificates."""
    for part in parts(sorted(ids)):
        row = update(identities).where(identities.c.device.in_(part))
        conn.execute(row.values(revoked_at=now))
        mine = (certificates.c.device.in_(part), certificates.c.ended != "revoked")
        ended = update(certificates).where(mine[0], mine[1] | certificates.c.ended.is_(None))
        conn.execute(ended.values(ended="revoked", ended_at=now))


def among(conn: Connection, names: Collection[str]) -> list[str]:
    """Return those of these names that are enrolled devices'."""
    return sorted(some(conn, names))


def revoked(conn: Connection) -> list[str]:
    """Return the devices that were revoked and not enrolled anew, by id."""
    rows = select(identities.c.device).where(identities.c.revoked_at.is_not(None))
    return list(conn.execute(rows.order_by(identities.c.device)).scalars())


def ended(conn: Connection, now: float) -> list[tuple[str, float]]:
    """Return serials of certificates that would still be good, and when they were ended.

    Of those that were replaced, the ones that nobody can have in need any more.
    """
    good = certificates.c.not_after > now
    listed = (certificates.c.ended == "revoked") | (certificates.c.ended_at <= now - LISTED_AFTER_S)
    rows = select(certificates.c.serial, certificates.c.ended_at).where(good, listed)
    return [(serial, at) for serial, at in conn.execute(rows.order_by(certificates.c.serial))]


def asked_by(conn: Connection, request: str) -> Issued | None:
    """Return the certificate that a request was answered with."""
    return _certificate(conn, certificates.c.request == request)


def with_key(conn: Connection, key: str) -> Issued | None:
    """Return the certificate of a key."""
    return _certificate(conn, certificates.c.key == key)


def with_serial(conn: Connection, serial: str) -> Issued | None:
    """Return a certificate."""
    return _certificate(conn, certificates.c.serial == serial)


def put(conn: Connection, new: Issued) -> None:
    """Put a certificate in force, in place of the device's one before."""
    mine = (certificates.c.device == new.device, certificates.c.ended.is_(None))
    before = update(certificates).where(*mine)
    conn.execute(before.values(ended="replaced", ended_at=new.issued_at))
    conn.execute(insert(certificates).values(asdict(new)))


def _locked(conn: Connection, which: ColumnElement[bool]) -> Enrolled | None:
    row = conn.execute(select(identities).where(which).with_for_update()).mappings().first()
    return Enrolled(**row) if row is not None else None


def _certificate(conn: Connection, which: ColumnElement[bool]) -> Issued | None:
    row = conn.execute(select(certificates).where(which)).mappings().first()
    return Issued(**row) if row is not None else None


def _found(
    conn: Connection, column: ColumnElement[str], values: Iterable[str]
) -> Iterable[Enrolled]:
    for part in parts(values):
        for row in conn.execute(select(identities).where(column.in_(part))).mappings():
            yield Enrolled(**row)
