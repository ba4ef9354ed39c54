"""When a device is hard pressed, and what it then does less of: levels, slow to rise and to fall.

A level rises where a limit has been passed for a while, one step at a time, and falls only after
all is well within the limits for longer: what is paused must not come back for a moment, and be
paused again. Time is an argument, in seconds on any monotonic scale.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

RISE_S: Final = 15.0  # a limit passed without a break for so long: one level up
WORSEN_S: Final = 60.0  # and for so long at that level: another
FALL_S: Final = 120.0  # well within all limits without a break for so long: one level down
COOL_C: Final = 5.0  # so much below its limit a temperature is well within it
ROOM: Final = 1.25  # times the memory that must be left: well within
EASE: Final = 0.8  # of the load that may be: well within


class Level(IntEnum):
    """How much is given up; docs/firmware-teams.md says what each means."""

    NONE = 0
    TELEMETRY = 1
    ALARMS_ONLY = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much; None: not judged.

    Args:
        temperature_c: of the processor, at most, degrees Celsius.
        memory_available_mb: at least, MiB.
        load_per_core: processes that run or want to, a mean over a minute, for each core, at most.
    """

    temperature_c: float | None = None
    memory_available_mb: float | None = None
    load_per_core: float | None = None

    @property
    def named(self) -> list[str]:
        """Those that there are."""
        return [name for name in CAUSES if getattr(self, name) is not None]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device says of itself, in the units of `Limits`; None: it does not say."""

    temperature_c: float | None = None
    memory_available_mb: float | None = None
    load_per_core: float | None = None


CAUSES: Final = ("temperature_c", "memory_available_mb", "load_per_core")
"""Fields of `Limits` and `Reading`, in the order in which they are told."""


def passed(limits: Limits, reading: Reading) -> tuple[str, ...]:
    """Return which limits are passed; one that cannot be judged is not."""
    return tuple(name for name in CAUSES if _is_beyond(name, limits, reading, well_within=False))


def at_ease(limits: Limits, reading: Reading) -> bool:
    """Whether no limit is near; one that cannot be judged is not."""
    return not any(_is_beyond(name, limits, reading, well_within=True) for name in CAUSES)


def unjudged(limits: Limits, reading: Reading) -> tuple[str, ...]:
    """Return the limits for which the device gives no reading."""
    return tuple(name for name in limits.named if getattr(reading, name) is None)


def _is_beyond(name: str, limits: Limits, reading: Reading, *, well_within: bool) -> bool:
    limit: float | None = getattr(limits, name)
    value: float | None = getattr(reading, name)
    if limit is None or value is None:
        return False
    if name == "temperature_c":
        return value > limit - COOL_C * well_within
    if name == "memory_available_mb":
        return value < (limit * ROOM if well_within else limit)
    return value > (limit * EASE if well_within else limit)


class Pressure:
    """The level, from one reading to the next.

    Attributes:
        level: now.
        causes: limits that were passed when it rose last, or are now; none at `Level.NONE`.
    """

    def __init__(self) -> None:
        self.level = Level.NONE
        self.causes: tuple[str, ...] = ()
        self._beyond_since: float | None = None  # some limit has been passed ever since
        self._at_ease_since: float | None = None

    def take(self, limits: Limits, reading: Reading, *, now: float) -> Level | None:
        """Take a reading; return the level before where it changes, else None."""
        beyond = passed(limits, reading)
        self._beyond_since = _since(self._beyond_since, now, holds=bool(beyond))
        self._at_ease_since = _since(self._at_ease_since, now, holds=at_ease(limits, reading))
        before = self.level
        if beyond:
            wait_s = WORSEN_S if before else RISE_S
            if before < max(Level) and _lasts(self._beyond_since, now, wait_s):
                self.level = Level(before + 1)
                self._beyond_since = now  # for the next step
        elif before and _lasts(self._at_ease_since, now, FALL_S):
            self.level = Level(before - 1)
            self._at_ease_since = now
        if beyond and self.level:
            self.causes = beyond
        elif not self.level:
            self.causes = ()
        return None if self.level is before else before


def _since(since: float | None, now: float, *, holds: bool) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _lasts(since: float | None, now: float, long_s: float) -> bool:
    return since is not None and now - since >= long_s


def is_paused(level: Level, *, task: str, lanes: Collection[str | None]) -> bool:
    """Whether a model takes no inputs at this level.

    A model's results are telemetry where each of its routes says so, or says nothing and its task
    raises no alarms. At `Level.ALARMS_ONLY` all rest whose task raises none.

    Args:
        level: how hard the device is pressed.
        task: the model's.
        lanes: of its routes, "alert" or "telemetry"; None: the route does not say.
    """
    alarms = task in ALARM_TASKS
    telemetry = bool(lanes) and all(
        lane == "telemetry" or (lane is None and not alarms) for lane in lanes
    )
    if level is Level.NONE:
        return False
    return telemetry or (level is Level.ALARMS_ONLY and not alarms)


ALARM_TASKS: Final = frozenset({"anomaly"})
CACHE_SHARE: Final = 8  # at `Level.ALARMS_ONLY` a cache keeps one entry in so many


def entries_at(level: Level, cache_entries: int) -> int:
    """Return how many model outputs a cache may keep."""
    return cache_entries // CACHE_SHARE if level is Level.ALARMS_ONLY else cache_entries
