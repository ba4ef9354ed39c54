"""The daemon's main loop: owns all state, decides everything, waits for nothing but news.

Links, workers and the loader run on threads of their own; each only appends to a queue here and
rings. One turn of the loop takes all that has come, so that under load one turn serves hundreds
of messages, and ends by sending, writing and acknowledging what is due.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from edgeslm import __version__
from edgeslm.adapters.process import rss_mb, trim
from edgeslm.adapters.ring import Ring
from edgeslm.adapters.systemd import Notifier
from edgeslm.agent.dispatch import Dispatcher
from edgeslm.agent.forwarder import Forwarder
from edgeslm.agent.models import Loaded, Loader, ModelSlot, threads_of
from edgeslm.agent.session import InputSession, Job, routes_of
from edgeslm.agent.voice import Voice
from edgeslm.agent.workers import Model, Pool, Responder
from edgeslm.contract.messages import SCHEMA_VERSION
from edgeslm.contract.settings import AgentSettings, ModelSettings
from edgeslm.core.delivery import Parcel
from edgeslm.errors import ConfigError
from edgeslm.logs import Log
from edgeslm.ports import Arrived, Clock, Down, Outbox, Report, Sink, Subscribed, Transport, Up

log = Log(__name__)
DRAIN_S: Final = 2.5  # at the end, for inputs that are being answered
LEAVE_S: Final = 1.5  # and for the brokers to hear of it
JOIN_S: Final = 0.5  # and, at least, for threads that compute
STUCK_S: Final = 60.0  # one input for so long: the watchdog is not fed
MAX_WAIT_S: Final = 5.0
QUIET_S: Final = 2.0  # a model that is not wanted any more hears nothing for so long, and ends


class Parts(Protocol):
    """What the agent is made of; `edgeslm.agent.wiring` has the real ones."""

    @property
    def clock(self) -> Clock: ...
    @property
    def outbox(self) -> Outbox: ...
    @property
    def notifier(self) -> Notifier: ...
    @property
    def set_aside(self) -> Path | None:
        """Where the outbox was moved that could not be read at the start; None if none was."""

    def load(self, name: str, settings: ModelSettings, known: str | None) -> Model | None:
        """Return a loaded model; None if the bundle still has the hash `known`.

        Called on the loader's thread; `EdgeSLMError` says why it cannot be loaded.
        """

    def uplink(self, settings: AgentSettings, sink: Sink, will: Parcel) -> Transport[Parcel]:
        """Return the link that results leave by."""

    def input(self, settings: AgentSettings, model: str, sink: Sink) -> Transport[Parcel]:
        """Return the link of a model's input session."""

    def ring(self, model: str, *, unacknowledged: int) -> Ring:
        """Return the ring of a model's input session."""

    def held(self, model: str, filters: frozenset[str]) -> None:
        """Remember which filters the broker holds for a model's input session."""

    def reload(self) -> AgentSettings:
        """Return the settings as they are now.

        Raises:
            ConfigError: they cannot be used.
        """


