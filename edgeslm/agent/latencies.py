"""How long a model's newest answers took: cheap to add to, since every answer is."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

KEPT: Final = 2048
WINDOW_S: Final = 60.0


class Latencies:
    """Of the last `KEPT` answers."""

    __slots__ = ("_at", "_next", "_took")

    def __init__(self) -> None:
        self._next = 0
        self.clear()

    def add(self, at: float, took_s: float) -> None:
        """Note an answer: when it was ready, monotonic seconds, and how long it took."""
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
