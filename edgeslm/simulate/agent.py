"""A device's agent, played: it answers by a scenario, and obeys the updater as the real one does.

What it says is what `edgeslm.agent` says in the same place: `tests/simulate` holds them together.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from edgeslm import __version__
from edgeslm.contract.control import (
    Commit,
    Configure,
    Done,
    Failed,
    Order,
    Report,
    Revert,
    ServingModel,
    Try,
)
from edgeslm.contract.messages import (
    SCHEMA_VERSION,
    ModelRef,
    ModelState,
    Result,
    State,
    Status,
    Timed,
    encode,
    event_of,
    stamp,
)
from edgeslm.contract.slots import SlotName, SlotTable
from edgeslm.contract.topics import Topics
from edgeslm.core import slots
from edgeslm.core.allowance import Allowance
from edgeslm.ports import Clock
from edgeslm.simulate.scenario import Behaviour
from edgeslm.updater.control import Control, OrderFailedError
from edgeslm.updater.voice import Send

GOLDEN: Final = "golden.failed"
OLD_VERSION: Final = "0.3.0"
CHANGES: Final = 12  # states told since something changed, within
CHANGES_S: Final = 60.0
QUIET_S: Final = 60.0  # without an answer there is no latency
_DAY_MINUTES: Final = 1440.0
_RSS_MB: Final = 120.0
_MANY: Final = 30  # from which a Poisson distribution is as good as normal
_ROUGH: Final = 0.05  # by which latencies differ from one minute to the next


@dataclass(slots=True)
class Counts:
    """What one agent has counted since it began."""

    answered: float = 0.0
    errors: float = 0.0
    alarms: float = 0.0


@dataclass(frozen=True, slots=True)
class Serving:
    """A bundle that answers."""

    version: int
    bundle: str
    slot: SlotName


@dataclass(frozen=True, slots=True)
class Nature:
    """What a device is, for good.

    Args:
        model: name.
        behaviour: of a version on it.
        profile: name of its device profile.
        provider: best of that.
        tags: of its settings.
        lying: it goes on to answer with what it had first.
        old: it speaks an older contract.
        installed: called with each version that it serves, and whether that is on trial.
    """

    model: str
    behaviour: Callable[[int], Behaviour]
    profile: str
    provider: str
    tags: Mapping[str, str]
    lying: bool = False
    old: bool = False
    installed: Callable[[int, bool], None] = lambda _version, _trial: None


@dataclass
class PlayedAgent(Control):
    """Takes the place of the connection to an agent, and of the agent at its other end.

    Args:
        topics: of the device.
        clock: of the device.
        nature: see there.
        table: the updater's slots, as an agent reads them when it starts.
        send: takes messages.
        chance: of this device.
    """

    topics: Topics
    clock: Clock
    nature: Nature
    table: Callable[[], SlotTable]
    send: Send
    chance: random.Random
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        super().__init__(Path())
        self._instance = secrets.token_hex(16)
        self._boot = secrets.token_hex(4)
        self._began = self._counted_at = self.clock.monotonic()
        held = slots.slots_of(self.table(), self.nature.model)
        active = slots.committed(held)
        self._serving: Serving | None = None
        if active is not None and held.active is not None:
            self._serving = Serving(active.version, active.bundle, held.active)
        self._first = self._serving
        self._before: Serving | None = None
        self.on_trial = False
        self._changed = False
        self._changes = Allowance(CHANGES, CHANGES_S)

    @property
    def due_at(self) -> float:
        """When to say that something has changed, monotonic seconds."""
        return self._changes.due_at() if self._changed else math.inf

    def close(self) -> None:
        """Nothing is open."""

    def begin(self, *, lived_before: bool) -> None:
        """Say what is running; what has lived before has answered for a day."""
        if lived_before and self._serving is not None:
            does = self.nature.behaviour(self._serving.version)
            self._began -= _DAY_MINUTES * 60
            self._add(does, does.answers_per_minute * _DAY_MINUTES)
        self._loaded()

    # The updater's side.

    def report(self, *, timeout_s: float = 0.0) -> Report:
        """See `edgeslm.updater.control.Control`; nobody waits here."""
        del timeout_s
        self._count()
        serving = self._serving
        p50, p99 = self._latency()
        model = ServingModel(
            model=self.nature.model,
            state="serving" if serving else "failed",
            bundle=serving.bundle if serving else None,
            version=serving.version if serving else None,
            trial=self.on_trial,
            answered=int(self.counts.answered),
            errors=int(self.counts.errors),
            p50_ms=p50,
            p99_ms=p99,
        )
        return Report(instance=self._instance, models=(model,))

    def order(self, order: Order, *, timeout_s: float) -> Done:
        """See `edgeslm.updater.control.Control`.

        Raises:
            OrderFailedError: the golden file does not pass.
        """
        del timeout_s
        self._count()
        match order:
            case Try():
                self._try(order)
            case Commit():
                if self.on_trial:
                    self.on_trial, self._before = False, None
                    self._event("trial_committed", {})
                    self._changed = True
            case Revert():
                self._revert()
            case Configure():
                error = {"code": "config.unfit", "message": "simulated devices take none"}
                raise OrderFailedError(Failed(do=order.do, error=error))  # type: ignore[arg-type]
            case _:
                pass
        return Done(do=order.do, model=getattr(order, "model", None))

    def _try(self, order: Try) -> None:
        held = slots.slot(slots.slots_of(self.table(), order.model), order.slot)
        assert held is not None  # noqa: S101 -- it is staged
        if not self.nature.behaviour(held.version).golden:
            message = "golden.jsonl: 3 of 40 lines answered otherwise than when it was exported"
            error = {"code": GOLDEN, "message": message}
            raise OrderFailedError(Failed(do=order.do, model=order.model, error=error))  # type: ignore[arg-type]
        if not self.on_trial:
            self._before = self._serving
        self._serving = Serving(held.version, held.bundle, order.slot)
        self.on_trial = True
        self._loaded()
        self._event("trial_begun", {"version": held.version, "slot": order.slot})

    def _revert(self) -> None:
        if self.on_trial:
            self.on_trial, self._serving, self._before = False, self._before, None
            self._loaded()
            self._event("trial_reverted", {})

    def _loaded(self) -> None:
        self._changed = True
        if self._serving is None:
            return
        self._event("model_loaded", {"version": self._serving.version, "slot": self._serving.slot})
        self.nature.installed(self._serving.version, self.on_trial)

    # What it says.

    def status(self, reason: Literal["running", "stopped"]) -> None:
        """Say that the device is there, or leaves."""
        status: Status = {
            "schema": SCHEMA_VERSION,
            "device": self.topics.device,
            "online": reason == "running",
            "reason": reason,
            "time": self.clock.wall(),
        }
        self._stamp(status)
        self.send(self.topics.status, encode(status), True)  # noqa: FBT003 -- retained

    def say_if_changed(self, now: float) -> None:
        """Say what is running where that has changed, unless it was said too often."""
        if self._changed and self._changes.take(now):
            self.say()

    def say(self) -> None:
        """Say what is running."""
        self._changed = False
        self._count()
        nature, now = self.nature, self.clock.monotonic()
        state: State = {
            "schema": SCHEMA_VERSION,
            "device": self.topics.device,
            "time": self.clock.wall(),
            "agent_version": OLD_VERSION if nature.old else __version__,
            "uptime_s": round(now - self._began, 3),
            "rss_mb": _RSS_MB,
            "models": [self._state()],
            "outbox": 0,
            "withheld": 0,
            "drops": {},
        }
        if not nature.old:
            state["outbox_alerts"], state["written_mb"] = 0, 0.0
            state["profile"] = nature.profile
            if nature.tags:
                state["tags"] = dict(nature.tags)
        self._stamp(state)
        self.send(self.topics.state, encode(state), True)  # noqa: FBT003 -- retained

    def result(self) -> None:
        """Give one answer that others see."""
        if (serving := self._shown()) is None:
            return
        does, chance, now = self.nature.behaviour(serving.version), self.chance, self.clock.wall()
        p50, p99 = self._latency()
        took = p50 if chance.random() < 0.99 else p99  # noqa: PLR2004 -- that is what p99 means
        ref: ModelRef = {
            "name": self.nature.model,
            "version": serving.version,
            "hash": serving.bundle,
        }
        result: Result = {
            "schema": SCHEMA_VERSION,
            "id": secrets.token_hex(16),
            "device": self.topics.device,
            "topic": "simulated",
            "source": None,
            "time_in": now,
            "time_out": now,
            "latency_ms": took or 0.0,
            "task": "anomaly",
            "model": ref,
        }
        if chance.random() < does.errors:
            result["error"] = {"code": "input.invalid", "message": "as the scenario says"}
        else:
            alarm = chance.random() < does.alarms
            result["label"] = "anomaly" if alarm else "normal"
            result["score"], result["p_value"] = (9.0, 0.001) if alarm else (1.0, 0.5)
        self._stamp(result)
        self.send(self.topics.results(self.nature.model), encode(result), False)  # noqa: FBT003

    def _shown(self) -> Serving | None:
        """Return what answers; a liar never has anything but what it had first."""
        return self._first if self.nature.lying else self._serving

    def _state(self) -> ModelState:
        old, counts, serving = self.nature.old, self.counts, self._shown()
        state: ModelState = {
            "name": self.nature.model,
            "state": "serving" if serving else "failed",
            "queue": 0,
            "answered": int(counts.answered),
            "errors": int(counts.errors),
            "expired": 0,
            "cache_hits": 0,
            "cache_misses": int(counts.answered),
        }
        if serving is not None:
            state["version"], state["hash"] = serving.version, serving.bundle
            state["task"], state["provider"] = "anomaly", self.nature.provider
            state["verified"], state["node_share"] = "none", 1.0
            state["slot"] = serving.slot
            if self.on_trial and not self.nature.lying:
                state["trial"] = True
        if not old:
            state["alarms"] = int(counts.alarms)
            p50, p99 = self._latency()
            if p50 is not None and p99 is not None:
                state["p50_ms"], state["p99_ms"] = round(p50, 3), round(p99, 3)
        return state

    def _event(self, event: str, detail: Mapping[str, str | int | float | bool]) -> None:
        now = self.clock.wall()
        message = event_of(self.topics.device, now, event, self.nature.model, None, detail)
        self._stamp(message)
        self.send(self.topics.events, encode(message), False)  # noqa: FBT003 -- not retained

    def _stamp(self, message: Timed) -> None:
        if not self.nature.old:
            mono = round(self.clock.monotonic(), 3)
            stamp(message, mono=mono, boot=self._boot, trust="synchronised")

    # How it does.

    def _latency(self) -> tuple[float | None, float | None]:
        if (serving := self._shown()) is None:
            return None, None
        does = self.nature.behaviour(serving.version)
        if does.answers_per_minute * QUIET_S / 60 < 1:
            return None, None
        rough = 1.0 + self.chance.uniform(-_ROUGH, _ROUGH)
        return does.p50_ms * rough, does.p99_ms * rough

    def _count(self) -> None:
        """Count what has been answered since the last time."""
        now = self.clock.monotonic()
        passed, self._counted_at = now - self._counted_at, now
        if (serving := self._shown()) is not None:
            does = self.nature.behaviour(serving.version)
            self._add(does, does.answers_per_minute * passed / 60)

    def _add(self, does: Behaviour, answers: float) -> None:
        errors = self._some(answers * does.errors)
        self.counts.errors += errors
        self.counts.answered += max(0.0, answers - errors)
        self.counts.alarms += self._some(answers * does.alarms)

    def _some(self, mean: float) -> float:
        """Return a number of independent things (Poisson), of which there are `mean` on average."""
        if mean > _MANY:
            return max(0.0, round(self.chance.gauss(mean, math.sqrt(mean))))
        found, left = 0, math.exp(-mean)
        while (left := left / max(self.chance.random(), 1e-12)) < 1.0:
            found += 1
        return found
