"""Which models there are, which inputs each hears, and how both change while all goes on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from edgeslm.adapters.process import trim
from edgeslm.adapters.ring import Ring
from edgeslm.agent.dispatch import Dispatcher
from edgeslm.agent.models import Loaded, Loader, ModelSlot, failed_state, threads_of
from edgeslm.agent.retained import Retained
from edgeslm.agent.session import InputSession, Job, routes_of
from edgeslm.agent.workers import AbsentModel, Pool, Responder
from edgeslm.contract.messages import ErrorInfo, ModelState
from edgeslm.contract.settings import AgentSettings, ModelSettings
from edgeslm.core.delivery import Parcel
from edgeslm.errors import EdgeSLMError
from edgeslm.logs import Log
from edgeslm.ports import Clock, Sink, Subscribed, Transport

log = Log(__name__)
QUIET_S: Final = 3.0  # a model that is not wanted any more hears nothing for so long, and ends
MOVE_S: Final = 30.0  # old filters wait for new ones elsewhere no longer
RETRY_BASE_S: Final = 5.0  # until a model that failed to load is tried again; twice that, ...
RETRY_CAP_S: Final = 300.0
REJOIN_S: Final = 1.5  # for the old session of a model that comes again
FIXED: Final = (
    "device_id",
    "topic_root",
    "state_dir",
    "runtime_dir",
    "profile",
    "uplink",
    "input",
    "outbox",
    "log_level",
)


class RosterParts(Protocol):
    """What models are made of."""

    def input(self, settings: AgentSettings, model: str, sink: Sink) -> Transport[Parcel]:
        """Return the link of a model's input session."""

    def ring(self, model: str, *, unacknowledged: int) -> Ring:
        """Return the ring of a model's input session.

        Raises:
            RingUnavailableError: it cannot be made.
        """

    def retained(self, model: str) -> Retained:
        """Return what is known of the retained inputs that a model has answered."""

    def held(self, model: str, filters: frozenset[str]) -> None:
        """Remember which filters the broker holds for a model's input session."""

    def remembered(self) -> list[str]:
        """Models with a session that the broker may keep."""

    def forget(self, model: str) -> None:
        """Forget what is remembered of a model: it is gone."""


@dataclass(frozen=True, slots=True)
class Office:
    """What the roster needs of the agent.

    Args:
        clock: for times in results.
        sink: makes the sink of a model's link.
        pool: makes the threads of a model: name, how many, who answers.
        trouble: tells an event with an error: event, code, message, model.
        event: tells an event: event, model, detail.
    """

    clock: Clock
    sink: Callable[[str], Sink]
    pool: Callable[[str, int, Responder], Pool]
    trouble: Callable[[str, str, str, str | None], None]
    event: Callable[[str, str | None, Mapping[str, str | float]], None]


