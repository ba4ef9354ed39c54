"""The clock of this machine."""

from __future__ import annotations

import time


class SystemClock:
    """Implements `edgeslm.ports.Clock`."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
