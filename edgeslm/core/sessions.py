"""Sessions: which templates come under one key, how often, and one after which other.

A line is odd in its session where it follows one that it never followed in training, or comes more
often than it did in any session. Both are told as they happen. That a session ended too early can
be told only when it has ended, which no line says: so each line also says how odd the session would
be if this line were its last, and whoever knows that it is, reads that.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

NONE: Final = -1
"""Stands for the template before a session's first line, and for a new one."""
MAX_TRIPLES: Final = 100_000
"""Most of what one bundle knows of sessions."""
MAX_SESSIONS: Final = 4096
"""Sessions that are kept, the most recent."""
PAIR: Final = 1.0
"""Score of a line after one that it never followed."""
TRIPLE: Final = 0.5
"""Of one after two that it never followed together; each alone it did."""

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Habits:
    """What sessions were like in training, by indices of templates.

    Args:
        triples: every template with the two before it; `NONE` where there were none.
        ends: the last two templates of every session.
        most: how often each template came in one session, at most.
        pause_s: after so long without a line a session is another one; None: never.
    """

    triples: frozenset[Triple]
    ends: frozenset[tuple[int, int]]
    most: Mapping[int, int]
    pause_s: float | None

    @property
    def pairs(self) -> frozenset[tuple[int, int]]:
        """Every template with the one before it."""
        return frozenset((before, this) for _, before, this in self.triples)


class Oddness(NamedTuple):
    """Of a line in its session; 0: as in training."""

    line: float
    """Of its place and its count, >= 0."""
    end: float
    """Of the session, if this line were its last, >= 0."""
    after: int
    """The template before it; `NONE` without one."""


class _Session:
    __slots__ = ("before", "counts", "time", "two_before")

    def __init__(self) -> None:
        self.two_before = self.before = NONE
        self.counts: dict[int, int] = {}
        self.time: float | None = None


class Sessions:
    """The sessions of one stream, the most recent only.

    Args:
        habits: of training.
        limit: most sessions kept.

    Attributes:
        counts: sessions `dropped` for others, and those `expired` that went on after a pause.
    """

    def __init__(self, habits: Habits, *, limit: int = MAX_SESSIONS) -> None:
        self._habits = habits
        self._pairs = habits.pairs
        self._limit = limit
        self._kept: OrderedDict[str, _Session] = OrderedDict()
        self.counts = {"sessions_dropped": 0, "sessions_expired": 0}

    def __len__(self) -> int:
        return len(self._kept)

    def score(self, key: str, template: int | None, time: float | None) -> Oddness:
        """Take a line of a session in; return how odd it is there.

        A new template (None) is left to the text channel: neither it nor what comes after it is
        odd for its place.
        """
        session, habits = self._session(key, time), self._habits
        this = NONE if template is None else template
        before, two_before = session.before, session.two_before
        session.two_before, session.before = before, this
        first = not session.counts
        count = session.counts[this] = session.counts.get(this, 0) + 1
        if this == NONE or (before == NONE and not first):
            return Oddness(0.0, 0.0, before)
        odd = 0.0
        if (before, this) not in self._pairs:
            odd = PAIR
        elif (two_before, before, this) not in habits.triples:
            odd = TRIPLE
        if count > (most := habits.most.get(this, 0)):
            odd += PAIR + math.log(count / max(1, most))
        return Oddness(odd, 0.0 if (before, this) in habits.ends else PAIR, before)

    def _session(self, key: str, time: float | None) -> _Session:
        session, pause_s = self._kept.get(key), self._habits.pause_s
        if session is not None:
            self._kept.move_to_end(key)
            late = None in {time, session.time, pause_s}
            if late or time - session.time <= pause_s:  # type: ignore[operator]
                session.time = time
                return session
            self.counts["sessions_expired"] += 1
        elif len(self._kept) >= self._limit:
            self._kept.popitem(last=False)
            self.counts["sessions_dropped"] += 1
        session = self._kept[key] = _Session()
        session.time = time
        return session
