"""The daemon's main loop: owns all state, decides everything, waits for nothing but news.

Links, workers and the loader run on threads of their own; each only appends to a queue here and
rings. One turn of the loop takes all that has come, so that under load one turn serves hundreds
of messages, and ends by sending, writing and acknowledging what is due.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from edgeslm import __version__
from edgeslm.adapters.process import rss_mb
from edgeslm.agent.desired import Desired, Plan
from edgeslm.agent.forwarder import Forwarder
from edgeslm.agent.homeassistant import announcements
from edgeslm.agent.loader import Loaded, Loader, News, Rechecked, RoomWanted
from edgeslm.agent.metrics import Endpoint, Snapshot
from edgeslm.agent.models import ModelSlot
from edgeslm.agent.parts import Office, Parts
from edgeslm.agent.people import FEEDBACK, People, Voices
from edgeslm.agent.responder import Responder
from edgeslm.agent.roster import Roster
from edgeslm.agent.session import Job
from edgeslm.agent.vitals import Vitals
from edgeslm.agent.voice import Voice
from edgeslm.agent.watch import sighting_of
from edgeslm.agent.workers import Pool
from edgeslm.contract.messages import SCHEMA_VERSION, State
from edgeslm.contract.settings import AgentSettings
from edgeslm.core.allowance import Allowance
from edgeslm.core.troubles import Troubles
from edgeslm.errors import ConfigError
from edgeslm.logs import Log
from edgeslm.ports import (
    Arrived,
    Confirmed,
    Down,
    OutboxUnavailableError,
    Report,
    Sink,
    Subscribed,
    Up,
)

if TYPE_CHECKING:  # loaded only where there is an updater
    from edgeslm.agent.control import Controller

log = Log(__name__)
DRAIN_S: Final = 2.5  # at the end, for inputs that are being answered
LEAVE_S: Final = 1.5  # and for the brokers to hear of it
JOIN_S: Final = 0.5  # and, at least, for threads that compute
MAX_WAIT_S: Final = 5.0
BUSY: Final = 256  # inputs with the workers: enough for a while, however quick they are
GATHER_S: Final = 0.01  # between two turns while they are
CHANGES: Final = 12  # states told since something changed, within
CHANGES_S: Final = 60.0
SAVE_S: Final = 1.0  # between two times that what was answered is saved
LOOK_S: Final = 1.0  # between two looks at the clock, at least
JUMPS: Final = 4  # of the clock that are told, within
JUMPS_S: Final = 60.0


class Doorbell:
    """Wakes the loop. `ring` may be called by any thread."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()
        self._rung = False

    def ring(self) -> None:
        if not self._rung:  # else the loop has not looked yet, and will
            self._rung = True
            self._queue.put(None)

    def wait(self, timeout_s: float) -> None:
        with contextlib.suppress(Empty):
            self._queue.get(timeout=max(0.0, timeout_s))
        self._rung = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """What other threads ask for: lists, since appending to one is whole."""

    stop: list[None]
    reload: list[None]


