"""The thread that loads models one after the other, while everything else goes on."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from edgeslm.adapters.process import trim
from edgeslm.agent.desired import Source
from edgeslm.agent.responder import Model
from edgeslm.contract.messages import ErrorInfo
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log

log = Log(__name__)
INTERNAL: Final = "internal"
NICER: Final = 10  # is a thread that loads than those who answer meanwhile
MAX_NICE: Final = 19
FREED_S: Final = 2.0  # for a model that is not needed any more to be gone
LET_GO_S: Final = 60.0  # and for one whose room another needs: for what it is answering
STUCK_S: Final = 3600.0  # at one model for so long, whatever its provider compiles: it hangs
POLL_S: Final = 0.01
ROOM_S: Final = 0.1  # between two looks whether the agent ends, while it is asked for room


class ModelMemoryError(UnavailableError):
    """There is not enough memory to load a model."""

    code = "model.memory"


class ModelHeldError(UnavailableError):
    """A model is still at an input, and this device cannot hold another one beside it."""

    code = "memory.held"


class _UnwantedError(Exception):
    """No fault: what is being loaded is not wanted any more."""


class Load(Protocol):
    """See `edgeslm.agent.parts.Parts.load`."""

    def __call__(  # noqa: PLR0913 -- by name
        self,
        name: str,
        source: Source,
        *,
        cache_entries: int,
        known: str | None,
        anew: bool,
        make_room: Callable[[str], None],
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


@dataclass(frozen=True, slots=True)
class LetGo:
    """What was let go so that another model can be loaded.

    Args:
        model: is gone once nobody holds it; None: there was none.
        source: where the one came from that served, with its hash; None: none did.
    """

    model: weakref.ref[Model] | None = None
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class RoomWanted:
    """What serves a model is to be let go: this device cannot hold another one beside it.

    Args:
        wanted: what is being loaded.
        source: from where.
        hash: of the bundle there.
        answer: takes what was let go; None: it is not to be loaded.
    """

    wanted: Wanted
    source: Source
    hash: str
    answer: Callable[[LetGo | None], None]


News = Loaded | Rechecked | RoomWanted


class Loader:
    """A thread that loads models one after the other, while everything else goes on.

    Args:
        load: does the work.
        done: takes what came of it, and asks for room, on the loader's thread.
    """

    def __init__(self, load: Load, done: Callable[[News], None]) -> None:
        self._load = load
        self._done = done
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._ended = False
        self._since: float | None = None  # at work
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
        self._jobs.put(partial(self._free, None if model is None else weakref.ref(model)))

    def give_way(self) -> None:
        """Leave the processors to those who answer, from the next one on."""
        self._jobs.put(_give_way)

    def end(self) -> None:
        """Begin no more."""
        self._ended = True
        self._jobs.put(None)

    @property
    def hangs(self) -> bool:
        """Whether it has ended unasked, or is at one model for too long."""
        since = self._since
        return not self._thread.is_alive() or (
            since is not None and time.monotonic() - since >= STUCK_S
        )

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._ended:
            self._since = time.monotonic()
            job()
            del job  # it may hold a model
            self._since = None

    def _load_one(self, wanted: Wanted) -> None:
        errors: list[ErrorInfo] = []
        room = _Room(wanted)
        with contextlib.suppress(_UnwantedError):
            sources = deque(wanted.sources)
            while sources:
                source = sources.popleft()
                if self._load_from(source, room, errors):
                    return
                if (held := room.held()) is not None:
                    self._done(Loaded(wanted, room.before, held, tuple(errors)))
                    return
                if not sources and room.before is not None:
                    sources.append(room.before)
                    room.before = None
            self._done(Loaded(wanted, None, None, tuple(errors)))

    def _load_from(self, source: Source, room: _Room, errors: list[ErrorInfo]) -> bool:
        """Load a bundle, or note why it cannot be.

        Raises:
            _UnwantedError: see there.
        """
        wanted = room.wanted
        serving = None if wanted.on_trial or room.made else wanted.serving
        known = None if serving is None or serving.path != source.path else serving.hash
        try:
            model = self._load(
                wanted.name,
                source,
                cache_entries=wanted.cache_entries,
                known=known,
                anew=wanted.on_trial,
                make_room=partial(self._make_room, room, source),
            )
        except _UnwantedError:
            raise
        except Exception as err:  # noqa: BLE001 -- a bundle must not end the agent
            errors.append(_told(wanted.name, err))
            return False
        self._done(Loaded(wanted, source, model, tuple(errors)))
        return True

    def _make_room(self, room: _Room, source: Source, found: str) -> None:
        """Have what serves let go, and wait until it is gone.

        Raises:
            ModelHeldError, _UnwantedError: see there.
        """
        answer: SimpleQueue[LetGo | None] = SimpleQueue()
        self._done(RoomWanted(room.wanted, source, found, answer.put))
        let_go: LetGo | None = None
        while not self._ended:
            with contextlib.suppress(Empty):
                let_go = answer.get(timeout=ROOM_S)
                break
        if let_go is None:
            raise _UnwantedError
        room.take(let_go)
        gone = self._free(let_go.model, within_s=LET_GO_S)
        if self._ended:
            raise _UnwantedError
        if not gone:
            msg = f"{room.wanted.name}: still at an input after {LET_GO_S:.0f} s"
            raise ModelHeldError(msg)

    def _free(self, last: weakref.ref[Model] | None, *, within_s: float = FREED_S) -> bool:
        """Give memory back to the system once a model is gone; return whether it is."""
        until = time.monotonic() + within_s
        while last is not None and last() is not None:
            if self._ended or time.monotonic() >= until:
                break
            time.sleep(POLL_S)  # somebody still answers by it
        trim()
        return last is None or last() is None

    def _recheck(self, name: str, model: Model) -> None:
        error = None
        try:
            model.replay_golden()
        except Exception as err:  # noqa: BLE001 -- as above
            error = _told(name, err)
        self._done(Rechecked(name, error))


class _Room:
    """What came of making room for one load: of the loader's thread.

    Args:
        wanted: what is loaded.

    Attributes:
        made: nothing serves any more.
        before: to be loaded again where nothing else can be; None: nothing served.
    """

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.made = False
        self.before: Source | None = None
        self._model: weakref.ref[Model] | None = None

    def take(self, let_go: LetGo) -> None:
        """Remember what was let go; the second time nothing is."""
        self.made = True
        if let_go.source is not None:
            self.before, self._model = let_go.source, let_go.model

    def held(self) -> Model | None:
        """Return the model that was let go, where somebody has never let it go."""
        return None if self._model is None or self.before is None else self._model()


def _told(name: str, err: Exception) -> ErrorInfo:
    if isinstance(err, EdgeSLMError):
        return {"code": err.code, "message": str(err)}
    if isinstance(err, MemoryError):
        return {"code": ModelMemoryError.code, "message": f"{name}: not enough memory for it"}
    log.fault("load_failed", err, model=name)
    return {"code": INTERNAL, "message": type(err).__name__}


def _give_way() -> None:
    """Lower the priority of this thread; where the system does not let us, it stays."""
    if sys.platform == "linux":  # elsewhere threads have none of their own
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(MAX_NICE, nice + NICER))
