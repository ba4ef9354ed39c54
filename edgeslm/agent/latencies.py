"""How long a model's newest answers took: cheap to add to, since every answer is."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Final

KEPT: Final = 2048
QUANTILES: Final = (0.5, 0.99)  # that are told
WINDOW_S: Final = 60.0
CATCH_UP: Final = 3.0
"""Times as long as nobody answered, for those who answer again to have caught up."""


class Latencies:
    """Of the last `KEPT` answers.

    Those do not count that had to wait because nobody answered, or behind others that had to.
    """

    __slots__ = ("_at", "_halted", "_next", "_since", "_took", "_until")

    def __init__(self) -> None:
        self._next = 0
        self._since = -math.inf  # inputs received before do not count
        self._halted: float | None = None
        self._until = math.inf
        self.clear()

    def halt(self, now: float) -> None:
        """Nobody answers from now on."""
        self._since = math.inf
        if self._halted is None:
            self._halted = now

    def resume(self, now: float) -> None:
        """Somebody answers again."""
        if self._halted is not None:
            self._until = now + CATCH_UP * (now - self._halted)
            self._halted = None

    def add(self, at: float, took_s: float, *, behind: bool = False) -> None:
        """Note an answer.

        Args:
            at: when it was ready, monotonic seconds.
            took_s: how long it took.
            behind: more inputs wait.
        """
        if at - took_s < self._since:
            if self._since == math.inf and (not behind or at >= self._until):
                self._since = at
            return
        here = self._next
        self._at[here] = at
        self._took[here] = took_s
        self._next = (here + 1) % KEPT

    def clear(self) -> None:
        """Forget all: another model answers from now on."""
        self._at = array("d", [float("-inf")]) * KEPT
        self._took = array("d", [0.0]) * KEPT
        self._next = 0

    def quantiles_ms(self, shares: Sequence[float], *, now: float) -> list[float] | None:
        """Return the latencies, ms, that these shares of the last minute's answers kept to.

        None where there were no answers.
        """
        since = now - WINDOW_S
        pairs = zip(self._at, self._took, strict=True)
        took = sorted(took for at, took in pairs if at >= since)
        if not took:
            return None
        last = len(took) - 1
        return [1e3 * took[min(last, int(share * len(took)))] for share in shares]
