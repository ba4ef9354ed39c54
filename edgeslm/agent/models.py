"""One model on this device: loading, serving or failed, with its input session."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from edgeslm.adapters.process import cores
from edgeslm.agent.session import InputSession, Job
from edgeslm.agent.workers import AbsentModel, Model, Pool, Responder
from edgeslm.contract.messages import ErrorInfo, ModelState
from edgeslm.contract.settings import ModelSettings
from edgeslm.errors import EdgeSLMError
from edgeslm.logs import Log
from edgeslm.runtime.coverage import coverage_state

log = Log(__name__)
INTERNAL: Final = "internal"

Load = Callable[[str, ModelSettings, str | None], Model | None]
"""See `edgeslm.agent.agent.Parts.load`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading one model: the model, or an error; neither where nothing changed."""

    name: str
    settings: ModelSettings
    model: Model | None
    error: ErrorInfo | None = None


class Loader:
    """A thread that loads models one after the other, while everything else goes on.

    Args:
        load: does the work.
        done: takes what came of it, on the loader's thread.
    """

    def __init__(self, load: Load, done: Callable[[Loaded], None]) -> None:
        self._load = load
        self._done = done
        self._wanted: SimpleQueue[tuple[str, ModelSettings, str | None] | None] = SimpleQueue()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self._thread.start()

    def want(self, name: str, settings: ModelSettings, *, known: str | None = None) -> None:
        """Load this one too, unless its bundle has the hash `known`."""
        self._wanted.put((name, settings, known))

    def end(self) -> None:
        """Begin no more."""
        self._ended = True
        self._wanted.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (wanted := self._wanted.get()) is not None and not self._ended:
            name, settings, known = wanted
            try:
                report = Loaded(name, settings, self._load(name, settings, known))
            except EdgeSLMError as err:
                report = Loaded(name, settings, None, {"code": err.code, "message": str(err)})
            except Exception as err:  # noqa: BLE001 -- a bundle must not end the agent
                log.fault("load_failed", err, model=name)
                report = Loaded(
                    name, settings, None, {"code": INTERNAL, "message": type(err).__name__}
                )
            self._done(report)


class ModelSlot:
    """Owned by the agent's main thread.

    Args:
        name: key of [models].
        settings: those it answers by.
        session: where its inputs come from.

    Attributes:
        wanted: the newest settings; those it answers by, once they are loaded.
        receive_maximum: of its session, for as long as that lives.
        responder: None until the model was loaded once.
        backlog: inputs that wait for the model.
        counts: "answered", "error", "expired".
        retiring: no longer in the settings: answers what still comes, and ends.
        quiet_until: then, if it owes nothing and hears nothing before.
    """

    def __init__(self, name: str, settings: ModelSettings, session: InputSession) -> None:
        self.name = name
        self.settings = settings
        self.wanted = settings
        self.receive_maximum = settings.receive_maximum
        self.session = session
        self.responder: Responder | None = None
        self.pool: Pool | None = None
        self.loading = True
        self.error: ErrorInfo | None = None
        self.backlog: deque[Job] = deque()
        self.counts: Counter[str] = Counter()
        self.retiring = False
        self.quiet_until = 0.0

    def serve(self, responder: Responder, pool: Pool, settings: ModelSettings) -> None:
        """Answer by these from now on; what was begun is finished by the old ones."""
        if self.pool is not None and self.pool is not pool:
            self.pool.stop()
        self.responder = responder
        self.pool = pool
        self.settings = settings

    def dismiss_stand_in(self) -> None:
        """Let inputs wait again, where they were refused for want of a model."""
        responder = self.responder
        if self.pool is not None and responder and isinstance(responder.model, AbsentModel):
            self.pool.stop()
            self.pool = self.responder = None

    def known(self, settings: ModelSettings) -> str | None:
        """Hash of the bundle that need not be loaded again for `settings`; None if it must be."""
        same = (settings.bundle, settings.cache_entries) == (
            self.settings.bundle,
            self.settings.cache_entries,
        )
        return self.responder.model.ref["hash"] if self.responder is not None and same else None

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
