"""What only one process may do at a time: held for some seconds, by the database's clock.

Each holder has a term, higher than the one before: whoever lost the lease without knowing is told
by `renew`, at the beginning of the transaction in which it wanted to act.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, Connection, or_, select, update

from edgeslm.fleet.database.engine import insert, now
from edgeslm.fleet.database.errors import LeaseLostError
from edgeslm.fleet.database.schema import leases

_FIRST: Final = 1


@dataclass(frozen=True, slots=True)
class Lease:
    """Held.

    Args:
        name: of what.
        holder: who; of each process its own.
        term: the fencing token: of each holder higher than the one before.
    """

    name: str
    holder: str
    term: int


def acquire(conn: Connection, name: str, holder: str, seconds: float) -> Lease | None:
    """Return the lease where nobody holds it, or `holder` does; None where another holds it."""
    new = insert(conn, leases).values(name=name, holder=holder, until=now() + seconds, term=_FIRST)
    new = new.on_conflict_do_update(
        index_elements=["name"],
        set_={
            "holder": new.excluded.holder,
            "until": new.excluded.until,
            "term": leases.c.term + 1,
        },
        where=or_(leases.c.until < now(), leases.c.holder == new.excluded.holder),
    )
    term = conn.execute(new.returning(leases.c.term)).scalar()
    return Lease(name, holder, term) if term is not None else None


def renew(conn: Connection, lease: Lease, seconds: float) -> None:
    """Hold it for so long from now; no other can have it before this transaction ends.

    Raises:
        LeaseLostError: another has, or had it.
    """
    held = update(leases).where(*_held(lease)).values(until=now() + seconds)
    if not conn.execute(held).rowcount:
        msg = f"{lease.name}: another process does this now."
        raise LeaseLostError(msg)


def release(conn: Connection, lease: Lease) -> None:
    """Let another have it at once; nothing where another has it already."""
    conn.execute(update(leases).where(*_held(lease)).values(until=0.0))


def holder(conn: Connection, name: str) -> str | None:
    """Return who holds it; None: nobody."""
    held = select(leases.c.holder).where(leases.c.name == name, leases.c.until >= now())
    return conn.execute(held).scalar()


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        leases.c.name == lease.name,
        leases.c.holder == lease.holder,
        leases.c.term == lease.term,
    )
