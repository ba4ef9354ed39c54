"""How agent and device are: pressure, growth of memory, threads that hang, crashes before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from edgeslm.adapters.process import give_back, rss_mb, written_mb
from edgeslm.adapters.stacks import of_thread
from edgeslm.agent.loader import Loader
from edgeslm.agent.parts import Office, Parts
from edgeslm.agent.roster import Roster
from edgeslm.contract.messages import State
from edgeslm.contract.profile import PressureLimits
from edgeslm.contract.settings import PressureSettings
from edgeslm.core.delivery import Parcel
from edgeslm.core.growth import Growth
from edgeslm.core.pressure import CAUSES, Level, Limits, Pressure, Reading, unjudged
from edgeslm.core.wear import Wear
from edgeslm.ports import Transport

STUCK_S: Final = 60.0  # at one input, or those taken with it, for so long: the watchdog is not fed
LOOK_S: Final = 5.0  # between two looks at threads
SILENT_S: Final = 180.0  # a link's thread, which looks up names and connects, in seconds
WEIGH_S: Final = 60.0  # between two readings of our memory
SHOWN: Final = 12  # positions of a stack that an event names


class Vitals:
    """Owned by the agent's main thread.

    Args:
        parts: see there.
        office: see there.
        roster: whose inputs wait under pressure.
        ring: wakes the main thread.
    """

    def __init__(
        self, parts: Parts, office: Office, roster: Roster, ring: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._office = office
        self._roster = roster
        self._ring = ring
        self._readings: deque[Reading] = deque()
        self._gauge: Callable[[], None] | None = None  # stops it; None: nothing is judged
        self._limits = Limits()
        self._pressure = Pressure()
        self._last = Reading()
        self._not_judged: set[str] = set()  # told
        self._growth = Growth()
        self._wear = Wear(parts.flash.budget_mb_day)
        self._served: dict[str, str] = {}
        self._stuck: set[tuple[int, float]] = set()  # told: thread, since when
        self._look_at = self._weigh_at = 0.0

    def begin(self) -> None:
        """Tell what became of agents before this one."""
        crashes = self._parts.crashes
        for crash in crashes.untold:
            at = f" at {crash.place}" if crash.place else ""
            why = f"{crash.kind}: {crash.reason}{at}; see {crash.name} in state_dir"
            self._office.trouble("crash_found", "agent.crashed", why, None)
        crashes.told()

    def live_by(self, settings: PressureSettings) -> None:
        """Judge by these limits from now on, and by the profile's where they say nothing."""
        self._limits = limits_of(self._parts.limits, settings)
        if self._limits.named and self._gauge is None:
            self._gauge = self._parts.gauge(self._hear)
        elif not self._limits.named and self._gauge is not None:
            self.stop()
            self._readings.clear()
            before, self._pressure = self._pressure.level, Pressure()
            if before:
                self._change(before)

    def stop(self) -> None:
        """Read no more."""
        if self._gauge is not None:
            self._gauge()
            self._gauge = None

    def tend(self, now: float) -> None:
        """Do what is due."""
        while self._readings:
            self._judge(self._readings.popleft(), now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look(now)

    def all_turn(self, uplink: Transport[Parcel], loader: Loader) -> bool:
        """Whether no thread hangs that the agent cannot do without: else systemd is to end it."""
        slots = self._roster.slots.values()
        links = [uplink, *(slot.session.link for slot in slots)]
        return (
            all(pool.longest_s() < STUCK_S for pool in self._roster.pools)
            and all(link.silent_s() < SILENT_S for link in links)
            and not loader.hangs
        )

    def add_to(self, state: State) -> None:
        """Say in the `state` message how things are."""
        if self._growth.mb_per_h is not None:
            state["rss_mb_per_h"] = round(self._growth.mb_per_h, 2)
        if (mb := written_mb()) is not None:
            state["written_mb"] = round(mb, 2)
        if (crashes := self._parts.crashes.state()) is not None:
            state["crashes"] = crashes
        if not self._limits.named:
            return
        level = self._pressure.level
        state["pressure"] = {"level": level.value, "causes": list(self._pressure.causes)}
        if (celsius := self._last.temperature_c) is not None:
            state["pressure"]["temperature_c"] = round(celsius, 1)
        if (available_mb := self._last.memory_available_mb) is not None:
            state["pressure"]["memory_available_mb"] = round(available_mb, 1)
        if (load := self._last.load_per_core) is not None:
            state["pressure"]["load_per_core"] = round(load, 3)

    def _hear(self, reading: Reading) -> None:
        self._readings.append(reading)
        self._ring()

    def _judge(self, reading: Reading, now: float) -> None:
        self._last = reading
        for name in unjudged(self._limits, reading):
            if name not in self._not_judged:
                self._not_judged.add(name)
                why = f"{name}: this device gives no reading"
                self._office.trouble("limit_not_judged", "pressure.not_judged", why, None)
        before = self._pressure.take(self._limits, reading, now=now)
        if before is not None:
            self._change(before)

    def _change(self, before: Level) -> None:
        level = self._pressure.level
        self._roster.press(level)
        detail: dict[str, str | float] = {"level": level.value, "before": before.value}
        if level > before:
            detail["causes"] = ", ".join(self._pressure.causes)
            for cause in self._pressure.causes:
                detail[cause] = round(float(getattr(self._last, cause)), 3)
            self._office.event("pressure_rose", None, detail)
        else:
            self._office.event("pressure_fell", None, detail)

    def _look(self, now: float) -> None:
        """Look at threads, and now and then at our memory."""
        stuck = {
            (ident, since): (name, now - since)
            for pool in self._roster.pools
            for name, ident, since in pool.at_work()
            if now - since >= STUCK_S
        }
        for thread in stuck.keys() - self._stuck:
            name, for_s = stuck[thread]
            where = " < ".join(of_thread(thread[0])[:SHOWN])
            why = f"{name}: {for_s:.0f} s at one input: {where}"
            self._office.trouble("worker_stuck", "worker.stuck", why, None)
        self._stuck = set(stuck)
        if now >= self._weigh_at:
            self._weigh_at = now + WEIGH_S
            self._weigh(now)
            if (mb := written_mb()) is not None and self._wear.take(now, mb):
                why = f"{self._wear.mb:.1f} MiB; [flash] says {self._wear.budget_mb:.1f}"
                self._office.trouble("flash_budget_passed", "agent.wrote", why, None)

    def _weigh(self, now: float) -> None:
        served = self._roster.served()
        if served != self._served:  # a model takes memory for good
            self._served = served
            self._growth.begin(now)
        give_back()
        if self._growth.take(now, rss_mb()):
            why = f"{self._growth.mb_per_h:.1f} MB an hour, over the last hours"
            self._office.trouble("memory_grew", "agent.grew", why, None)


def limits_of(profile: PressureLimits, settings: PressureSettings) -> Limits:
    """Return the limits in force: those of the settings, else the profile's."""
    found = {}
    for name in CAUSES:
        own = getattr(settings, name)
        found[name] = getattr(profile, name) if own is None else own
    return Limits(**found)
