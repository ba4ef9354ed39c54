"""Carries roll-outs out: what the core decides is signed, and written down in one transaction.

One thread of the leader's. It holds roll-outs in memory and reads them anew when anything went
wrong: what counts is in the database. Every transaction begins with the leader's lease.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

from sqlalchemy import Connection, Engine

from edgeslm.core.rollout import (
    ASSIGNS,
    Change,
    Decision,
    DeviceEvent,
    Health,
    Target,
    decide,
    joins,
)
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.database import assignments, audit, rollouts
from edgeslm.fleet.database.assignments import Stored
from edgeslm.fleet.database.audit import Actor
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import LeaseLostError, SeqTakenError
from edgeslm.fleet.database.leases import Lease
from edgeslm.fleet.service.keeper import Keeper
from edgeslm.fleet.service.orders import Signs, assigned_version
from edgeslm.fleet.service.preview import Catalogue, known, matching, unfit
from edgeslm.fleet.service.sights import seen
from edgeslm.fleet.service.watched import GONE, LATE, Watched
from edgeslm.logs import Log
from edgeslm.ports import Clock

TICK_S: Final = 0.5
LOOK_S: Final = 30.0  # between two looks at all devices: one may have been forgotten
JOIN_S: Final = 10.0  # between two looks for devices that join
CHUNK: Final = 500  # devices of one transaction
LATE_S: Final = 90 * 86_400.0  # after a roll-out has ended, nobody waits any more
_TRIES: Final = 5  # where commands assign meanwhile
JUMP_S: Final = 30.0  # between two looks at the clock
_MINUTE_S: Final = 60
_DAY_MINUTES: Final = 1440
_WE: Final = Actor("edgeslm", "service")

log = Log(__name__)


class Conductor:
    """Moves roll-outs on, on a thread of its own, while this process leads.

    Args:
        engine: of the database.
        keeper: of the leader's lease.
        signs: makes assignments.
        catalogue: what the repository has; for devices that join.
        clock: seconds since 1970, for all that a roll-out does.
        published: called when there are new assignments.
        hears: says for how long what devices say has been coming in, seconds; 0: it is not.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        engine: Engine,
        keeper: Keeper,
        *,
        signs: Signs,
        catalogue: Catalogue,
        clock: Clock,
        published: Callable[[], None],
        hears: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._keeper = keeper
        self._signs = signs
        self._catalogue = catalogue
        self._clock = clock
        self._published = published
        self._hears = hears
        self._listening_since = clock.monotonic()
        self._ticked = clock.wall(), clock.monotonic()
        self._lock = threading.Lock()  # of what other threads hand over
        self._heard: set[str] = set()
        self._something = threading.Event()
        self._stopping = threading.Event()
        self._lease: Lease | None = None
        self._watched: dict[int, Watched] = {}
        self._loaded = False
        self._look_at = 0.0
        self._join_at = 0.0
        self._trouble = ""

    def heard(self, devices: Collection[str]) -> None:
        """Something of these devices was written down; may be said by any thread."""
        with self._lock:
            self._heard.update(devices)
        self._something.set()

    def wake(self) -> None:
        """Look now, such as for a new roll-out; may be said by any thread."""
        self._something.set()

    def run(self) -> None:
        """Move roll-outs on until `stop`."""
        while not self._stopping.is_set():
            self.tick()
            self._something.wait(TICK_S)
            self._something.clear()

    def stop(self) -> None:
        """Have `run` return soon; may be called by any thread."""
        self._stopping.set()
        self._something.set()

    def tick(self) -> None:
        """Do what is to be done now, if this process leads."""
        lease = self._keeper.lease
        self._note_time()
        if lease != self._lease:
            self._forget()
            self._lease = lease
        if lease is None:
            return
        try:
            self._tick(lease)
        except LeaseLostError:
            self._keeper.lost(lease)
            self._forget()
        except EdgeSLMError as err:
            self._forget()
            if self._trouble != err.code:
                log.warning("rollouts_wait", code=err.code, message=str(err))
            self._trouble = err.code
        else:
            if self._trouble:
                log.info("rollouts_go_on")
            self._trouble = ""

    def _forget(self) -> None:
        """What is in memory may not be what was written down."""
        self._watched.clear()
        self._listening_since = self._clock.monotonic()
        self._loaded = False
        self._look_at = 0.0

    def _tick(self, lease: Lease) -> None:
        orders = self._load()
        for number, (what, by) in orders.items():
            self._obey(self._watched[number], what, by, lease)
        self._look(lease)
        for watched in list(self._watched.values()):
            while self._decide(watched, lease) and not self._stopping.is_set():
                pass
            if watched.ended():
                watched.leave_out()
            if not watched.targets:
                del self._watched[watched.id]

    # What is there.

    def _load(self) -> dict[int, tuple[rollouts.Asked, str]]:
        """Read roll-outs that are not in memory; return what operators ask, by number."""
        orders: dict[int, tuple[rollouts.Asked, str]] = {}
        with reading(self._engine) as conn:
            rows = rollouts.active(conn)
            if not self._loaded:
                rows += rollouts.ended(conn, LATE, since=self._clock.wall() - LATE_S)
                self._loaded = True
            for row in rows:
                if row.id not in self._watched:
                    self._watch(conn, row)
                if row.asked is not None:
                    orders[row.id] = row.asked, row.asked_by or ""
        return orders

    def _watch(self, conn: Connection, row: rollouts.Stored) -> None:
        targets = {each.device: each for each in rollouts.targets(conn, row.id)}
        new = Watched(row.id, row.plan, row.progress, targets)
        new.leave_out()
        # What a device says is of the newest roll-out that it is in.
        for other in self._watched.values():
            older, newer = sorted((other, new), key=lambda each: each.id)
            if older.ended():
                older.leave_out(newer.targets)
        self._watched[row.id] = new
        self._look_at = 0.0

    def _look(self, lease: Lease) -> None:
        """Take what devices have said since the last time."""
        with self._lock:
            heard, self._heard = self._heard, set()
        now = self._clock.monotonic()
        everything = now >= self._look_at
        if everything:
            self._look_at = now + LOOK_S
        for watched in self._watched.values():
            devices = set(watched.targets) if everything else heard & watched.targets.keys()
            if devices:
                with reading(self._engine) as conn:
                    found = seen(conn, watched.plan.model, devices)
                    last = assignments.many(conn, devices) if watched.ended() else {}
                if watched.ended():  # whoever has been assigned something else since is not late
                    watched.leave_out(
                        d for d in devices if d not in last or watched.moved_on(d, last[d].seq)
                    )
                if changes := watched.look(found, sorted(devices)):
                    self._carry_out(watched, Decision(watched.progress, None, changes), lease)
        if now >= self._join_at:
            self._join_at = now + JOIN_S
            for watched in self._watched.values():
                self._join(watched, lease)

    def _join(self, watched: Watched, lease: Lease) -> None:
        """Take in devices that match by now, where the plan says so."""
        plan, now = watched.plan, self._clock.wall()
        if (wave := joins(plan, watched.progress, now=now)) is None:
            return
        with reading(self._engine) as conn:
            new = [row for row in matching(conn, plan, now) if row.id not in watched.targets]
            busy = rollouts.overlapping(conn, [row.id for row in new])
            cannot = unfit(known(self._catalogue, plan), plan, new)
        joining = [
            Target(row.id, row.profile, wave, since=now)
            for row in new
            if row.id not in busy and row.id not in cannot
        ]
        if joining:
            with self._engine.begin() as conn:
                self._keeper.fence(conn, lease)
                rollouts.join(conn, watched.id, joining, now=now)
            watched.commit(watched.progress, joining)

    # What is to be.

    def _obey(self, watched: Watched, what: rollouts.Asked, by: str, lease: Lease) -> None:
        decision = watched.asked(what, by, self._clock.wall())
        if decision is None:
            log.info("order_ignored", rollout=watched.id, order=what)
            decision = Decision(watched.progress)
        self._carry_out(watched, decision, lease, asked=what, by=by)

    def _decide(self, watched: Watched, lease: Lease) -> bool:
        """Do the next thing that is to be done; return whether there was one."""
        now = self._clock.wall()
        decision = decide(
            watched.plan,
            watched.progress,
            watched.targets.values(),
            now=now,
            minute=int(now // _MINUTE_S) % _DAY_MINUTES,
            heard=watched.heard,
            listening=now - self._listened_s(),
        )
        news = decision.event is not None or decision.changes
        if not news and decision.progress == watched.progress:
            return False
        if len(decision.changes) > CHUNK:  # the rest is decided again
            decision = Decision(watched.progress, None, decision.changes[:CHUNK])
        self._carry_out(watched, decision, lease)
        return True

    def _carry_out(
        self,
        watched: Watched,
        decision: Decision,
        lease: Lease,
        *,
        asked: rollouts.Asked | None = None,
        by: str = "",
    ) -> None:
        for _ in range(_TRIES):
            try:
                self._write(watched, decision, lease, asked, by)
            except SeqTakenError as err:  # a command was quicker
                taken = err
            else:
                return
        raise taken

    def _write(
        self,
        watched: Watched,
        decision: Decision,
        lease: Lease,
        asked: rollouts.Asked | None,
        by: str,
    ) -> None:
        now = self._clock.wall()
        changes, before = self._prepared(watched, decision)
        made = self._signed(watched, changes, now)
        seqs = {each.device: each.seq for each in made}
        decision = Decision(decision.progress, decision.event, changes)
        targets = watched.changed(changes, now, seqs=seqs, before=before)
        with self._engine.begin() as conn:
            self._keeper.fence(conn, lease)
            assignments.put(conn, made)
            rollouts.record(
                conn,
                watched.id,
                now=now,
                progress=decision.progress,
                targets=targets,
                asked=asked,
                log=watched.news(decision, by),
            )
            if decision.event is not None:
                state, why = decision.progress.state.value, decision.progress.reason
                audit.record(conn, _WE, f"rollout.{state}", now=now, rollout=watched.id, reason=why)
        watched.commit(decision.progress, targets)
        if decision.event is not None:
            reached, why = decision.progress.state.value, decision.progress.reason
            log.info("rollout_went_on", rollout=watched.id, state=reached, reason=why)
        if made:
            self._published()

    def _prepared(
        self, watched: Watched, decision: Decision
    ) -> tuple[list[Change], Mapping[str, tuple[int | None, Health]]]:
        """Return the changes as they can be made, and what devices run that are to move."""
        moving = [c.device for c in decision.changes if c.event is DeviceEvent.MOVE]
        before: dict[str, tuple[int | None, Health]] = {}
        if not moving:
            return list(decision.changes), before
        model = watched.plan.model
        with reading(self._engine) as conn:
            found = seen(conn, model, moving)
            last = assignments.many(conn, moving)
        for device, each in found.items():
            runs = each.sight.committed
            if runs is None and device in last:  # it has not got there yet
                runs = assigned_version(last[device], model)
            before[device] = runs, each.health
        changes = [
            Change(change.device, DeviceEvent.LEAVE_OUT, GONE)
            if change.event is DeviceEvent.MOVE and change.device not in before
            else change
            for change in decision.changes
        ]
        return changes, before

    def _signed(self, watched: Watched, changes: Collection[Change], now: float) -> list[Stored]:
        orders: dict[str, int | None] = {}
        for change in changes:
            target = watched.targets[change.device]
            match ASSIGNS.get((target.state, change.event)):
                case "new":
                    orders[change.device] = watched.plan.version
                case "before":
                    orders[change.device] = target.previous
                case None:
                    pass
        if not orders:
            return []
        with reading(self._engine) as conn:
            last = assignments.many(conn, orders)
            numbers = assignments.next_numbers(conn, orders)
        return self._signs.make(
            orders, last, numbers, model=watched.plan.model, rollout=watched.id, now=now
        )

    def _listened_s(self) -> float:
        """Return for how long devices could be heard without a break."""
        since = self._clock.monotonic() - self._listening_since
        return max(0.0, min(self._hears(), since))

    def _note_time(self) -> None:
        """A computer that slept, and a clock that jumped, have made devices seem silent."""
        wall, monotonic = self._clock.wall(), self._clock.monotonic()
        was_wall, was_monotonic = self._ticked
        self._ticked = wall, monotonic
        passed = monotonic - was_monotonic
        if abs(wall - was_wall - passed) > JUMP_S or passed > JUMP_S:
            self._listening_since = monotonic
