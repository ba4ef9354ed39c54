"""How often it is told why a link is down, which may be tried again for days."""

from __future__ import annotations

from typing import Final

AGAIN_S: Final = 600.0
MAX_REASONS: Final = 16


class Troubles:
    """Reasons for which a link is down: each is told at once, and again every ten minutes."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}  # reason: when, monotonic seconds

    def is_news(self, reason: str, now: float) -> bool:
        """Whether to tell this reason now."""
        told = self._told.get(reason)
        if told is not None and now < told + AGAIN_S:
            return False
        if len(self._told) >= MAX_REASONS:
            self._told.clear()
        self._told[reason] = now
        return True

    def clear(self) -> None:
        """The link is up."""
        self._told.clear()
