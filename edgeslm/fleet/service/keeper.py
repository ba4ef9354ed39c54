"""Leases that a process keeps: which one leads, and which seat each has among the workers.

A lease in the database, renewed often. Every transaction of the leader's renews it too, by holder
and term: who is leader no more, however long it slept, writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, Engine, delete, select

from edgeslm.errors import UnavailableError
from edgeslm.fleet.database.engine import now
from edgeslm.fleet.database.errors import LeaseLostError
from edgeslm.fleet.database.leases import Lease, acquire, release, renew
from edgeslm.fleet.database.schema import leases
from edgeslm.logs import Log
from edgeslm.ports import Clock

LEADER: Final = "leader"
MAX_WORKERS: Final = 64
SEATS: Final = tuple(f"worker-{number}" for number in range(1, MAX_WORKERS + 1))

log = Log(__name__)


class Keeper:
    """Takes the first of some leases that is free, and keeps it. One thread steps it.

    Args:
        engine: of the database.
        clock: for how long it is ours.
        names: of leases, one of which is wanted.
        holder: who we are.
        lease_s: after which another may take it.
        changed: called when it was taken or is lost.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        engine: Engine,
        clock: Clock,
        names: Sequence[str],
        *,
        holder: str,
        lease_s: float,
        changed: Callable[[], None],
    ) -> None:
        self.lease_s = lease_s
        self._engine = engine
        self._clock = clock
        self._names = names
        self._holder = holder
        self._changed = changed
        self._lease: Lease | None = None
        self._until = 0.0  # on the monotonic scale, from before it was last renewed

    @property
    def lease(self) -> Lease | None:
        """The lease; None: another has it, or may by now. May be asked by any thread."""
        return self._lease if self._clock.monotonic() < self._until else None

    def holds(self) -> bool:
        return self.lease is not None

    def fence(self, conn: Connection, lease: Lease) -> None:
        """Begin a transaction that holds only if the lease is still ours.

        Raises:
            LeaseLostError: it is not.
        """
        renew(conn, lease, self.lease_s)

    def lost(self, lease: Lease) -> None:
        """A fence has shown that this lease is gone; may be said by any thread."""
        if self._lease == lease:
            self._until = 0.0

    def step(self) -> None:
        """Take a lease, or renew the one we have.

        Raises:
            DatabaseError: nothing can be taken or renewed now; what we have runs out.
        """
        before = self.lease
        began = self._clock.monotonic()
        try:
            with self._engine.begin() as conn:
                held = self._renewed(conn) or self._taken(conn)
            self._lease = held
            self._until = began + self.lease_s if held is not None else 0.0
        finally:
            if self.lease != before:
                found = self.lease
                name = found.name if found is not None else self._names[0].partition("-")[0]
                log.info("lease_taken" if found is not None else "lease_lost", lease=name)
                self._changed()

    def let_go(self) -> None:
        """Another need not wait until it runs out."""
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                with self._engine.begin() as conn:
                    release(conn, lease)
            except UnavailableError as err:  # it runs out by itself
                log.warning("lease_not_released", lease=lease.name, message=str(err))

    def _renewed(self, conn: Connection) -> Lease | None:
        if self._lease is None:
            return None
        try:
            renew(conn, self._lease, self.lease_s)
        except LeaseLostError:
            return None
        return self._lease

    def _taken(self, conn: Connection) -> Lease | None:
        return next(
            (
                lease
                for name in self._names
                if (lease := acquire(conn, name, self._holder, self.lease_s)) is not None
            ),
            None,
        )


def abandoned(conn: Connection, seconds: float) -> list[str]:
    """Return the seats of workers that have not been heard of for so long."""
    gone = select(leases.c.name).where(leases.c.name.in_(SEATS), leases.c.until < now() - seconds)
    return list(conn.execute(gone.order_by(leases.c.name)).scalars())


def clear(conn: Connection, lease: Lease) -> None:
    """Forget a lease that we hold: nothing is left that it stood for."""
    mine = (leases.c.name == lease.name, leases.c.term == lease.term)
    conn.execute(delete(leases).where(*mine, leases.c.holder == lease.holder))
