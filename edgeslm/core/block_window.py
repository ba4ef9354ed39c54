"""Which blocks of a blob to ask for next.

Blocks come at most once and may be lost; those that others asked for come too. So many are asked
for ahead, and one is asked for again when enough of those asked for after it have come, or when
nothing comes for a while. That while grows with the time that answers take and doubles with each
silence, so that a slow network is not asked for more, and a server that is away for hardly
anything. What comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from edgeslm.contract.fleet import BLOCK_BYTES, MAX_RANGES

FIRST: Final = 2  # blocks asked for before any has come
REORDERED: Final = 2  # blocks, or half a window: several servers answer in no order
SLOW_S: Final = 2.0
SILENCE_S: Final = 0.5  # shortest wait before what did not come is asked for again
LONGEST_S: Final = 60.0
ROUND_TRIPS: Final = 3.0  # of silence, where answers take long
SMOOTHING: Final = 1 / 8  # of the time that an answer takes (RFC 6298)
_MISSING, _HERE, _ASKED, _LOST = range(4)


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask for now.

    Args:
        ranges: first and last block of each, in the order in which they are wanted.
        again: they were asked for before.
    """

    ranges: tuple[tuple[int, int], ...]
    again: bool

    @property
    def blocks(self) -> int:
        return sum(last - first + 1 for first, last in self.ranges)


