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
REACH: Final = 4
"""Last lines of a session that are kept: one that comes late is put where it belongs among them."""
LATE: Final = 8
"""Lines in a row older than one before them, after which it is the clock that was set."""

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
    """Of the session, if this line were its last: 0, or `PAIR`."""
    after: int
    """The template before it; `NONE` without one."""


_Said = tuple[float | None, int, int | None]
"""One of a session's last lines: its time, its template, what stands for its text."""


class _Session:
    __slots__ = ("counts", "ended", "late", "lines", "time", "whole")

    def __init__(self) -> None:
        self.lines: list[_Said] = []  # the last ones, in the order of their times
        self.whole = True  # these are all that it had, since it began
        self.counts: dict[int, int] = {}
        self.time: float | None = None
        self.late = 0
        self.ended = False

    def take(self, at: int, said: _Said) -> None:
        self.lines.insert(at, said)
        if len(self.lines) > REACH:
            del self.lines[0]
            self.whole = False


class Sessions:
    """The sessions of one stream, the most recent only.

    Args:
        habits: of training.
        limit: most sessions kept.

    Attributes:
        counts: sessions `dropped` for others, and those `expired` that went on after a pause; lines
            that were `late` (older than one before them) or `repeated` (see `score`).
    """

    def __init__(self, habits: Habits, *, limit: int = MAX_SESSIONS) -> None:
        self._habits = habits
        self._pairs, self._triples, self._ends = habits.pairs, habits.triples, habits.ends
        self._limit = limit
        self._kept: OrderedDict[str, _Session] = OrderedDict()
        self.counts = {
            "sessions_dropped": 0,
            "sessions_expired": 0,
            "lines_late": 0,
            "lines_repeated": 0,
        }

    def __len__(self) -> int:
        return len(self._kept)

    def score(
        self,
        key: str,
        template: int | None,
        time: float | None,
        text: int | None = None,
        *,
        last: bool = False,
    ) -> Oddness:
        """Take a line of a session in; return how odd it is there.

        A new template (None) is left to the text channel: neither it nor what comes after it is
        odd for its place. A line that comes late takes the place that its time gives it, and is
        judged there; one that is older than all that are kept has none, and is not. One that comes
        again leaves the session as it stands. What comes after the `last` one, and is later, is of
        another session.

        Args:
            key: of the session.
            template: of the line.
            time: of the line, seconds; None: it is of now.
            text: stands for what it says, all of it: one of the same text and time is the same
                line again. None: none is, because somebody else knows which is which.
            last: it ends the session.
        """
        session = self._session(key, time)
        session.ended = session.ended or last
        lines = session.lines
        this = NONE if template is None else template
        if time is not None and (session.time is None or time > session.time):  # nearly always
            session.late, session.time, at = 0, time, len(lines)
        elif self._is_again(lines, time, text):
            self.counts["lines_repeated"] += 1
            return Oddness(0.0, self._end(session), lines[-1][1])
        else:
            at = self._place(session, time)
        if not at and not session.whole:
            if at == len(lines):  # the clock was set back: what it follows now is not known
                session.take(0, (time, this, text))
            session.counts[this] = session.counts.get(this, 0) + 1
            return Oddness(0.0, self._end(session), NONE)
        before = lines[at - 1][1] if at else NONE
        two_before = lines[at - 2][1] if at > 1 else NONE
        reached = at > 1 or session.whole
        session.take(at, (time, this, text))
        count = session.counts[this] = session.counts.get(this, 0) + 1
        end = self._end(session)
        if this == NONE or (at and before == NONE):
            return Oddness(0.0, end, before)
        odd = 0.0
        if (before, this) not in self._pairs:
            odd = PAIR
        elif reached and (two_before, before, this) not in self._triples:
            odd = TRIPLE
        if count > (most := self._habits.most.get(this, 0)):
            odd += PAIR + math.log(count / max(1, most))
        return Oddness(odd, end, before)

    @staticmethod
    def _is_again(lines: list[_Said], time: float | None, text: int | None) -> bool:
        if time is None or text is None:
            return False
        return any(at == time and said == text for at, _, said in lines)

    def _place(self, session: _Session, time: float | None) -> int:
        """Return where among a session's last lines one of this time belongs."""
        lines = session.lines
        at = len(lines)
        if time is None or session.time is None or time >= session.time:
            session.late = 0
            session.time = session.time if time is None else time
            return at
        session.late += 1
        if session.late >= LATE:  # it is the clock that was set
            lines.clear()
            session.late, session.whole, session.time = 0, False, time
            return 0
        self.counts["lines_late"] += 1
        while at and (kept := lines[at - 1][0]) is not None and kept > time:
            at -= 1
        return at

    def _end(self, session: _Session) -> float:
        """Return how odd a session would be, if it had no more lines."""
        lines = session.lines
        if not lines or (this := lines[-1][1]) == NONE:
            return 0.0
        before = lines[-2][1] if len(lines) > 1 else NONE
        if before == NONE and not (len(lines) == 1 and session.whole):
            return 0.0
        return 0.0 if (before, this) in self._ends else PAIR

    def _session(self, key: str, time: float | None) -> _Session:
        session, pause_s = self._kept.get(key), self._habits.pause_s
        if session is not None:
            self._kept.move_to_end(key)
            since = None if time is None or session.time is None else time - session.time
            if since is not None and since <= 0:  # late, or again
                return session
            if not session.ended:
                if since is None or pause_s is None or since <= pause_s:
                    return session
                self.counts["sessions_expired"] += 1
        elif len(self._kept) >= self._limit:
            self._kept.popitem(last=False)
            self.counts["sessions_dropped"] += 1
        session = self._kept[key] = _Session()
        return session
