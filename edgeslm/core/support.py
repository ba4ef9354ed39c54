"""Until when somebody answers for a model: the day that its bundle says."""

from __future__ import annotations

from datetime import UTC, datetime


def has_ended(until: str | None, *, wall: float) -> bool:
    """Whether the last day of support is over.

    Args:
        until: that day, as YYYY-MM-DD in UTC; None: nothing was promised.
        wall: now, in seconds since 1970.
    """
    return until is not None and datetime.fromtimestamp(wall, UTC).date().isoformat() > until
