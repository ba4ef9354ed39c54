"""How much is written in a day, by a counter that only grows. Without I/O and clock."""

from __future__ import annotations

from typing import Final

DAY_S: Final = 86_400.0


class Wear:
    """Args: budget_mb: for a day; None: nothing is judged."""

    def __init__(self, budget_mb: float | None) -> None:
        self.budget_mb = budget_mb
        self.mb = 0.0  # in this day
        self._began: tuple[float, float] | None = None  # this day: when, and at which count
        self._told = False

    def take(self, now: float, written_mb: float) -> bool:
        """Take the count; return whether the budget is passed, once a day."""
        if self._began is None or now >= self._began[0] + DAY_S:
            before = self._began[1] + self.mb if self._began is not None else written_mb
            self._began = (now, before)
            self._told = False
        self.mb = written_mb - self._began[1]
        passed = self.budget_mb is not None and self.mb > self.budget_mb and not self._told
        self._told = self._told or passed
        return passed
