"""What the counters in a device's messages mean, though they begin anew with each of its starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

SAME_START_S: Final = 5.0
"""Two times at which an agent began that are this close are one: its clock was set a little."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Of answers.

    Args:
        answers: given, errors included.
        errors: of them.
        alarms: of them, labelled as anomalies.
    """

    answers: int = 0
    errors: int = 0
    alarms: int = 0

    def __add__(self, more: Counts) -> Counts:
        return Counts(
            self.answers + more.answers, self.errors + more.errors, self.alarms + more.alarms
        )

    def since(self, before: Counts) -> Counts:
        """Return what has come since a counter showed `before`; all of it, if it began anew."""
        anew = (
            self.answers < before.answers
            or self.errors < before.errors
            or self.alarms < before.alarms
        )
        if anew:
            return self
        return Counts(
            self.answers - before.answers,
            self.errors - before.errors,
            self.alarms - before.alarms,
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """How one model has answered on one device.

    Args:
        version: that `counts` is of; it stays while the agent answers with none.
        counts: since it runs here.
        seen: the agent's own counters, as last seen.
        p99_ms: as last seen.
        before_version: that ran before it; None: none that was seen.
        before: its counts, when it was seen last.
        before_p99_ms: its latency then.
    """

    version: int | None = None
    counts: Counts = Counts()
    seen: Counts = Counts()
    p99_ms: float | None = None
    before_version: int | None = None
    before: Counts = Counts()
    before_p99_ms: float | None = None


def tally(
    known: Tally | None,
    version: int | None,
    seen: Counts,
    p99_ms: float | None,
    *,
    restarted: bool = False,
) -> tuple[Tally, Counts]:
    """Return the tally after a message, and what is new since the one before.

    What an agent has counted before it is seen for the first time is the version's, and is not new:
    nobody knows when it came.

    Args:
        known: before the message; None: the first.
        version: that the agent answers with; None: with none, for now.
        seen: its counters.
        p99_ms: 99th percentile of the newest latencies; None: no new ones.
        restarted: the agent is known to have begun anew.
    """
    if known is None:
        return Tally(version, seen, seen, p99_ms), Counts()
    new = seen if restarted else seen.since(known.seen)
    if version is None or version == known.version:
        latest = p99_ms if p99_ms is not None else known.p99_ms
        return replace(known, counts=known.counts + new, seen=seen, p99_ms=latest), new
    if known.version is None:
        return replace(
            known, version=version, counts=known.counts + new, seen=seen, p99_ms=p99_ms
        ), new
    after = Tally(
        version,
        new,
        seen,
        p99_ms,
        before_version=known.version,
        before=known.counts,
        before_p99_ms=known.p99_ms,
    )
    return after, new


def same_start(began: float, before: float) -> bool:
    """Whether two times at which an agent says it began are of one start."""
    return abs(began - before) <= SAME_START_S