class Doorbell:
    """Wakes the loop. `ring` may be called from any thread and from a signal handler."""

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
    """What signal handlers ask for: lists, since appending is all they may do."""

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
        self._loads: deque[Loaded] = deque()
        self._drops: Counter[str] = Counter()
        self._slots: dict[str, ModelSlot] = {}
        self._leaving: dict[str, Transport[Parcel]] = {}  # of models that are gone
        self._reasons: dict[str | None, str] = {}  # why a link is down
        self._dispatcher = Dispatcher(self._put)
        self._began = self._clock.monotonic()
        self._state_at = 0.0
        self._feed_at = 0.0
        self._ready = False
        self._loader = Loader(parts.load, self._take_load)
        self._topics = settings.topics
        self._voice = Voice(settings.topics, parts.clock)
        self._forwarder = Forwarder(
            parts.uplink(settings, self._sink(None), self._voice.status("lost")),
            parts.outbox,
            ack_timeout_s=settings.outbox.ack_timeout_s,
            on_trouble=self._trouble,
        )

    def stop(self) -> None:
        """Ask for the end; may be called from a signal handler."""
        self._asked.stop.append(None)
        self._bell.ring()

    def reload(self) -> None:
        """Ask for a look at the settings; may be called from a signal handler."""
        self._asked.reload.append(None)
        self._bell.ring()

    def run(self) -> bool:
        """Serve until `stop`; return whether every thread that computes has ended.

        Where one has not, the interpreter must not be taken down under it.
        """
        self._apply(self._settings)
        self._forwarder.link.start()
        if (damaged := self._parts.set_aside) is not None:
            self._trouble("outbox_set_aside", "outbox.damaged", f"kept as {damaged}")
        while not self._asked.stop:
            self._turn()
            if self._asked.reload:
                self._asked.reload.clear()
                self._reload()
            self._bell.wait(self._next() - self._clock.monotonic())
        return self._end()

    # One turn.

    def _turn(self) -> None:
        while self._reports:
            self._take_report(*self._reports.popleft())
        while self._loads:
            self._serve(self._loads.popleft())
        self._finish()
        forwarder = self._forwarder
        for slot in self._slots.values():
            forwarder.offer(slot.session.leave())
        now = self._clock.monotonic()
        forwarder.pump(now=now)
        for slot in list(self._slots.values()):
            slot.session.acknowledge()
            if slot.retiring:
                self._retire(slot, now)
        self._tick(now)

    def _take_report(self, name: str | None, report: Report) -> None:
        now = self._clock.monotonic()
        if name is None:
            self._take_uplink(report, now)
            return
        slot = self._slots.get(name)
        if slot is None:
            return
        match report:
            case Arrived():
                for job in slot.session.take(report.messages):
                    self._dispatch(slot, job)
            case Up():
                log.info("input_connected", model=name, session_present=report.session_present)
                self._reasons.pop(name, None)
                slot.session.up(report.epoch, session_present=report.session_present)
            case Down():
                if self._is_news(name, report, was=slot.session.connected):
                    log.warning("input_disconnected", model=name, reason=report.reason)
                slot.session.down()
            case Subscribed():
                self._parts.held(name, report.held)
                for topic in sorted(report.refused):
                    self._trouble("subscription_refused", "input.refused", topic, model=name)
            case _:
                pass

    def _take_uplink(self, report: Report, now: float) -> None:
        forwarder = self._forwarder
        was = forwarder.connected
        forwarder.take(report, now=now)
        match report:
            case Up():
                log.info("uplink_connected")
                self._reasons.pop(None, None)
                forwarder.say(self._voice.status("running"))
                self._state_at = 0.0
            case Down() if self._is_news(None, report, was=was):
                log.warning("uplink_disconnected", reason=report.reason)
            case _:
                pass

    def _is_news(self, name: str | None, report: Down, *, was: bool) -> bool:
        """Whether to log that a link is down: when it was up, refused, or for a new reason."""
        new = self._reasons.get(name) != report.reason
        self._reasons[name] = report.reason
        return new or was or report.refused

    def _finish(self) -> None:
        """Count what the workers have done."""
        done = self._done
        while done:
            job = done.popleft()
            job.answered = True
            self._slots[job.session.model].counts[job.outcome] += 1
            self._dispatcher.finished(job)

    def _dispatch(self, slot: ModelSlot, job: Job) -> None:
        if slot.pool is None:
            slot.backlog.append(job)
        else:
            self._dispatcher.take(job)

    def _put(self, job: Job) -> None:
        pool = self._slots[job.session.model].pool
        assert pool is not None  # noqa: S101 -- else it went to the backlog
        pool.put(job)

    # Models and routes.

    def _apply(self, settings: AgentSettings) -> None:
        """Make models and routes those of `settings`."""
        for name in settings.models:
            if name not in self._slots:
                self._add(name, settings)
        for name, slot in self._slots.items():
            routes = routes_of(settings.routes, name)  # none of a model that is gone
            wanted = name in settings.models
            if not wanted and not slot.retiring:
                slot.quiet_until = self._clock.monotonic() + QUIET_S
            slot.retiring = not wanted
            slot.session.set_routes(routes)
        self._settings = settings

    def _add(self, name: str, settings: AgentSettings) -> None:
        model = settings.models[name]
        if (old := self._leaving.pop(name, None)) is not None:
            old.join(LEAVE_S)  # its session has the same name: it would end the new one
        session = InputSession(
            name,
            link=self._parts.input(settings, name, self._sink(name)),
            ring=self._parts.ring(name, unacknowledged=model.receive_maximum),
            own=f"{self._topics.base}/",
            drops=self._drops,
        )
        self._slots[name] = ModelSlot(name, model, session)
        self._loader.want(name, model)
        session.set_routes(routes_of(settings.routes, name))
        session.link.start()

    def _retire(self, slot: ModelSlot, now: float) -> None:
        """End a model that is no longer wanted when it owes nothing and nothing more comes.

        What the broker held for it when we left its topics is still sent, a window at a time.
        """
        if len(slot.session.lane) or not slot.session.connected:
            slot.quiet_until = now + QUIET_S
        elif now >= slot.quiet_until:
            self._part(slot)

    def _part(self, slot: ModelSlot) -> None:
        """Let go of a model and of what the broker keeps for it."""
        del self._slots[slot.name]
        self._leaving[slot.name] = slot.session.link
        if slot.pool is not None:
            slot.pool.stop()
        slot.session.link.stop(forget=True)
        log.info("model_removed", model=slot.name)
        self._state_at = 0.0

    def _take_load(self, loaded: Loaded) -> None:
        self._loads.append(loaded)
        self._bell.ring()

    def _serve(self, loaded: Loaded) -> None:
        """Put a loaded model to work, or say why it could not be loaded."""
        slot = self._slots.get(loaded.name)
        if slot is None:
            return
        slot.loading = False
        slot.error = loaded.error
        if loaded.error is not None:
            error = loaded.error
            self._trouble("model_failed", error["code"], error["message"], model=slot.name)
        else:
            self._equip(slot, loaded)
        self._state_at = 0.0
        if not any(s.loading for s in self._slots.values()):
            trim()

    def _equip(self, slot: ModelSlot, loaded: Loaded) -> None:
        """Let a slot answer by what was loaded, or by what it has with other settings."""
        responder = slot.responder
        if loaded.model is not None:
            if responder is None:
                responder = Responder(
                    loaded.model,
                    device=self._settings.device_id,
                    topic=self._topics.results(slot.name),
                    clock=self._clock,
                )
            responder.model = loaded.model
            version = loaded.model.ref["version"]
            self._event("model_loaded", model=slot.name, version=version)
        if responder is None:
            return
        threads = threads_of(loaded.settings)
        pool = slot.pool
        if pool is None or threads != threads_of(slot.settings):
            pool = Pool(
                f"work {slot.name}",
                threads=threads,
                respond=responder.respond,
                done=self._done,
                wake=self._bell.ring,
            )
        slot.serve(responder, pool, loaded.settings)
        while slot.backlog:
            self._dispatch(slot, slot.backlog.popleft())

    def _reload(self) -> None:
        old = self._settings
        try:
            new = self._parts.reload()
        except ConfigError as err:
            self._trouble("reload_failed", err.code, str(err))
            return
        fixed = ("device_id", "topic_root", "state_dir", "runtime_dir", "uplink", "input")
        wait = [key for key in fixed if getattr(old, key) != getattr(new, key)]
        for name, model in new.models.items():
            was = old.models.get(name)
            if was is not None and was.receive_maximum != model.receive_maximum:
                wait.append(f"models.{name}.receive_maximum")
        self._apply(new)
        for name, slot in self._slots.items():
            if name in new.models and not slot.loading:
                slot.loading = slot.responder is None
                wanted = new.models[name]
                self._loader.want(name, wanted, known=slot.known(wanted))
        self._event("reloaded", restart_needed=", ".join(wait))

    # What is told.

    def _tick(self, now: float) -> None:
        forwarder = self._forwarder
        if forwarder.changed:
            forwarder.changed = False
            self._state_at = 0.0
        if now >= self._state_at and forwarder.connected:
            self._state_at = now + self._settings.state_interval_s
            forwarder.say(self._state())
        notifier = self._parts.notifier
        if not self._ready and not any(s.loading for s in self._slots.values()):
            self._ready = True
            notifier.ready(f"{len(self._slots)} models")
            log.info("ready", models=sorted(self._slots))
        interval_s = notifier.interval_s
        if interval_s is not None and now >= self._feed_at:
            pools = [s.pool for s in self._slots.values() if s.pool is not None]
            if all(pool.longest_s() < STUCK_S for pool in pools):
                notifier.feed()
            self._feed_at = now + interval_s

    def _next(self) -> float:
        """When the next turn is due though nothing happens."""
        now = self._clock.monotonic()
        moments = [now + MAX_WAIT_S]
        if self._forwarder.connected:
            moments.append(self._state_at)
        if self._parts.notifier.interval_s is not None:
            moments.append(self._feed_at)
        if (due := self._forwarder.due_at()) is not None:
            moments.append(due)
        moments += [slot.quiet_until for slot in self._slots.values() if slot.retiring]
        return min(moments)

    def _state(self) -> Parcel:
        forwarder = self._forwarder
        drops = dict(self._drops)
        if forwarder.refused:
            drops["result_refused"] = forwarder.refused
        if forwarder.lost_notes:
            drops["event"] = forwarder.lost_notes
        return self._voice.state(
            {
                "schema": SCHEMA_VERSION,
                "device": self._settings.device_id,
                "time": self._clock.wall(),
                "agent_version": __version__,
                "uptime_s": round(self._clock.monotonic() - self._began, 3),
                "rss_mb": round(rss_mb(), 1),
                "models": [slot.state() for slot in self._slots.values()],
                "outbox": forwarder.rows,
                "withheld": forwarder.withheld,
                "drops": drops,
            }
        )

    def _trouble(self, event: str, code: str, message: str, model: str | None = None) -> None:
        self._forwarder.note(self._voice.trouble(event, code, message, model))

    def _event(self, event: str, model: str | None = None, **detail: str | float) -> None:
        self._forwarder.note(self._voice.event(event, model, dict(detail)))

    # The end.

    def _end(self) -> bool:
        """Answer what is being answered, bring results to safety, say goodbye: under 5 s."""
        self._parts.notifier.stopping()
        log.info("stopping", inputs=sum(len(s.session.lane) for s in self._slots.values()))
        for slot in self._slots.values():
            slot.session.link.pause()
        until = self._clock.monotonic() + DRAIN_S
        self._turn()
        while self._dispatcher.running or not self._forwarder.idle:
            left_s = min(self._next(), until) - self._clock.monotonic()
            if self._clock.monotonic() >= until:
                break
            self._bell.wait(left_s)
            self._turn()
        # What was not begun stays unacknowledged: the broker sends it again.
        pools = [slot.pool for slot in self._slots.values() if slot.pool is not None]
        self._loader.end()
        for pool in pools:
            self._dispatcher.unbegun(pool.end())
        self._forwarder.flush(now=self._clock.monotonic())
        links = [slot.session.link for slot in self._slots.values()]
        for slot in self._slots.values():
            slot.session.acknowledge()
            slot.session.link.stop()
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
