"""How fast results on disk may leave. Time is an argument."""

from __future__ import annotations

from typing import Final

STEP_S: Final = 0.1  # between two times that room is made
BURST_S: Final = 1.0  # of room that is saved up, at most


class Pace:
    """How fast results on disk may leave, so that a fleet that returns does not flood its broker.

    Args:
        per_s: results a second, of all lanes together.
    """

    def __init__(self, per_s: float) -> None:
        self.per_s = per_s
        self._room = per_s * BURST_S
        self._at: float | None = None  # when room was made last

    def room(self, *, now: float) -> int:
        """How many may leave now."""
        if self._at is None or now < self._at:
            self._at = now
        elif now >= self._at + STEP_S:
            most = max(1.0, self.per_s * BURST_S)
            self._room = min(most, self._room + (now - self._at) * self.per_s)
            self._at = now
        return int(self._room)

    def take(self, count: int) -> None:
        """So many have left."""
        self._room -= count

    def due_at(self) -> float:
        """When there is more room, once there is none."""
        wait_s = max(STEP_S, (1.0 - self._room) / self.per_s)
        return (self._at or 0.0) + wait_s