class Window:
    """One blob on its way. Time is an argument, in seconds on any monotonic scale.

    Args:
        count: its blocks.
        here: those that need not come.
        limit: most blocks asked for and not yet here.
        rate: most bytes a second; None: no limit.

    Attributes:
        missing: blocks that are not here.
        asked: blocks asked for, each as often as it was.
        repeats: blocks that came though they were here.
    """

    def __init__(
        self, count: int, here: Iterable[int] = (), *, limit: int, rate: float | None = None
    ) -> None:
        self._state = bytearray(count)
        for block in here:
            self._state[block] = _HERE
        self.missing = self._state.count(_MISSING)
        self.asked = 0
        self.repeats = 0
        self._limit = max(1, limit)
        self._size = min(FIRST, self._limit)
        self._out: dict[int, tuple[int, float]] = {}  # (number, when) of the asking
        self._first: dict[int, tuple[int, float]] = {}  # the first asking of those that were lost
        self._number = 0
        self._cursor = 0
        self._joined = False  # one of those that we asked for has come
        self._progress_at = 0.0
        self._round_trip_s = 0.0
        self._silences = 0
        self._rate = rate
        self._budget = float(BLOCK_BYTES)
        self._budget_at: float | None = None
        self._listening = True

    @property
    def outstanding(self) -> int:
        """Blocks asked for and not yet here."""
        return len(self._out)

    @property
    def silences(self) -> int:
        """How often in a row what was asked for did not come."""
        return self._silences

    def lacks(self, block: int) -> bool:
        """Whether `block`, which has come, is of use."""
        if not 0 <= block < len(self._state):
            return False
        if self._state[block] != _HERE:
            return True
        self.repeats += 1
        return False

    def arrived(self, block: int, now: float) -> None:
        """A block that is lacking has come, and is right."""
        # Of one that was asked for again, or was about to be, the first time counts: it may have
        # been answered late, and then this is how long an answer takes.
        asking = self._first.pop(block, self._out.pop(block, None))
        self._state[block] = _HERE
        self.missing -= 1
        self._progress_at = now
        self._silences = 0
        if asking is None:
            self._spend(BLOCK_BYTES, now)
            if not self._joined:
                # Others are being served: with them, and later round to what they had before.
                self._cursor = block + 1
            return
        self._joined = True
        number, when = asking
        took = now - when
        # Answers that take so long wait for each other: asking for more only makes them longer,
        # and costs more when the connection is lost.
        more = 1 if took < SLOW_S else -1
        self._size = min(self._limit, max(FIRST, self._size + more))
        old = self._round_trip_s or took
        self._round_trip_s = old + SMOOTHING * (took - old)
        overtaken = []
        for other, (earlier, _) in self._out.items():
            if earlier + max(REORDERED, self._size // 2) > number:
                break
            overtaken.append(other)
        self._lose(overtaken)

    def disconnected(self) -> None:
        """The connection was lost: what was asked for on it does not come."""
        self._lose(list(self._out))
        self._first.clear()
        self._silences = 0
        self._size = min(FIRST, self._limit)

    def hurry(self) -> None:
        """Whoever did not answer may be back: do not wait for long."""
        self._silences = 0

    def ask(self, now: float) -> list[Request]:
        """Return what to ask for now; it is taken as asked."""
        if self._out and now >= self._silent_at():
            self._lose(list(self._out))
            self._silences += 1
            self._size = 1  # to see whether anything comes at all
        room = self._size - len(self._out)
        few = self._is_few(room)
        if self._rate is not None:
            self._spend(0, now)
            room = min(room, int(self._budget // BLOCK_BYTES))
        if room <= 0:
            return []
        lost = self._pick(_LOST, room, 0)
        new = [] if few else self._pick(_MISSING, room - len(lost), self._cursor)
        if new:
            self._cursor = new[-1] + 1
        requests = []
        for blocks, again in ((lost, True), (new, False)):
            if blocks:
                for block in blocks:
                    self._state[block] = _ASKED
                    self._number += 1
                    self._out[block] = (self._number, now)
                requests.append(Request(_ranges(blocks), again))
        self.asked += len(lost) + len(new)
        self._spend((len(lost) + len(new)) * BLOCK_BYTES, now)
        return requests

    def due_at(self, now: float) -> float | None:
        """When `ask` has something to say next if nothing comes; None: never."""
        times = [self._silent_at()] if self._out else []
        room = self._size - len(self._out)
        waits = len(self._out) < self.missing
        if room > 0 and waits and (not self._is_few(room) or self._state.find(_LOST) >= 0):
            wait_s = 0.0
            if self._rate is not None:
                self._spend(0, now)
                wait_s = max(0.0, BLOCK_BYTES - self._budget) / self._rate
            times.append(now + wait_s)
        return min(times, default=None)

    def may_listen(self, now: float) -> bool:
        """Whether to take what others ask for: by it, the rate may be used up for a while."""
        self._spend(0, now)
        if self._listening:
            self._listening = self._budget >= -self._limit * BLOCK_BYTES
        else:
            self._listening = self._budget >= BLOCK_BYTES
        return self._listening

    def _is_few(self, room: int) -> bool:
        """Whether to let more come first: many small requests cost more than a few."""
        return bool(self._out) and room < self._size // 4

    def _spend(self, size: int, now: float) -> None:
        if self._rate is None:
            return
        if self._budget_at is not None:
            # One block's worth can always be saved up, and no more than a second's beyond it.
            most = max(self._rate, BLOCK_BYTES)
            self._budget = min(most, self._budget + self._rate * (now - self._budget_at))
        self._budget_at = now
        self._budget -= size

    def _silent_at(self) -> float:
        """When what is asked for counts as lost if nothing comes."""
        _, oldest = next(iter(self._out.values()))
        wait_s = max(SILENCE_S, ROUND_TRIPS * self._round_trip_s)
        wait_s = min(LONGEST_S, wait_s * 2.0 ** min(self._silences, 16))
        return max(oldest, self._progress_at) + wait_s

    def _lose(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            asking = self._out.pop(block)
            self._first.setdefault(block, asking)
            self._state[block] = _LOST

    def _pick(self, state: int, most: int, begin: int) -> list[int]:
        """At most so many blocks in `state`, and ranges, from `begin` on and round."""
        found: list[int] = []
        ranges = 0
        for at, end in ((begin, len(self._state)), (0, begin)):
            block = at - 1
            while len(found) < most:
                block = self._state.find(state, block + 1, end)
                if block < 0:
                    break
                ranges += not found or found[-1] != block - 1
                if ranges > MAX_RANGES:
                    return found
                found.append(block)
        return found


def _ranges(blocks: list[int]) -> tuple[tuple[int, int], ...]:
    """First and last of each ascending run in `blocks`."""
    found: list[tuple[int, int]] = []
    for block in blocks:
        if found and found[-1][1] == block - 1:
            found[-1] = (found[-1][0], block)
        else:
            found.append((block, block))
    return tuple(found)
