"""The clock of this machine."""

from __future__ import annotations

import ctypes
import time
from typing import Final

_TIME_ERROR: Final = 5  # adjtimex(2): the kernel's clock is not synchronised
_TIMEX_BYTES: Final = 512  # more than struct timex has anywhere; all zero: only asked, not set


class SystemClock:
    """Implements `edgeslm.ports.Clock`."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def since_boot() -> float:
    """Return seconds since the system started, those in which it slept included."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def synchronised() -> bool:
    """Whether the kernel says that its clock follows another one (Linux); else False."""
    try:
        ask = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return False
    state: int = ask(ctypes.create_string_buffer(_TIMEX_BYTES))
    return 0 <= state < _TIME_ERROR
