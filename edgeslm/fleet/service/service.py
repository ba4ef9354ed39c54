"""One process of the fleet's service: it answers devices, hears them, and one of them decides.

Any number of them share a database and a broker. What devices ask for, their events and results are
shared out by the broker; what they retain goes to the one that leads. Each may die at any time: its
leases run out, the broker keeps what it had not acknowledged, and the leader takes that in.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from sqlalchemy import Engine

from edgeslm.contract.topics import FleetTopics
from edgeslm.errors import UnavailableError
from edgeslm.fleet.server import Served, Server
from edgeslm.fleet.service.conductor import Conductor
from edgeslm.fleet.service.crew import Crew
from edgeslm.fleet.service.ingest import Ingest, Keeps
from edgeslm.fleet.service.issuer import Answer, Issuer
from edgeslm.fleet.service.keeper import LEADER, SEATS, Keeper, abandoned, clear
from edgeslm.fleet.service.orders import Signs
from edgeslm.fleet.service.preview import Catalogue
from edgeslm.logs import Log
from edgeslm.ports import Clock, Letter, Sink, Transport

LEASE_S: Final = 5.0
RENEWALS: Final = 5  # of a lease in its length
ARRANGE_S: Final = 0.5
ADOPT_S: Final = 10.0  # that a worker has been away, and that we have led
QUIET_S: Final = 5.0  # without a message: a session that was left behind is empty
PRUNE_S: Final = 600.0
STOP_S: Final = 3.0  # of the 5 s in which the process is to be gone

log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Session:
    """One MQTT session.

    Args:
        client_id: its name.
        keeps: the broker is to keep it, with what was not acknowledged.
        held: filters that it may have from an earlier life.
    """

    client_id: str
    keeps: bool = False
    held: frozenset[str] = frozenset()


Connect = Callable[[Session, Sink], Transport[Letter]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a service is made of.

    Args:
        engine: of the database.
        served: the repository, as devices see it.
        signs: makes assignments.
        catalogue: what the repository has.
        keeps: makes what takes what devices say, one for each session.
        prune: removes what is old, and more than there is room for.
        certifies: answers devices that ask for a certificate.
        connect: makes a session's transport.
        clock: for everything.
        page: serves the web page until the event is set; None: there is none.
    """

    engine: Engine
    served: Served
    signs: Signs
    catalogue: Catalogue
    keeps: Callable[[], Keeps]
    prune: Callable[[], None]
    certifies: Answer
    connect: Connect
    clock: Clock
    page: Callable[[threading.Event], None] | None = None


@dataclass(slots=True)
class _Adopted:
    """The session of a worker that is gone, taken in."""

    keeper: Keeper
    ingest: Ingest