class Agent:
    """Args: settings to begin with, and the parts to run on."""

    def __init__(self, settings: AgentSettings, parts: Parts) -> None:
        self._settings = settings
        self._parts = parts
        self._clock = parts.clock
        self._bell = Doorbell()
        self._asked = _Asked([], [])
        self._reports: deque[tuple[str | None, Report]] = deque()  # None: the uplink's
        self._done: deque[Job] = deque()
        self._loads: deque[News] = deque()
        self._drops: Counter[str] = Counter()
        self._downs: dict[str | None, Troubles] = defaultdict(Troubles)  # why links are down
        self._began = self._clock.monotonic()
        self._state_at = 0.0
        self._changed = False  # since the last state
        self._changes = Allowance(CHANGES, CHANGES_S)
        self._feed_at = 0.0
        self._save_at = 0.0
        self._look_at = 0.0
        self._jumps = Allowance(JUMPS, JUMPS_S)
        self._ready = False
        self._loader = Loader(parts.load, self._take_load)
        self._topics = settings.topics
        self._voice = Voice(settings.topics, parts.clock)
        self._forwarder = Forwarder(
            parts.uplink(settings, self._sink(None), self._voice.status("lost")),
            parts.outbox,
            settings=settings.outbox,
            unacknowledged=settings.unacknowledged,
            on_trouble=self._trouble,
        )
        self._people = People(
            settings,
            parts,
            Voices(self._trouble, self._event, self._forwarder.note),
            slots=lambda: self._roster.slots,
            sink=self._sink(FEEDBACK),
            drops=self._drops,
        )
        self._office = Office(
            clock=parts.clock,
            sink=self._sink,
            pool=self._pool,
            trouble=self._trouble,
            event=self._event,
            memory=self._people.memory,
        )
        self._roster = Roster(settings, parts, self._office, loader=self._loader, drops=self._drops)
        self._vitals = Vitals(parts, self._office, self._roster, self._bell.ring)
        self._endpoint = Endpoint(self._bell.ring, self._trouble)
        self._discovery = parts.discovery()
        self._desired = Desired(settings, parts.shelf(), self._trouble)
        self._controller: Controller | None = None

    def stop(self) -> None:
        """Ask for the end; may be called by any thread."""
        self._asked.stop.append(None)
        self._bell.ring()

    def reload(self) -> None:
        """Ask for a look at the settings; may be called by any thread."""
        self._asked.reload.append(None)
        self._bell.ring()

    def run(self) -> bool:
        """Serve until `stop`; return whether every thread that computes has ended.

        Where one has not, the interpreter must not be taken down under it.
        """
        self._desired.read()
        plan = self._desired.fitting()
        self._live_by(plan.settings)
        self._roster.begin(plan)
        self._forwarder.link.start()
        if (damaged := self._parts.set_aside) is not None:
            self._trouble("outbox_set_aside", "outbox.damaged", f"kept as {damaged}")
        self._vitals.begin()
        self._open_control()
        while not self._asked.stop:
            self._turn()
            if self._asked.reload:
                self._asked.reload.clear()
                self._reload()
            if self._roster.dispatcher.running > BUSY:
                # One turn for all that happens meanwhile, in place of one for each message: the
                # workers have enough to do, and get the time.
                time.sleep(GATHER_S)
            self._bell.wait(self._next() - self._clock.monotonic())
        return self._end()

    # One turn.

    def _turn(self) -> None:
        while self._reports:
            self._take_report(*self._reports.popleft())
        while self._loads:
            self._take_job(self._loads.popleft())
        if self._controller is not None:
            self._controller.turn(self._clock.monotonic())
        self._finish()
        forwarder = self._forwarder
        slots = list(self._roster.slots.values())
        for slot in slots:
            forwarder.offer(slot.session.leave())
        now = self._clock.monotonic()
        forwarder.pump(now=now)
        for slot in slots:
            slot.session.acknowledge()
        self._roster.tend(now)
        self._tick(now)

    def _take_report(self, name: str | None, report: Report) -> None:
        now = self._clock.monotonic()
        if name is None:
            self._take_uplink(report, now)
            return
        if name == FEEDBACK:
            self._people.take(report)
            return
        slot = self._roster.slots.get(name)
        if slot is None:
            return
        match report:
            case Arrived():
                self._roster.dispatch(slot, slot.session.take(report.messages))
            case Up():
                log.info("input_connected", model=name, session_present=report.session_present)
                self._downs[name].clear()
                slot.session.up(report.epoch, session_present=report.session_present)
                self._forwarder.recall()
            case Down():
                if self._is_news(name, report, now, was=slot.session.connected):
                    broker = self._settings.input_broker.address
                    log.warning(
                        "input_disconnected", model=name, broker=broker, reason=report.reason
                    )
                slot.session.down()
            case Subscribed():
                self._roster.subscribed(slot, report)
            case _:
                pass

    def _take_uplink(self, report: Report, now: float) -> None:
        forwarder = self._forwarder
        was = forwarder.connected
        forwarder.take(report, now=now)
        match report:
            case Up():
                log.info("uplink_connected")
                self._downs[None].clear()
                forwarder.say(self._voice.status("running"))
                self._state_at = 0.0
                self._discovery.up()
                self._announce(now)
            case Confirmed():
                self._discovery.confirmed(report.publications)
            case Down() if self._is_news(None, report, now, was=was):
                broker = self._settings.uplink.address
                log.warning("uplink_disconnected", broker=broker, reason=report.reason)
            case _:
                pass

    def _is_news(self, name: str | None, report: Down, now: float, *, was: bool) -> bool:
        """Whether to log that a link is down: when it was up, or for a reason not told lately."""
        return self._downs[name].is_news(report.reason, now) or was

    def _finish(self) -> None:
        """Count what the workers have done."""
        done, slots = self._done, self._roster.slots
        while done:
            job = done.popleft()
            job.answered = True
            slot = slots[job.session.model]
            slot.counts[job.outcome] += 1
            slot.counts["alarm"] += job.alarm
            if (parcel := job.parcel) is not None:
                took_s = parcel.born - job.message.received_at
                slot.latencies.add(parcel.born, took_s, behind=slot.behind)
                self._watch(slot, job)
                self._people.note(job)
            self._roster.dispatcher.finished(job)

    def _watch(self, slot: ModelSlot, job: Job) -> None:
        """Hear of drift what an answer tells; one that comes again was heard before."""
        if job.said is None or job.message.dup:
            return
        _, request, answer = job.said
        sighting = sighting_of(request, answer, job.route.share if job.route else "none")
        if sighting is None:
            return
        for event, detail in slot.watch.take(sighting, wall=self._parts.clock.wall()):
            self._event(event, slot.name, detail)
            self._state_at = 0.0

    # Models and routes.

    def _take_load(self, news: News) -> None:
        self._loads.append(news)
        self._bell.ring()

    def _take_job(self, result: News) -> None:
        controller = self._controller
        match result:
            case _ if self._asked.stop:
                pass  # what serves answers what it has begun, and nothing takes its place
            case RoomWanted():
                tried = result.wanted.on_trial
                wanted = not tried or (controller is not None and controller.awaits(result.wanted))
                result.answer(self._roster.make_room(result) if wanted else None)
            case Rechecked() if controller is not None:
                controller.rechecked(result)
            case Loaded() if controller is not None and result.wanted.on_trial:
                controller.loaded(result)
            case Loaded():
                self._roster.take_load(result)
            case _:
                pass

    def _pool(self, name: str, threads: int, responder: Responder) -> Pool:
        done, wake = self._done, self._bell.ring
        return Pool(name, threads=threads, responder=responder, done=done, wake=wake)

    def _reload(self) -> None:
        try:
            new = self._parts.reload()
        except ConfigError as err:
            self._trouble("reload_failed", err.code, str(err))
            return
        self._desired.file, wait = self._roster.keep_fixed(new)
        self._desired.read()
        self.adopt(self._desired.fitting(), look=True)
        self._event("reloaded", None, {"restart_needed": ", ".join(wait)})

    def settle(self) -> None:
        """Live by what is desired, as far as it fits."""
        self.adopt(self._desired.fitting())

    def adopt(self, plan: Plan, *, look: bool = False) -> None:
        """Live by `plan` from now on; `look` is that of `Roster.apply`."""
        self._live_by(plan.settings)
        self._roster.apply(plan, look=look)

    def _live_by(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._forwarder.live_by(settings.outbox, unacknowledged=settings.unacknowledged)
        self._vitals.live_by(settings.pressure)
        self._endpoint.live_by(settings.metrics)
        self._people.live_by(settings)
        due_at = self._clock.monotonic() + settings.state_interval_s
        self._state_at = min(self._state_at, due_at)

    def _open_control(self) -> None:
        """Listen to the updater, where there is one."""
        if (shelf := self._desired.shelf) is None:
            return
        from edgeslm.agent.control import Controller  # noqa: PLC0415 -- others do without it

        self._controller = Controller(
            self._desired,
            shelf,
            roster=self._roster,
            loader=self._loader,
            office=self._office,
            home=self,
            wake=self._bell.ring,
            listen=partial(self._parts.control, self._settings),
        )

    # What is told.

    def _tick(self, now: float) -> None:
        forwarder, roster = self._forwarder, self._roster
        self._vitals.tend(now)
        self._people.tend(now)
        if forwarder.changed or roster.changed:
            forwarder.changed = roster.changed = False
            self._changed = True
            self._announce(now)
        if now >= self._save_at:
            self._save_at = now + SAVE_S
            roster.save()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(now)
        changed = self._changed and forwarder.connected and self._changes.take(now)
        if (changed or now >= self._state_at) and forwarder.connected:
            self._changed = False
            self._state_at = now + self._settings.state_interval_s
            forwarder.say(self._voice.state(self._state()))
        if self._endpoint.asked:
            slots = roster.slots.items()
            inputs = {name: slot.session.connected for name, slot in slots}
            self._endpoint.put(Snapshot(self._state(), forwarder.connected, inputs))
        notifier = self._parts.notifier
        if not self._ready and not roster.loading:
            self._ready = True
            self._loader.give_way()
            self._people.listen()
            notifier.ready(f"{len(roster.slots)} models")
            log.info("ready", models=sorted(roster.slots))
        interval_s = notifier.interval_s
        if interval_s is not None and now >= self._feed_at:
            if self._vitals.all_turn(forwarder.link, self._loader):
                notifier.feed()
            self._feed_at = now + interval_s

    def _announce(self, now: float) -> None:
        """Tell Home Assistant, where it is to be told, which entities there are by now."""
        if not self._forwarder.connected:
            return
        states, profile = self._roster.states(), self._parts.profile
        wanted = announcements(self._settings, states, profile=profile)
        for parcel in self._discovery.tell(wanted, now=now):
            self._forwarder.say(parcel)

    def _look(self, now: float) -> None:
        """Look at the clock: whether it was set, and can be believed by now."""
        clock = self._clock
        trust = clock.trust
        by_s = clock.look()
        if by_s is not None and self._jumps.take(now):
            self._event("clock_jumped", None, {"by_s": round(by_s, 3)})
        self._changed = self._changed or clock.trust != trust

    def _next(self) -> float:
        """When the next turn is due though nothing happens."""
        now = self._clock.monotonic()
        moments = [now + MAX_WAIT_S]
        if self._forwarder.connected:
            moments.append(self._state_at)
            if self._changed:
                moments.append(self._changes.due_at())
        if self._parts.notifier.interval_s is not None:
            moments.append(self._feed_at)
        if (due := self._forwarder.due_at()) is not None:
            moments.append(due)
        moments += self._roster.due_at()
        if self._controller is not None:
            moments.append(self._controller.due_at())
        return min(moments)

    def _state(self) -> State:
        forwarder = self._forwarder
        state: State = {
            "schema": SCHEMA_VERSION,
            "device": self._settings.device_id,
            "time": self._clock.wall(),
            "agent_version": __version__,
            "uptime_s": round(self._clock.monotonic() - self._began, 3),
            "rss_mb": round(rss_mb(), 1),
            "models": self._roster.states(),
            "outbox": forwarder.rows,
            "outbox_alerts": forwarder.alerts,
            "withheld": forwarder.withheld,
            "drops": {**self._drops, **forwarder.drops},
        }
        if (profile := self._parts.profile) is not None:
            state["profile"] = profile
        if tags := self._settings.tags:
            state["tags"] = tags
        if forwarder.rows:
            with contextlib.suppress(OutboxUnavailableError):
                outbox = self._parts.outbox
                lanes = [outbox.oldest(1, after=0, alert=alert) for alert in (True, False)]
                ages = [lane[0].age_s for lane in lanes if lane]
                if ages:
                    state["outbox_oldest_s"] = max(ages)
        self._vitals.add_to(state)
        return state

    def _trouble(self, event: str, code: str, message: str, model: str | None = None) -> None:
        self._forwarder.note(self._voice.trouble(event, code, message, model))

    def _event(self, event: str, model: str | None, detail: Mapping[str, str | float]) -> None:
        self._forwarder.note(self._voice.event(event, model, dict(detail)))

    # The end.

    def _end(self) -> bool:
        """Answer what is being answered, bring results to safety, say goodbye: under 5 s."""
        self._parts.notifier.stopping()
        if self._controller is not None:
            self._controller.leave()  # first: whatever ends us before we are done is no crash
        self._vitals.stop()
        self._endpoint.live_by(None)
        self._loader.end()
        slots = list(self._roster.slots.values())
        dispatcher, pools = self._roster.dispatcher, self._roster.pools
        log.info("stopping", inputs=sum(len(s.session.lane) for s in slots))
        for slot in slots:
            slot.session.link.pause()
        until = self._clock.monotonic() + DRAIN_S
        self._turn()
        while dispatcher.running or not self._forwarder.idle:
            left_s = min(self._next(), until) - self._clock.monotonic()
            if self._clock.monotonic() >= until:
                break
            self._bell.wait(left_s)
            self._turn()
        # What was not begun stays unacknowledged: the broker sends it again.
        for pool in pools:
            dispatcher.unbegun(pool.end())
        self._forwarder.flush(now=self._clock.monotonic())
        links = [slot.session.link for slot in slots]
        for slot in slots:
            slot.session.acknowledge()
            slot.session.link.stop()
        self._roster.save()
        if (feedback := self._people.leave()) is not None:
            links.append(feedback)
        links.append(self._forwarder.link)
        self._forwarder.link.stop(self._voice.status("stopped"))
        until = self._clock.monotonic() + LEAVE_S
        for link in links:
            link.join(max(0.0, until - self._clock.monotonic()))
        until = max(until, self._clock.monotonic() + JOIN_S)
        ended = [pool.join(until) for pool in pools]
        ended.append(self._loader.join(max(0.0, until - self._clock.monotonic())))
        log.info("stopped")
        return all(ended)

    def _sink(self, name: str | None) -> Sink:
        reports, ring = self._reports, self._bell.ring

        def sink(report: Report) -> None:
            reports.append((name, report))
            ring()

        return sink
