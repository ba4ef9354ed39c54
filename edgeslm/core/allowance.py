"""How often something may be done: so many times within so long."""

from __future__ import annotations

from collections import deque


class Allowance:
    """Counts what was done lately. Time is an argument, in seconds on any monotonic scale.

    Args:
        most: times within `span_s`.
        span_s: in seconds.
    """

    def __init__(self, most: int, span_s: float) -> None:
        self._span_s = span_s
        self._times: deque[float] = deque(maxlen=most)

    def due_at(self) -> float:
        """Return when it may be done the next time; long ago, where it may be done now."""
        full = len(self._times) == self._times.maxlen
        return self._times[0] + self._span_s if full else float("-inf")

    def take(self, now: float) -> bool:
        """Return whether it may be done now; if so, it is counted."""
        if now < self.due_at():
            return False
        self._times.append(now)
        return True
