"""One model on this device: loading, serving or failed, with its input session."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from edgeslm.adapters.process import cores
from edgeslm.agent.desired import Source
from edgeslm.agent.latencies import QUANTILES, Latencies
from edgeslm.agent.responder import AbsentModel, Model, Responder
from edgeslm.agent.session import InputSession, Job
from edgeslm.agent.watch import Watch
from edgeslm.agent.workers import Pool
from edgeslm.contract.messages import ErrorInfo, ModelState
from edgeslm.contract.routes import ModelSettings
from edgeslm.core.support import has_ended
from edgeslm.errors import UnavailableError
from edgeslm.ports import Memory
from edgeslm.runtime.coverage import coverage_state


class NoBundleError(UnavailableError):
    """The settings name no bundle for a model, and the updater has not brought one yet."""

    code = "model.no_bundle"


@dataclass(frozen=True, slots=True)
class Trial:
    """A bundle that serves a model and is not committed.

    Args:
        before: what served before it, and where that came from; None: nothing did, or it was let
            go for this one and is to be loaded again.
    """

    before: tuple[Model, Source] | None


class ModelSlot:
    """Owned by the agent's main thread.

    Args:
        name: key of [models].
        settings: those it lives by.
        session: where its inputs come from.

    Attributes:
        sources: where its bundle may come from, best first.
        receive_maximum: of its session, for as long as that lives.
        responder: None until the model was loaded once.
        source: where the model came from that answers.
        trial: None: what answers is committed.
        backlog: inputs that wait for the model.
        counts: "answered", "error", "expired"; of those answered, "alarm".
        latencies: of the model that answers.
        watch: tells whether that drifts.
        error: why the best source does not serve; None where it does.
        let_go: what served before it was silenced; may still be at an input.
        paused: its inputs wait: the device is hard pressed.
        retiring: no longer in the settings: answers what still comes, and ends.
        quiet_until: then, if it owes nothing and hears nothing before.
    """

    def __init__(self, name: str, settings: ModelSettings, session: InputSession) -> None:
        self.name = name
        self.settings = settings
        self.sources: tuple[Source, ...] = ()
        self.receive_maximum = settings.receive_maximum
        self.session = session
        self.responder: Responder | None = None
        self.pool: Pool | None = None
        self.source: Source | None = None
        self.trial: Trial | None = None
        self.loading = True
        self.error: ErrorInfo | None = None
        self.backlog: deque[Job] = deque()
        self.counts: Counter[str] = Counter()
        self.latencies = Latencies()
        self.watch = Watch(settings)
        self.let_go: weakref.ref[Model] | None = None
        self.paused = False
        self.retiring = False
        self.quiet_until = 0.0

    @property
    def serving(self) -> Source | None:
        """Where the model came from that answers, with its hash; None where none does."""
        if self.responder is None or self.source is None:
            return None
        return replace(self.source, hash=self.responder.model.ref["hash"])

    @property
    def memory(self) -> Memory | None:
        """What the model that answers remembers; None where none does, or it remembers nothing."""
        return None if self.responder is None else self.responder.memory

    def serve(self, responder: Responder, pool: Pool) -> None:
        """Answer by these from now on; what was begun is finished by the old ones."""
        if self.pool is not None and self.pool is not pool:
            self.pool.stop()
        self.responder = responder
        self.pool = pool

    def teach(self, lesson: Callable[[Memory], None]) -> bool:
        """Let `lesson` change what the model remembers, after the inputs it was given so far.

        Returns:
            Whether there is a model that remembers.
        """
        if self.responder is None or self.pool is None:
            return False
        if (taught := self.responder.lesson(lesson)) is None:
            return False
        self.pool.put(taught)
        return True

    @property
    def stands_in(self) -> bool:
        """Whether inputs are refused for want of a model."""
        return self.responder is not None and isinstance(self.responder.model, AbsentModel)

    @property
    def behind(self) -> bool:
        """Whether inputs wait for a worker."""
        return self.pool is not None and self.pool.waiting

    def silence(self, now: float) -> list[Job]:
        """Answer no more: what was begun is finished, and what was not is returned."""
        left = [] if self.pool is None else self.pool.withdraw()
        if self.responder is not None:
            self.let_go = weakref.ref(self.responder.model)
            self.latencies.halt(now)
        self.pool = self.responder = self.source = None
        return left

    def state(self, now: float, *, wall: float) -> ModelState:
        """Its part of the `state` message; `now` in monotonic seconds, `wall` since 1970."""
        state: ModelState = {
            "name": self.name,
            "state": "loading" if self.loading else "serving" if self.responder else "failed",
            "queue": len(self.session.lane),
            "answered": self.counts["answered"],
            "alarms": self.counts["alarm"],
            "errors": self.counts["error"],
            "expired": self.counts["expired"],
            "cache_hits": 0,
            "cache_misses": 0,
        }
        if self.responder is not None:
            model = self.responder.model
            state["version"] = model.ref["version"]
            state["hash"] = model.ref["hash"]
            state["task"] = model.task
            state["provider"] = model.provider
            state["verified"] = model.verified
            state["node_share"] = model.node_share
            if model.variant is not None:
                state["variant"] = model.variant
            if self.source is not None and self.source.slot is not None:
                state["slot"] = self.source.slot
            if self.trial is not None:
                state["trial"] = True
            if model.coverage is not None:
                state["coverage"] = coverage_state(model.provider, model.coverage)
            if model.passed_over:
                state["passed_over"] = list(model.passed_over)
            _tell_support(state, model.supported_until, wall)
            if (memory := self.memory) is not None:
                state["memory"] = memory.counts()
            state["cache_hits"] = model.cache_hits
            state["cache_misses"] = model.cache_misses
            _tell_share(state, model.handed_over)
            _tell_drift(state, self.watch)
        if (took := self.latencies.quantiles_ms(QUANTILES, now=now)) is not None:
            state["p50_ms"], state["p99_ms"] = (round(ms, 3) for ms in took)
        self._tell_queue(state, now)
        if self.error is not None:
            state["error"] = self.error
        return state

    def _tell_queue(self, state: ModelState, now: float) -> None:
        if self.paused:
            state["paused"] = True
        if (oldest := self.session.lane.oldest) is not None:
            state["oldest_s"] = round(max(0.0, now - oldest.message.received_at), 3)


def _tell_share(state: ModelState, handed_over: float | None) -> None:
    if handed_over is not None:
        state["handed_over"] = round(handed_over, 4)


def _tell_support(state: ModelState, until: str | None, wall: float) -> None:
    if until is not None:
        state["supported_until"] = until
        if has_ended(until, wall=wall):
            state["unsupported"] = True


def _tell_drift(state: ModelState, watch: Watch) -> None:
    if (drift := watch.state()) is not None:
        state["drift"] = drift


def failed_state(name: str, error: ErrorInfo) -> ModelState:
    """The part of the `state` message of a model that has no session."""
    return {
        "name": name,
        "state": "failed",
        "error": error,
        "queue": 0,
        "answered": 0,
        "alarms": 0,
        "errors": 0,
        "expired": 0,
        "cache_hits": 0,
        "cache_misses": 0,
    }


def threads_of(settings: ModelSettings) -> int:
    """Worker threads of a model: as set, or one for each core we may use."""
    return settings.workers or cores()
