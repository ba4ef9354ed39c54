"""Which models there are, which inputs each hears, and how both change while all goes on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from edgeslm.agent.desired import Plan, Source
from edgeslm.agent.dispatch import Dispatcher
from edgeslm.agent.loader import LetGo, Loaded, Loader, RoomWanted, Wanted
from edgeslm.agent.models import ModelSlot, NoBundleError, failed_state, threads_of
from edgeslm.agent.parts import Office, RosterParts
from edgeslm.agent.responder import AbsentModel, Model, Responder
from edgeslm.agent.session import InputSession, Job, routes_of
from edgeslm.agent.workers import Pool
from edgeslm.contract.messages import ErrorInfo, ModelState
from edgeslm.contract.routes import ModelSettings
from edgeslm.contract.settings import AgentSettings
from edgeslm.core.delivery import Parcel
from edgeslm.core.pressure import Level, entries_at, is_paused
from edgeslm.errors import EdgeSLMError
from edgeslm.logs import Log
from edgeslm.ports import Subscribed, Transport
from edgeslm.runtime.bundle import BundleTamperedError

log = Log(__name__)
QUIET_S: Final = 3.0  # a model that is not wanted any more hears nothing for so long, and ends
MOVE_S: Final = 30.0  # old filters wait for new ones elsewhere no longer
RETRY_BASE_S: Final = 5.0  # until a model that failed to load is tried again; twice that, ...
RETRY_CAP_S: Final = 300.0
REJOIN_S: Final = 1.5  # for the old session of a model that comes again
LOOK_S: Final = 1.0  # between two looks at whether files of models were written to
FIXED: Final = (
    "device_id",
    "topic_root",
    "state_dir",
    "runtime_dir",
    "profile",
    "uplink",
    "input",
    "update",
    "log_level",
)


class Roster:
    """Owned by the agent's main thread.

    Args:
        settings: as at the start.
        parts: see there.
        office: see there.
        loader: loads models; what comes of it is given to `take_load`.
        drops: counts messages that are not answered, by reason.

    Attributes:
        slots: the models that have a session, by name.
        pools: all threads that may still compute.
        unfit: models that could not even get a session, and why.
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
        self.unfit: dict[str, ErrorInfo] = {}
        self.changed = False
        self.dispatcher = Dispatcher(self._put)
        self._level = Level.NONE
        self._started = settings
        self._parts = parts
        self._office = office
        self._loader = loader
        self._drops = drops
        self._topics = settings.topics
        self._leaving: dict[str, Transport[Parcel]] = {}  # of models that are gone
        self._awaited: set[tuple[str, str]] = set()  # (model, filter) asked for, not yet held
        self._move_until = 0.0
        self._look_at = 0.0
        self._retries: dict[str, tuple[int, float]] = {}  # failed models: times tried, when next

    @property
    def loading(self) -> bool:
        return any(slot.loading for slot in self.slots.values())

    def states(self) -> list[ModelState]:
        """Their parts of the `state` message."""
        now, wall = self._office.clock.monotonic(), self._office.clock.wall()
        states = [slot.state(now, wall=wall) for slot in self.slots.values()]
        return states + [failed_state(name, error) for name, error in self.unfit.items()]

    def served(self) -> dict[str, str]:
        """Return the hash of the bundle that answers, by model."""
        slots = self.slots.items()
        return {name: slot.serving.hash or "" for name, slot in slots if slot.serving}

    def press(self, level: Level) -> None:
        """Let those models' inputs wait that are to at this level, and no others."""
        self._level = level
        for slot in self.slots.values():
            self._weigh(slot)
        self.changed = True

    def _weigh(self, slot: ModelSlot) -> None:
        """Let a model's inputs wait, or no longer, and its cache be as large as it may be."""
        responder = slot.responder
        if responder is None:  # they wait for it
            return
        responder.model.resize(entries_at(self._level, slot.settings.cache_entries))
        # What owes answers before it ends, gives them.
        ends = slot.retiring or slot.stands_in
        task = responder.model.task
        paused = not ends and is_paused(self._level, task=task, lanes=slot.session.lanes)
        if paused == slot.paused:
            return
        slot.paused = paused
        self.changed = True
        now = self._office.clock.monotonic()
        if paused:
            slot.latencies.halt(now)
        else:
            slot.latencies.resume(now)
            self._take_up(slot)

    def _take_up(self, slot: ModelSlot) -> None:
        """Have answered what has waited for its model."""
        backlog, slot.backlog = slot.backlog, type(slot.backlog)()
        for job in backlog:
            self.dispatcher.take(job)

    def due_at(self) -> list[float]:
        """When `tend` has something to do though nothing happens."""
        moments = [slot.quiet_until for slot in self.slots.values() if slot.retiring]
        moments += [at for _, at in self._retries.values()]
        return [self._move_until] if self._awaited else moments

    def begin(self, plan: Plan) -> None:
        """Take up the models of the plan, and end the sessions of models that are gone."""
        self.apply(plan)
        for name in self._parts.remembered():
            if name not in plan.settings.models:
                self._add(name, plan, None)
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

    def apply(self, plan: Plan, *, look: bool = True) -> None:
        """Make models and routes those of the plan.

        With `look` bundles that lie where they lay are looked at too: they may be others by now.

        Filters that are no longer wanted stay until the broker holds those that are new: what
        moves from one model to another is heard by both rather than by neither.
        """
        before = {name: slot.session.asked for name, slot in self.slots.items()}
        self.unfit.clear()
        for name, model in plan.settings.models.items():
            if name not in self.slots:
                self._add(name, plan, model)
            else:
                self._want(self.slots[name], model, plan.sources[name], look=look)
        for name, slot in self.slots.items():
            slot.retiring = name not in plan.settings.models
            # None of a model that is gone.
            slot.session.set_routes(routes_of(plan.settings.routes, name), keep=True)
            self._weigh(slot)
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
            if slot.pool is None or slot.paused:
                slot.backlog.append(job)
            else:
                self.dispatcher.take(job)

    def tend(self, now: float) -> None:
        """Do what is due."""
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            for slot in self.slots.values():
                self._hold_to_its_files(slot)
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
                self._loader.want(self._wanted(slot))

    def take_load(self, loaded: Loaded) -> None:
        """Put a loaded model to work, or say why it could not be loaded."""
        slot = self.slots.get(loaded.wanted.name)
        if slot is None or not self._is_due(slot, loaded.wanted):
            return
        if loaded.source is not None and loaded.model is None and slot.serving is None:
            return  # what served already was let go since, and is looked for again
        told, slot.error = slot.error, loaded.errors[0] if loaded.errors else None
        again, slot.loading = not slot.loading, False
        before: Model | None = None
        is_news = slot.error is not None and not (again and told == slot.error)
        if loaded.source is not None:
            if loaded.model is not None:
                before = self.equip(slot, loaded.model, loaded.source)
            if is_news:
                self._fell_back(slot, loaded.source)
        else:
            if is_news:
                self._failed(slot)
            if slot.responder is None:  # else the model before it serves
                self._retry_later(slot.name)
        self.changed = True
        if not self.loading and (loaded.model is not None or loaded.errors):
            self._loader.free(before)

    def make_room(self, room: RoomWanted) -> LetGo | None:
        """Let go of what serves a model; None: what is to take its place is not wanted."""
        wanted = room.wanted
        slot = self.slots.get(wanted.name)
        if slot is None:
            return None
        serving = slot.serving
        if not wanted.on_trial:
            asked = room.source.path, room.hash
            serves = serving is not None and (serving.path, serving.hash) == asked
            if serves or not self._is_due(slot, wanted):
                return None
        self.silence(slot)
        slot.trial, slot.loading = None, True
        self.changed = True
        return LetGo(slot.let_go, serving)

    def silence(self, slot: ModelSlot) -> None:
        """Let inputs wait; what was begun is finished."""
        if slot.responder is None:
            return
        log.info("model_let_go", model=slot.name)
        left = slot.silence(self._office.clock.monotonic())
        self.dispatcher.unbegun(left)
        slot.backlog.extend(left)

    def _hold_to_its_files(self, slot: ModelSlot) -> None:
        """Let inputs wait where a model's files are no longer those that were hashed; load it anew.

        One on trial is asked for its golden file, and goes by that.
        """
        if slot.responder is None or slot.trial is not None:
            return
        if (file := slot.responder.model.overwritten()) is None:
            return
        why = f"{file}: was written to while it served: its inputs wait until it is right again"
        self._office.trouble("model_overwritten", BundleTamperedError.code, why, slot.name)
        self.silence(slot)
        if not slot.retiring:
            self.look(slot)
        self.changed = True

    @staticmethod
    def _is_due(slot: ModelSlot, wanted: Wanted) -> bool:
        """Whether that is still to serve: else another is to, or does, on trial."""
        return slot.trial is None and wanted.sources == slot.sources

    def equip(self, slot: ModelSlot, model: Model, source: Source) -> Model | None:
        """Let a model answer from the next input on; return the one that it takes the place of."""
        before = None if slot.serving is None or not slot.responder else slot.responder.model
        slot.source, slot.loading, slot.let_go = source, False, None
        self._retries.pop(slot.name, None)
        slot.latencies.clear()
        if not slot.paused:
            slot.latencies.resume(self._office.clock.monotonic())
        memory = self._office.memory(slot.name, model)
        if slot.responder is None:
            responder = Responder(
                model,
                memory,
                device=self._started.device_id,
                topic=self._topics.results(slot.name),
                clock=self._office.clock,
            )
            self._serve(slot, responder)
        else:
            slot.responder.equip(model, memory)
        self._weigh(slot)  # settings and level may have changed while it was loaded
        ref = model.ref
        watched = slot.watch.begin(
            bundle=ref["hash"], task=model.task, version=ref["version"], trained=model.trained
        )
        for told, about in watched:
            self._office.event(told, slot.name, about)
        detail: dict[str, str | float] = {"version": model.ref["version"]}
        if source.slot is not None:
            detail["slot"] = source.slot
        self._office.event("model_loaded", slot.name, detail)
        self.changed = True
        return before

    def look(self, slot: ModelSlot) -> None:
        """Load the best bundle that a model has now, unless it serves already."""
        self._retries.pop(slot.name, None)
        slot.loading = slot.responder is None
        if slot.sources:
            self._loader.want(self._wanted(slot))
            return
        slot.loading = False
        if slot.responder is None:
            why = f"models.{slot.name} names no bundle, and the updater has not brought one"
            told, slot.error = slot.error, {"code": NoBundleError.code, "message": why}
            if told != slot.error:
                self._failed(slot)

    def bring_back(self, slot: ModelSlot) -> None:
        """Load what a model that is to go was let go of for; others are seen to by `apply`."""
        if slot.retiring and slot.responder is None:
            slot.loading = bool(slot.sources)
            if slot.sources:
                self._loader.want(self._wanted(slot))

    def _failed(self, slot: ModelSlot) -> None:
        assert slot.error is not None  # noqa: S101 -- set by both callers
        self._office.trouble("model_failed", slot.error["code"], slot.error["message"], slot.name)

    def _fell_back(self, slot: ModelSlot, source: Source) -> None:
        assert slot.error is not None  # noqa: S101 -- set by the caller
        why = f"served from {source}, since: {slot.error['message']}"
        self._office.trouble("model_fell_back", slot.error["code"], why, slot.name)

    def _retry_later(self, name: str) -> None:
        """Try a model that failed again: its bundle may come with a disk that is mounted late."""
        tried = self._retries.get(name, (0, 0.0))[0]
        pause_s = min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(tried, 8))
        self._retries[name] = tried + 1, self._office.clock.monotonic() + pause_s

    def save(self) -> None:
        """Keep what is to outlive the process."""
        for slot in self.slots.values():
            slot.session.retained.save()

    def _add(self, name: str, plan: Plan, model: ModelSettings | None) -> None:
        """Take up a model; None: only to end the session that it left behind."""
        if (old := self._leaving.pop(name, None)) is not None:
            old.join(REJOIN_S)  # its session has the same name: it would end the new one
        wanted = model or ModelSettings()
        try:
            session = InputSession(
                name,
                link=self._parts.input(plan.settings, name, self._office.sink(name)),
                ring=self._parts.ring(name, unacknowledged=wanted.receive_maximum),
                own=f"{self._topics.base}/",
                drops=self._drops,
                retained=self._parts.retained(name),
            )
        except EdgeSLMError as err:
            self.unfit[name] = {"code": err.code, "message": str(err)}
            self._office.trouble("model_failed", err.code, str(err), name)
            return
        slot = self.slots[name] = ModelSlot(name, wanted, session)
        slot.retiring = slot.loading = False
        if model is None:
            slot.retiring = True
        else:
            self._want(slot, model, plan.sources[name], look=True)
            session.set_routes(routes_of(plan.settings.routes, name))
        session.link.start()

    def _want(
        self, slot: ModelSlot, model: ModelSettings, sources: tuple[Source, ...], *, look: bool
    ) -> None:
        before, slot.settings = slot.settings, model
        slot.watch.live_by(model)
        look = look or sources != slot.sources
        slot.sources = sources
        if slot.stands_in:
            self.silence(slot)
        responder = slot.responder
        if responder is not None:
            self._weigh(slot)
            if threads_of(model) != threads_of(before):
                self._serve(slot, responder)
        if slot.trial is None and (look or responder is None):
            self.look(slot)

    @staticmethod
    def _wanted(slot: ModelSlot) -> Wanted:
        return Wanted(slot.name, slot.sources, slot.settings.cache_entries, serving=slot.serving)

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
            self._serve(slot, stand_in)
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

    def _serve(self, slot: ModelSlot, responder: Responder) -> None:
        """Let `responder` answer by threads of its own, what waits first."""
        threads = threads_of(slot.settings)
        pool = self._office.pool(f"work {slot.name}", threads, responder)
        self.pools = [p for p in self.pools if p.alive] + [pool]
        slot.serve(responder, pool)
        self._weigh(slot)
        if not slot.paused:
            self._take_up(slot)

    def _put(self, job: Job) -> None:
        slot = self.slots[job.session.model]
        if slot.pool is None or slot.responder is None:  # dismissed: its model is being loaded
            self.dispatcher.unbegun([job])
            slot.backlog.append(job)
        else:
            slot.responder.begin(job)
            slot.pool.put(job)
