"""Hours of the day in which something may be done, such as 22:00-05:30."""

from __future__ import annotations

from collections.abc import Iterable


def is_open(hours: Iterable[str], minute: int) -> bool:
    """Whether `minute` of the day is in one of `hours`; always, where there are none.

    Args:
        hours: from-to, the end excluded; over midnight where `to` is not later than `from`.
        minute: local time, 0 to 1439.
    """
    spans = [tuple(_minute(time) for time in span.split("-")) for span in hours]
    return not spans or any(
        begin <= minute < end if begin < end else minute >= begin or minute < end
        for begin, end in spans
    )


def _minute(time: str) -> int:
    hour, _, minute = time.partition(":")
    return int(hour) * 60 + int(minute)
