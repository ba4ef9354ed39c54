"""Whether memory grows for hours on end: a slope that jumps and spikes do not move much.

Readings are gathered into spans of ten minutes, of each the median, and the slope is the median of
those between any two spans (Theil and Sen): a quarter of the spans may be anything. Time is an
argument, in seconds on any monotonic scale.

Source:
    Sen, Estimates of the Regression Coefficient Based on Kendall's Tau, JASA 63 (1968).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import combinations
from statistics import median
from typing import Final

SPAN_S: Final = 600.0
SPANS: Final = 36  # that are looked at: six hours
ENOUGH: Final = 18  # of them, before anything is said: three hours
SETTLE_S: Final = 600.0  # after a beginning, memory may grow as it will
BOUND_MB_H: Final = 4.0  # four times what an hour at full load may show


class Growth:
    """Of one process's memory.

    Args:
        bound_mb_h: growth that is told, MiB an hour.

    Attributes:
        mb_per_h: the slope over the last hours; None: not known yet.
    """

    def __init__(self, *, bound_mb_h: float = BOUND_MB_H) -> None:
        self.mb_per_h: float | None = None
        self._bound_mb_h = bound_mb_h
        self._told = False
        self._from: float | None = None  # readings before it are not looked at
        self._spans: deque[tuple[float, float]] = deque(maxlen=SPANS)  # its middle, its median
        self._open: list[float] = []
        self._open_at = 0.0

    def begin(self, now: float) -> None:
        """Something has taken memory for good, such as a model: look at what comes after."""
        self._from = now + SETTLE_S
        self.mb_per_h = None
        self._spans.clear()
        self._open.clear()

    def take(self, now: float, mb: float) -> bool:
        """Take a reading; return whether growth is to be told now: once, and no more."""
        if self._from is None:
            self._from = now + SETTLE_S
        if now < self._from:
            return False
        if self._open and now - self._open_at >= SPAN_S:
            self._spans.append((self._open_at + SPAN_S / 2, median(self._open)))
            self._open.clear()
            if len(self._spans) >= ENOUGH:
                self.mb_per_h = 3600.0 * slope(self._spans)
        if not self._open:
            self._open_at = now
        self._open.append(mb)
        told = self._told
        self._told = told or (self.mb_per_h is not None and self.mb_per_h > self._bound_mb_h)
        return self._told and not told


def slope(points: Iterable[tuple[float, float]]) -> float:
    """Return the median slope between any two points, two or more, which are in order of time."""
    return median((y - x) / (then - at) for (at, x), (then, y) in combinations(points, 2))
