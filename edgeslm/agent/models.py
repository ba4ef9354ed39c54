"""One model on this device: loading, serving or failed, with its input session."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from typing import Final, Protocol

from edgeslm.adapters.process import cores, trim
from edgeslm.agent.desired import Source
from edgeslm.agent.latencies import Latencies
from edgeslm.agent.session import InputSession, Job
from edgeslm.agent.workers import AbsentModel, Model, Pool, Responder
from edgeslm.contract.messages import ErrorInfo, ModelState
from edgeslm.contract.settings import ModelSettings
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log
from edgeslm.runtime.coverage import coverage_state

log = Log(__name__)
INTERNAL: Final = "internal"
NICER: Final = 10  # is a thread that loads than those who answer meanwhile
MAX_NICE: Final = 19
FREED_S: Final = 2.0  # for a model that is not needed any more to be gone
POLL_S: Final = 0.01


class NoBundleError(UnavailableError):
    """The settings name no bundle for a model, and the updater has not brought one yet."""

    code = "model.no_bundle"


class ModelMemoryError(UnavailableError):
    """There is not enough memory to load a model."""

    code = "model.memory"


class Load(Protocol):
    """See `edgeslm.agent.parts.Parts.load`."""

    def __call__(
        self, name: str, source: Source, *, cache_entries: int, known: str | None, anew: bool
    ) -> Model | None: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model that is to be loaded.

    Args:
        name: key of [models].
        sources: where its bundle may come from, best first; at least one.
        cache_entries: model outputs that it keeps.
        serving: what serves now, with its hash: not loaded again. None: nothing does.
        on_trial: load it all the same, and replay its golden file whatever is remembered.
    """

    name: str
    sources: tuple[Source, ...]
    cache_entries: int
    serving: Source | None = None
    on_trial: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it.

    Args:
        wanted: what was asked for.
        source: that served; None where none did.
        model: None where it serves already, or `source` is None.
        errors: of the sources before it, or of all.
    """

    wanted: Wanted
    source: Source | None
    model: Model | None
    errors: tuple[ErrorInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Rechecked:
    """What came of replaying a model's golden file once more.

    Args:
        name: key of [models].
        error: None: it passed.
    """

    name: str
    error: ErrorInfo | None


class Loader:
    """A thread that loads models one after the other, while everything else goes on.

    Args:
        load: does the work.
        done: takes what came of it, on the loader's thread.
    """

    def __init__(self, load: Load, done: Callable[[Loaded | Rechecked], None]) -> None:
        self._load = load
        self._done = done
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def want(self, wanted: Wanted) -> None:
        """Load this one too."""
        self._jobs.put(partial(self._load_one, wanted))

    def recheck(self, name: str, model: Model) -> None:
        """Replay the golden file of `model`, which serves meanwhile."""
        self._jobs.put(partial(self._recheck, name, model))

    def free(self, model: Model | None) -> None:
        """Give memory back to the system, once nobody holds `model` any more."""
        self._jobs.put(partial(_free, None if model is None else weakref.ref(model)))

    def give_way(self) -> None:
        """Leave the processors to those who answer, from the next one on."""
        self._jobs.put(_give_way)

    def end(self) -> None:
        """Begin no more."""
        self._ended = True
        self._jobs.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._ended:
            job()
            del job  # it may hold a model

    def _load_one(self, wanted: Wanted) -> None:
        errors: list[ErrorInfo] = []
        for source in wanted.sources:
            serving = None if wanted.on_trial else wanted.serving
            known = None if serving is None or serving.path != source.path else serving.hash
            try:
                model = self._load(
                    wanted.name,
                    source,
                    cache_entries=wanted.cache_entries,
                    known=known,
                    anew=wanted.on_trial,
                )
            except Exception as err:  # noqa: BLE001 -- a bundle must not end the agent
                errors.append(_told(wanted.name, err))
            else:
                self._done(Loaded(wanted, source, model, tuple(errors)))
                return
        self._done(Loaded(wanted, None, None, tuple(errors)))

    def _recheck(self, name: str, model: Model) -> None:
        error = None
        try:
            model.replay_golden()
        except Exception as err:  # noqa: BLE001 -- as above
            error = _told(name, err)
        self._done(Rechecked(name, error))


def _told(name: str, err: Exception) -> ErrorInfo:
    if isinstance(err, EdgeSLMError):
        return {"code": err.code, "message": str(err)}
    if isinstance(err, MemoryError):
        return {"code": ModelMemoryError.code, "message": f"{name}: not enough memory for it"}
    log.fault("load_failed", err, model=name)
    return {"code": INTERNAL, "message": type(err).__name__}


def _free(last: weakref.ref[Model] | None) -> None:
    until = time.monotonic() + FREED_S
    while last is not None and last() is not None and time.monotonic() < until:
        time.sleep(POLL_S)  # somebody still answers by it
    trim()


def _give_way() -> None:
    """Lower the priority of this thread; where the system does not let us, it stays."""
    if sys.platform == "linux":  # elsewhere threads have none of their own
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(MAX_NICE, nice + NICER))


@dataclass(frozen=True, slots=True)
class Trial:
    """A bundle that serves a model and is not committed.

    Args:
        before: what served before it, and where that came from; None: nothing did.
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
        counts: "answered", "error", "expired".
        latencies: of the model that answers.
        error: why the best source does not serve; None where it does.
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
        self.retiring = False
        self.quiet_until = 0.0

    @property
    def serving(self) -> Source | None:
        """Where the model came from that answers, with its hash; None where none does."""
        if self.responder is None or self.source is None:
            return None
        return replace(self.source, hash=self.responder.model.ref["hash"])

    def serve(self, responder: Responder, pool: Pool) -> None:
        """Answer by these from now on; what was begun is finished by the old ones."""
        if self.pool is not None and self.pool is not pool:
            self.pool.stop()
        self.responder = responder
        self.pool = pool

    def silence(self) -> None:
        """Let inputs wait; what was begun is finished."""
        if self.pool is not None:
            self.pool.stop()
        self.pool = self.responder = self.source = None

    def dismiss_stand_in(self) -> None:
        """Let inputs wait again, where they were refused for want of a model."""
        if self.responder is not None and isinstance(self.responder.model, AbsentModel):
            self.silence()

    def state(self) -> ModelState:
        """Its part of the `state` message."""
        state: ModelState = {
            "name": self.name,
            "state": "loading" if self.loading else "serving" if self.responder else "failed",
            "queue": len(self.session.lane),
            "answered": self.counts["answered"],
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
            state["cache_hits"] = model.cache_hits
            state["cache_misses"] = model.cache_misses
        if self.error is not None:
            state["error"] = self.error
        return state


def failed_state(name: str, error: ErrorInfo) -> ModelState:
    """The part of the `state` message of a model that has no session."""
    return {
        "name": name,
        "state": "failed",
        "error": error,
        "queue": 0,
        "answered": 0,
        "errors": 0,
        "expired": 0,
        "cache_hits": 0,
        "cache_misses": 0,
    }


def threads_of(settings: ModelSettings) -> int:
    """Worker threads of a model: as set, or one for each core we may use."""
    return settings.workers or cores()
