"""The clock of this machine, and what the system knows of it."""

from __future__ import annotations

import ctypes
import secrets
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from edgeslm.contract.messages import ClockTrust
from edgeslm.core.timekeeping import Look, jump_of, trust_of

_TIME_ERROR: Final = 5  # adjtimex(2): the kernel's clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has anywhere; all zero: only asked, not set
_TIMESYNC: Final = Path("/run/systemd/timesync")
_MARK: Final = "synchronized"  # systemd-timesyncd(8) makes it when it has set the clock
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT_CHARS: Final = 8


class SystemClock:
    """Implements `edgeslm.ports.Clock`."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class DeviceClock(SystemClock):
    """Implements `edgeslm.ports.DeviceClock`. `look` is called by one thread.

    Args:
        earliest: the wall clock is wrong before that, seconds since 1970.
    """

    def __init__(self, *, earliest: float) -> None:
        self.boot = boot_id()
        self._earliest = earliest
        self._seen = self._look()
        self.trust: ClockTrust | None = trust_of(self._seen, earliest=earliest)

    def look(self) -> float | None:
        before, self._seen = self._seen, self._look()
        self.trust = trust_of(self._seen, earliest=self._earliest)
        return jump_of(before, self._seen)

    def _look(self) -> Look:
        return Look(self.wall(), since_boot(), synchronised())


def since_boot() -> float:
    """Return seconds since the system started, those in which it slept included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def boot_id() -> str:
    """Return what names this boot of the system; where it has no name, this process."""
    try:
        return _BOOT.read_text("ascii").replace("-", "")[:_BOOT_CHARS]
    except (OSError, ValueError):
        return secrets.token_hex(_BOOT_CHARS // 2)


def synchronised() -> bool | None:
    """Whether the system says that its clock follows another one; None: it does not say.

    The kernel knows (Linux). Under a unit with ProtectClock= it may not be asked: then it is what
    systemd-timesyncd says, where that runs.
    """
    state = -1 if (ask := _adjtimex()) is None else ask(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state >= 0:
        return state < _TIME_ERROR
    try:
        if (_TIMESYNC / _MARK).exists():
            return True
        return False if _TIMESYNC.exists() else None
    except OSError:
        return None


@cache
def _adjtimex() -> Callable[[object], int] | None:
    try:
        found: Callable[[object], int] = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    return found