class Roster:
    """Owned by the agent's main thread.

    Args:
        settings: as at the start; `apply` makes them true.
        parts: see there.
        office: see there.
        loader: loads models; what comes of it is given to `take_load`.
        drops: counts messages that are not answered, by reason.

    Attributes:
        slots: the models that have a session, by name.
        pools: all threads that may still compute.
        changed: what `state` reports has changed; the reader resets it.
    """

    def __init__(
        self,
        settings: AgentSettings,
        parts: RosterParts,
        office: Office,
        *,
        loader: Loader,
        drops: Counter[str],
    ) -> None:
        self.slots: dict[str, ModelSlot] = {}
        self.pools: list[Pool] = []
        self.changed = False
        self.dispatcher = Dispatcher(self._put)
        self._started = settings
        self._parts = parts
        self._office = office
        self._loader = loader
        self._drops = drops
        self._topics = settings.topics
        self._unfit: dict[str, ErrorInfo] = {}  # models that could not even get a session
        self._leaving: dict[str, Transport[Parcel]] = {}  # of models that are gone
        self._awaited: set[tuple[str, str]] = set()  # (model, filter) asked for, not yet held
        self._move_until = 0.0
        self._retries: dict[str, tuple[int, float]] = {}  # failed models: times tried, when next

    @property
    def loading(self) -> bool:
        return any(slot.loading for slot in self.slots.values())

    def states(self) -> list[ModelState]:
        """Their parts of the `state` message."""
        states = [slot.state() for slot in self.slots.values()]
        return states + [failed_state(name, error) for name, error in self._unfit.items()]

    def due_at(self) -> list[float]:
        """When `tend` has something to do though nothing happens."""
        moments = [slot.quiet_until for slot in self.slots.values() if slot.retiring]
        moments += [at for _, at in self._retries.values()]
        return [self._move_until] if self._awaited else moments

    def begin(self) -> None:
        """Take up the models of the settings, and end the sessions of models that are gone."""
        self.apply(self._started)
        for name in self._parts.remembered():
            if name not in self._started.models:
                self._add(name, self._started, None)
        self._let_go()

    def keep_fixed(self, new: AgentSettings) -> tuple[AgentSettings, list[str]]:
        """Return what of `new` can be had without a restart, and which keys wait for one."""
        started = self._started
        wait = [key for key in FIXED if getattr(started, key) != getattr(new, key)]
        models = dict(new.models)
        for name, model in new.models.items():
            slot = self.slots.get(name)
            if slot is not None and slot.receive_maximum != model.receive_maximum:
                wait.append(f"models.{name}.receive_maximum")
                update = {"receive_maximum": slot.receive_maximum}
                models[name] = model.model_copy(update=update)
        kept: dict[str, object] = {key: getattr(started, key) for key in FIXED}
        return new.model_copy(update={**kept, "models": models}), wait

    def apply(self, settings: AgentSettings) -> None:
        """Make models and routes those of `settings`.

        Filters that are no longer wanted stay until the broker holds those that are new: what
        moves from one model to another is heard by both rather than by neither.
        """
        before = {name: slot.session.asked for name, slot in self.slots.items()}
        self._unfit.clear()
        for name, model in settings.models.items():
            if name not in self.slots:
                self._add(name, settings, model)
            else:
                self._want(self.slots[name], model)
        for name, slot in self.slots.items():
            slot.retiring = name not in settings.models
            # None of a model that is gone.
            slot.session.set_routes(routes_of(settings.routes, name), keep=True)
        self._awaited = {
            (name, topic)
            for name, slot in self.slots.items()
            for topic in slot.session.asked
            if topic not in before.get(name, ()) or (name, topic) in self._awaited
        }
        self._move_until = self._office.clock.monotonic() + MOVE_S
        self.changed = True
        if not self._awaited:
            self._let_go()

    def subscribed(self, slot: ModelSlot, report: Subscribed) -> None:
        """Take what the broker says of a model's filters."""
        name = slot.name
        self._parts.held(name, report.held)
        for topic in sorted(report.refused):
            self._office.trouble("subscription_refused", "input.refused", topic, name)
        if self._awaited:
            self._awaited -= {(name, topic) for topic in report.held | report.refused}
            if not self._awaited:
                self._let_go()

    def dispatch(self, slot: ModelSlot, jobs: Iterable[Job]) -> None:
        """Have inputs answered, now or when their model is there."""
        slot.quiet_until = self._office.clock.monotonic() + QUIET_S
        for job in jobs:
            if slot.pool is None:
                slot.backlog.append(job)
            else:
                self.dispatcher.take(job)

    def tend(self, now: float) -> None:
        """Do what is due."""
        if self._awaited:
            if now < self._move_until:
                return
            self._awaited.clear()
            self._let_go()
        for slot in list(self.slots.values()):
            if slot.retiring:
                self._retire(slot, now)
            elif slot.name in self._retries and now >= self._retries[slot.name][1]:
                self._retries[slot.name] = self._retries[slot.name][0], math.inf
                self._loader.want(slot.name, slot.wanted)

    def take_load(self, loaded: Loaded) -> None:
        """Put a loaded model to work, or say why it could not be loaded."""
        slot = self.slots.get(loaded.name)
        if slot is None or loaded.settings != slot.wanted:
            return  # gone, or newer settings wait for their turn
        told, slot.error = slot.error, loaded.error
        again, slot.loading = not slot.loading, False
        if loaded.error is None:
            self._retries.pop(slot.name, None)
            self._equip(slot, loaded)
        else:
            if not (again and told == loaded.error):
                self._office.trouble(
                    "model_failed", loaded.error["code"], loaded.error["message"], slot.name
                )
            if slot.responder is None:  # else the model before it serves
                self._retry_later(slot.name)
        self.changed = True
        if not self.loading:
            trim()

    def _retry_later(self, name: str) -> None:
        """Try a model that failed again: its bundle may come with a disk that is mounted late."""
        tried = self._retries.get(name, (0, 0.0))[0]
        pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(tried, 8))
        self._retries[name] = tried + 1, self._office.clock.monotonic() + pause_s

    def save(self) -> None:
        """Keep what is to outlive the process."""
        for slot in self.slots.values():
            slot.session.retained.save()

    def _add(self, name: str, settings: AgentSettings, model: ModelSettings | None) -> None:
        """Take up a model; None: only to end the session that it left behind."""
        if (old := self._leaving.pop(name, None)) is not None:
            old.join(REJOIN_S)  # its session has the same name: it would end the new one
        wanted = model or ModelSettings(bundle=settings.state_dir)
        try:
            session = InputSession(
                name,
                link=self._parts.input(settings, name, self._office.sink(name)),
                ring=self._parts.ring(name, unacknowledged=wanted.receive_maximum),
                own=f"{self._topics.base}/",
                drops=self._drops,
                retained=self._parts.retained(name),
            )
        except EdgeSLMError as err:
            self._unfit[name] = {"code": err.code, "message": str(err)}
            self._office.trouble("model_failed", err.code, str(err), name)
            return
        slot = self.slots[name] = ModelSlot(name, wanted, session)
        slot.retiring = slot.loading = False
        if model is None:
            slot.retiring = True
        else:
            self._want(slot, model)
            session.set_routes(routes_of(settings.routes, name))
        session.link.start()

    def _want(self, slot: ModelSlot, model: ModelSettings) -> None:
        slot.wanted = model
        self._retries.pop(slot.name, None)
        slot.dismiss_stand_in()
        slot.loading = slot.responder is None
        self._loader.want(slot.name, model, known=slot.known(model))

    def _let_go(self) -> None:
        """Leave the filters that only waited for others."""
        until = self._office.clock.monotonic() + QUIET_S
        for slot in self.slots.values():
            slot.session.let_go()
            slot.quiet_until = until

    def _retire(self, slot: ModelSlot, now: float) -> None:
        """End a model that is no longer wanted when it owes nothing and nothing more comes.

        What the broker held for it when we left its topics is still sent, a window at a time.
        """
        if slot.pool is None and not slot.loading:  # it failed: its inputs get to know
            stand_in = Responder(
                AbsentModel(slot.name),
                device=self._started.device_id,
                topic=self._topics.results(slot.name),
                clock=self._office.clock,
            )
            self._serve(slot, stand_in, slot.wanted)
        if len(slot.session.lane) or not slot.session.connected:
            slot.quiet_until = now + QUIET_S
        elif now >= slot.quiet_until:
            self._part(slot)

    def _part(self, slot: ModelSlot) -> None:
        """Let go of a model and of what the broker keeps for it."""
        del self.slots[slot.name]
        self._retries.pop(slot.name, None)
        self._leaving[slot.name] = slot.session.link
        if slot.pool is not None:
            slot.pool.stop()
        slot.session.link.stop(forget=True)
        self._parts.forget(slot.name)
        log.info("model_removed", model=slot.name)
        self.changed = True

    def _equip(self, slot: ModelSlot, loaded: Loaded) -> None:
        """Let a slot answer by what was loaded, or by what it has with other settings."""
        responder = slot.responder
        if loaded.model is not None:
            if responder is None:
                responder = Responder(
                    loaded.model,
                    device=self._started.device_id,
                    topic=self._topics.results(slot.name),
                    clock=self._office.clock,
                )
            responder.model = loaded.model
            version = loaded.model.ref["version"]
            self._office.event("model_loaded", slot.name, {"version": version})
        if responder is not None:
            self._serve(slot, responder, loaded.settings)

    def _serve(self, slot: ModelSlot, responder: Responder, settings: ModelSettings) -> None:
        threads = threads_of(settings)
        pool = slot.pool
        if pool is None or threads != threads_of(slot.settings):
            pool = self._office.pool(f"work {slot.name}", threads, responder)
            self.pools = [p for p in self.pools if p.alive] + [pool]
        slot.serve(responder, pool, settings)
        backlog, slot.backlog = slot.backlog, type(slot.backlog)()
        for job in backlog:
            self.dispatcher.take(job)

    def _put(self, job: Job) -> None:
        slot = self.slots[job.session.model]
        if slot.pool is None:  # dismissed meanwhile: its model is being loaded
            self.dispatcher.unbegun([job])
            slot.backlog.append(job)
        else:
            slot.pool.put(job)