class Service:
    """Runs until it is stopped. Its own thread alone arranges who does what.

    Args:
        parts: what it is made of.
        root: topic levels that the fleet's devices share.
        shares: the broker shares subscriptions out; else the leader takes all.
        lease_s: after which another takes the place of one that is gone.
    """

    def __init__(
        self, parts: Parts, *, root: str, shares: bool = True, lease_s: float = LEASE_S
    ) -> None:
        self._parts = parts
        self._root = root
        self._shares = shares
        self._lease_s = lease_s
        self._name = f"edgeslm-fleet-{hashlib.sha256(root.encode()).hexdigest()[:6]}"
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._stopping = threading.Event()
        self._crew = Crew(self.stop)
        holder = secrets.token_hex(8)
        self.leader = self._keeper([LEADER], holder)
        self._seat = self._keeper(SEATS, holder)
        self.server = Server(
            parts.served,
            lambda sink: parts.connect(Session(f"{self._name}-{holder}-blocks"), sink),
            root=root,
            clock=parts.clock,
            publishes=self.leader.holds,
            shares=shares,
        )
        self.conductor = Conductor(
            parts.engine,
            self.leader,
            signs=parts.signs,
            catalogue=parts.catalogue,
            clock=parts.clock,
            published=self._publish,
            hears=self._heard_s,
        )
        self._holder = holder
        self._hears: Ingest | None = None  # what is retained, while we lead
        self._takes: Ingest | None = None  # our share of the rest
        self._takes_as = ""
        self._issues: Issuer | None = None
        self._adopted: dict[str, _Adopted] = {}
        self._led_since: float | None = None
        self._adopt_at = 0.0

    def run(self, *, ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until `stop`; return whether that was all, and no thread has failed.

        Args:
            ready: called once, when all have begun.
        """
        crew, parts = self._crew, self._parts
        self._renew()  # who leads is known before anything is subscribed
        crew.start("leases", self._keep_leases)
        crew.start("conductor", self.conductor.run)
        crew.start("server", self.server.run)
        crew.start("prune", self._keep_pruned)
        if (page := parts.page) is not None:
            crew.start("page", lambda: page(self._stopping))
        ready()
        try:
            while not self._stopping.is_set():
                self._arrange()
                with contextlib.suppress(Empty):
                    self._wakes.get(timeout=ARRANGE_S)
        finally:
            self._close()
        return not crew.failed

    def stop(self) -> None:
        """Have `run` return soon; may be called by any thread."""
        self._stopping.set()
        self._wake()

    def refused(self) -> Counter[str]:
        """Return how many messages were refused, by reason; for any thread."""
        there = [x for x in (self._hears, self._takes, self._issues) if x is not None]
        return sum((each.refused for each in there), Counter())

    def _wake(self) -> None:
        self._wakes.put(None)

    def _close(self) -> None:
        until = time.monotonic() + STOP_S
        self._stopping.set()
        for ingest in (self._hears, self._takes, *(each.ingest for each in self._adopted.values())):
            if ingest is not None:
                ingest.stop()
        if self._issues is not None:
            self._issues.stop()
        self.conductor.stop()
        self.server.stop()
        self._crew.join(until)
        # The seat is kept: the broker goes on to put our share of messages into its session.
        self.leader.let_go()

    # Leases.

    def _keeper(self, names: Sequence[str], holder: str) -> Keeper:
        return Keeper(
            self._parts.engine,
            self._parts.clock,
            names,
            holder=holder,
            lease_s=self._lease_s,
            changed=self._wake,
        )

    def _keep_leases(self) -> None:
        down = False
        while not self._stopping.wait(self._lease_s / RENEWALS):
            down = self._renew(told=down)

    def _renew(self, *, told: bool = False) -> bool:
        """Take or renew all leases; return whether the database is down, and that was told."""
        try:
            for keeper in (
                self._seat,
                self.leader,
                *(each.keeper for each in list(self._adopted.values())),
            ):
                keeper.step()
        except UnavailableError as err:
            if not told:
                log.warning("leases_unavailable", code=err.code, message=str(err))
            return True
        return False

    # Who hears what.

    def _arrange(self) -> None:
        leads = self.leader.holds()
        now = self._parts.clock.monotonic()
        if leads != (self._led_since is not None):
            self._led_since = now if leads else None
            self.conductor.wake()
            self._publish()
        if leads and self._hears is None:
            name = f"{self._name}-{self._holder}-states"
            filters = {f"{self._root}/+/{what}" for what in ("status", "state", "update")}
            self._hears = self._ingest("states", Session(name), filters)
        elif not leads and self._hears is not None:
            self._hears.stop()  # what it had not written is retained
            self._hears = None
        self._take_share(leads=leads)
        self._issue(leads=leads)
        try:
            if leads and self._shares and now >= self._adopt_at:
                self._adopt_at = now + ADOPT_S
                self._adopt(now)
            self._release()
        except UnavailableError as err:  # what was not taken in or let go of now is found again
            log.warning("adoption_waits", code=err.code, message=str(err))

    def _take_share(self, *, leads: bool) -> None:
        if self._takes is not None and self._takes.unshared:
            log.warning("sharing_refused", consequence="the leader alone takes events and results")
            self._shares = False
        if self._shares:
            seat = self._seat.lease
            wanted = f"{self._name}-{seat.name}" if seat is not None else self._takes_as
            filters = self._shared()
        else:
            wanted = f"{self._name}-alone" if leads else ""
            filters = self._plain()
        if wanted == self._takes_as:
            return
        if self._takes is not None:
            self._takes.stop()
            self._takes = None
        self._takes_as = wanted
        if wanted:
            self._takes = self._ingest("results", Session(wanted, keeps=True), filters)

    def _issue(self, *, leads: bool) -> None:
        """Give certificates, with all workers or as the one that leads."""
        issues = self._issues
        if issues is not None and issues.unshared:
            self._shares = False
        if issues is not None and (issues.shares != self._shares or not (self._shares or leads)):
            issues.stop()
            self._issues = issues = None
        if issues is None and (self._shares or leads):
            session = Session(f"{self._name}-{self._holder}-certificates")
            self._issues = Issuer(
                self._parts.certifies,
                lambda sink: self._parts.connect(session, sink),
                root=self._root,
                shares=self._shares,
                clock=self._parts.clock,
            )
            self._crew.start("certificates", self._issues.run)

    def _plain(self) -> set[str]:
        return {f"{self._root}/+/events", f"{self._root}/+/results/+"}

    def _shared(self) -> set[str]:
        return {FleetTopics.shared(each) for each in self._plain()}

    def _adopt(self, now: float) -> None:
        """Take in the sessions of workers that are gone, so that nothing waits there for good."""
        if self._led_since is None or now - self._led_since < ADOPT_S:
            return  # after a time without the database nobody has renewed anything
        with self._parts.engine.begin() as conn:
            names = abandoned(conn, ADOPT_S)
        for name in names:
            if name in self._adopted:
                continue
            keeper = self._keeper([name], self._holder)
            keeper.step()
            if keeper.holds():
                log.info("worker_gone", seat=name)
                session = Session(
                    f"{self._name}-{name}", keeps=True, held=frozenset(self._shared())
                )
                ingest = self._ingest(name, session, (), forget=True)
                self._adopted[name] = _Adopted(keeper, ingest)

    def _release(self) -> None:
        """Let go of those sessions that are empty."""
        for name, adopted in list(self._adopted.items()):
            lease = adopted.keeper.lease
            if adopted.ingest.quiet_s() >= QUIET_S and lease is not None:
                adopted.ingest.stop()
                del self._adopted[name]
                with self._parts.engine.begin() as conn:
                    clear(conn, lease)

    def _ingest(
        self, name: str, session: Session, filters: Collection[str], *, forget: bool = False
    ) -> Ingest:
        ingest = Ingest(
            self._parts.keeps(),
            lambda sink: self._parts.connect(session, sink),
            root=self._root,
            filters=filters,
            clock=self._parts.clock,
            heard=self.conductor.heard,
        )
        leaves = (lambda: not self._stopping.is_set()) if forget else (lambda: False)
        self._crew.start(name, lambda: ingest.run(forget=leaves))
        return ingest

    # The rest.

    def _heard_s(self) -> float:
        hears = self._hears
        return hears.up_s() if hears is not None else 0.0

    def _publish(self) -> None:
        self.server.look_soon()
        self.server.wake()

    def _keep_pruned(self) -> None:
        while not self._stopping.is_set():
            if self.leader.holds():
                try:
                    self._parts.prune()
                except UnavailableError as err:
                    log.warning("not_pruned", code=err.code, message=str(err))
            self._stopping.wait(PRUNE_S)
