"""When a result leaves, where it waits, and when its input is acknowledged.

Without I/O and clock. The `Uplink` takes what leaves the lanes of all input sessions, in order, and
decides for each result: to the broker, or to disk because the broker would not take it. There is
one for alerts and one for telemetry, ordered each by itself, so that an alert waits behind no
telemetry. An input is settled, and so may be acknowledged, when the broker has acknowledged its
result or the result is on disk, never before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from edgeslm.core.lane import Ticket
from edgeslm.core.pace import Pace

NO_PROPERTIES: Final[Mapping[str, object]] = {}


@dataclass(slots=True, eq=False)
class Parcel:
    """One result on its way: `eq=False`, so that it is its own key.

    Args:
        born: when it was ready, monotonic seconds.
        ticket: the input that waits for it; None for one read back from disk.
        row: its id on disk; None while it is in memory only.
        alert: it leaves with the alerts, not with the telemetry.
        tried: it was on its way when the link went, and may have come through; or the broker put
            it off, as rows that were handed over stay `Uplink.reached`.
        again: the broker sent its input before: what is on disk may be of it.
    """

    topic: str
    payload: bytes
    born: float
    ticket: Ticket | None = None
    properties: Mapping[str, object] = field(default_factory=lambda: NO_PROPERTIES)
    retain: bool = False
    row: int | None = None
    qos: int = 1
    alert: bool = False
    tried: bool = False
    again: bool = False


Row = tuple[int, str, bytes, Mapping[str, object]]


class Uplink:
    """Where each result of one lane goes. The caller performs what the `to_*` methods return.

    Results on disk are older than those in memory, so while some of them have not been handed
    to the link, newer ones wait behind them. One that waits while the link is up is written to
    disk too, so that its input can be acknowledged, but no faster than half of what leaves the
    disk: otherwise a steady flow would keep the disk busy for good. Where it is the pace that holds
    rows back, each new result lets one more row leave, and what waits is written as if the link
    were down: so the disk empties at that pace, whatever comes in.

    Args:
        window: most results handed to the link and not yet confirmed.
        ack_timeout_s: a result that has not been confirmed for so long goes to disk.
        rows: results that are on disk already.
        alert: they are alerts.
        batch: results in one commit.
        batch_wait_s: longest time a commit waits for company.
        gone_batch: confirmed rows that are removed together; None: as results are committed.
        gone_wait_s: longest time a removal waits for company; None: as a commit does.
        max_gone: while so many confirmed rows cannot be removed, none is read back.
        retry_s: time after which a refused commit is tried again.
        pace: of what leaves the disk; None: as fast as the broker takes it.

    Attributes:
        reached: rows up to this id were handed over: they may have come through, though nobody
            confirmed it. None of them is summed up.
    """

    def __init__(  # noqa: PLR0913 -- those with defaults are constants that tests shrink
        self,
        *,
        window: int,
        ack_timeout_s: float,
        rows: int,
        alert: bool = False,
        batch: int = 64,
        batch_wait_s: float = 0.2,
        gone_batch: int | None = None,
        gone_wait_s: float | None = None,
        max_gone: int = 256,
        retry_s: float = 1.0,
        pace: Pace | None = None,
    ) -> None:
        self.connected = False
        self.rows = rows
        self._alert = alert
        self.reached = 0
        self._pace = pace
        self._paced = False  # it is the pace that holds rows back
        self._behind = False  # there is something to catch up with
        self._given = 0  # what may leave besides: one for each new result since then
        self.blocked = False  # the disk is full or broken: acknowledgements are withheld
        self._window = window
        self.ack_timeout_s = ack_timeout_s
        self._batch = batch
        self._batch_wait_s = batch_wait_s
        self._gone_batch = batch if gone_batch is None else gone_batch
        self._gone_wait_s = batch_wait_s if gone_wait_s is None else gone_wait_s
        self._max_gone = max_gone
        self._retry_s = retry_s
        self._retry_at = 0.0
        self._waiting: deque[Parcel] = deque()  # in memory, not handed to the link
        self._in_flight: dict[Parcel, None] = {}  # handed over, in order
        self._loose: dict[Parcel, None] = {}  # those of them that are not on disk
        self._fetched: deque[Parcel] = deque()  # read back from disk, not handed to the link
        self._unsent = rows  # rows not handed over since the link came up
        self._cursor = 0  # highest row handed over or read back
        self._credit = 0
        self._held = False  # the broker takes nothing for now
        self._gone: list[int] = []  # confirmed rows, to be removed
        self._gone_since: float | None = None
        self._remove_at = self._fetch_at = 0.0
        self._late = 0  # rows found late, below all others, and not read back yet
        self._late_cursor = 0  # the highest of them that was

    @property
    def withheld(self) -> int:
        """Results whose inputs wait because the disk takes no more."""
        return len(self._waiting) if self.blocked else 0

    @property
    def idle(self) -> bool:
        """Whether nothing in memory waits for the broker or the disk."""
        return not self._waiting and not self._loose

    @property
    def in_flight(self) -> Collection[Parcel]:
        """Results handed to the link and not confirmed, in order."""
        return self._in_flight

    @property
    def _taking(self) -> bool:
        return self.connected and not self._held

    @property
    def spare(self) -> tuple[int, int]:
        """(most, after): so many rows above that id may be thinned or given up; see `gave_up`.

        Nobody has been handed them since the link came up.
        """
        if self._gone_blocks() or self._late:
            return 0, 0
        return self._unsent - len(self._fetched), self._cursor

    def offer(self, parcels: Sequence[Parcel]) -> None:
        """Take results in the order in which they shall leave."""
        self._waiting.extend(parcels)
        if self._taking and (self._unsent or self._behind):
            self._given += len(parcels)

    def up(self) -> None:
        """The link is up, with nothing in flight."""
        self.connected = True
        self._held = False

    def defer(self, parcels: Iterable[Parcel]) -> None:
        """The broker does not take these now: hold everything back until `resume`.

        Meanwhile what is in memory goes to disk, as if the link were down.
        """
        waiting: list[Parcel] = []
        rows: list[Parcel] = []
        for parcel in parcels:
            if parcel not in self._in_flight:
                continue
            del self._in_flight[parcel]
            if parcel.row is None:
                del self._loose[parcel]
                parcel.tried = True  # as its row would be, which stays `reached`
                waiting.append(parcel)
            else:
                rows.append(parcel)
        self._waiting.extendleft(reversed(waiting))
        self._fetched.extendleft(reversed(rows))
        self._unsent += len(rows)
        self._held = True
        self._paced = False

    def resume(self) -> None:
        """Try the broker again."""
        self._held = False

    def down(self) -> None:
        """The link is gone: what it had not confirmed must be sent again, oldest first."""
        self.connected = False
        self._paced = self._behind = False
        self._given = 0
        for parcel in self._loose:
            parcel.tried = True
        self._waiting.extendleft(reversed(self._loose))
        self._in_flight.clear()
        self._loose.clear()
        self._fetched.clear()
        self._cursor = self._late = self._late_cursor = 0
        self._unsent = self.rows - len(self._gone)

    def confirmed(self, parcels: Iterable[Parcel], *, now: float) -> None:
        """The broker acknowledged these; ones of an earlier connection are ignored."""
        for parcel in parcels:
            if parcel not in self._in_flight:
                continue
            del self._in_flight[parcel]
            if parcel.row is None:
                del self._loose[parcel]
                if parcel.ticket is not None:
                    parcel.ticket.settled = True
            else:
                self._gone.append(parcel.row)
                if self._gone_since is None:
                    self._gone_since = now

    def to_send(self, *, now: float) -> list[Parcel]:
        """Results to hand to the link now, in order."""
        out: list[Parcel] = []
        if not self._taking:
            return out
        room = self._window - len(self._in_flight)
        behind = self._pace is not None and (self._behind or self._unsent > 0)
        most = min(room, self._allowed(now)) if behind else room
        while len(out) < most and self._fetched:
            parcel = self._fetched.popleft()
            self.reached = max(self.reached, parcel.row or 0)
            out.append(parcel)
        self._unsent -= len(out)
        self._credit = min(self._credit + len(out), 2 * self._batch)
        if self._unsent == 0:
            for _ in range(min(most - len(out), len(self._waiting))):
                parcel = self._waiting.popleft()
                self._loose[parcel] = None
                out.append(parcel)
        if behind:
            self._spend(len(out))
            self._paced = self._behind and room > len(out) and self._allowed(now) == 0
        else:
            self._paced = False
        self._in_flight.update(dict.fromkeys(out))
        return out

    def _spend(self, count: int) -> None:
        """So many have left while there is something to catch up with."""
        given = min(self._given, count)
        self._given -= given
        if self._pace is not None:
            self._pace.take(count - given)
        # Rows have left in the place of new results: it is over when these, too, have had theirs.
        self._behind = self._unsent > 0 or self._given < len(self._waiting)
        if not self._behind:
            self._given = 0

    def _allowed(self, now: float) -> int:
        """How many may leave now, by the pace."""
        return self._window if self._pace is None else self._given + self._pace.room(now=now)

    def to_fetch(self, *, now: float) -> tuple[int, int] | None:
        """(limit, after): rows to read back now; answer with `fetched` or `not_fetched`."""
        if not self._taking or self._fetched or self._unsent == 0 or self._gone_blocks():
            return None
        if now < self._fetch_at or len(self._gone) >= self._max_gone:
            return None  # the disk refuses, or removes nothing: that is not to become ever more
        room = min(self._window - len(self._in_flight), self._allowed(now))
        if room <= 0:
            return None
        return (min(room, self._late), self._late_cursor) if self._late else (room, self._cursor)

    def fetched(self, rows: Sequence[Row], *, now: float) -> None:
        """Take rows that `to_fetch` asked for."""
        for row, topic, payload, properties in rows:
            parcel = Parcel(topic, payload, now, None, properties, row=row, alert=self._alert)
            self._fetched.append(parcel)
            if self._late:
                self._late -= 1
                self._late_cursor = row
                self._cursor = self._cursor if self._late else max(self._cursor, row)
            else:
                self._cursor = row
        if not rows:  # the disk holds fewer than we counted: somebody removed them
            self.rows -= self._unsent
            self._unsent = self._late = 0

    def not_fetched(self, *, now: float) -> None:
        """The disk could not be read."""
        self._fetch_at = now + self._retry_s

    def to_commit(self, *, now: float, flush: bool = False) -> list[Parcel]:
        """Results to write to disk now, in order; answer with `committed` or `refused`.

        With `flush` all that are in memory alone: the process is about to end.
        """
        if flush:
            return [*self._loose, *self._waiting]
        oldest = self._oldest()
        if oldest is None or (self.blocked and now < self._retry_at):
            return []
        due = now >= oldest.born + self._batch_wait_s
        if self._taking and self._loose and now < oldest.born + self.ack_timeout_s:
            return []  # on its way: what waits behind it must not overtake it on disk
        if not self._taking or self._paced:
            due = due or len(self._waiting) >= self._batch
        elif now < oldest.born + self.ack_timeout_s:
            size = min(self._batch, len(self._waiting))
            # Rows wait on disk and these behind them: none of these is in flight.
            full = len(self._waiting) >= self._batch
            due = self._unsent > 0 and (due or full) and self._credit >= 2 * size
        if not due:
            return []
        out = list(self._loose)[: self._batch]
        for parcel in self._waiting:
            if len(out) >= self._batch:
                break
            out.append(parcel)
        return out

    def committed(self, parcels: Sequence[Parcel], ids: Sequence[int]) -> None:
        """These, as `to_commit` gave them or the first of them, are on disk under `ids`."""
        self.blocked = False
        for parcel, row in zip(parcels, ids, strict=True):
            parcel.row = row
            self.rows += 1
            if parcel.tried:
                self.reached = max(self.reached, row)
            if parcel in self._in_flight:
                del self._loose[parcel]
                self._cursor = row
                self.reached = max(self.reached, row)
            else:
                self._waiting.popleft()
                self._unsent += 1
                self._credit = max(0, self._credit - 2)
            if parcel.ticket is not None:
                parcel.ticket.settled = True
                parcel.ticket = None

    def found(self, rows: int) -> None:
        """The disk serves, and that many results were on it, older than all that we wrote."""
        self.rows += rows
        self._unsent += rows
        if self._cursor or self._loose:  # newer ones are on their way: these go as soon as they can
            self._late = rows
        self.blocked = False

    def lost(self) -> None:
        """The disk has begun anew, without our rows: what of them is in memory is all there is."""
        for parcel in [*self._in_flight, *self._fetched]:
            parcel.row = None
        self._loose = dict.fromkeys(self._in_flight)
        self._waiting.extendleft(reversed(self._fetched))
        self._fetched.clear()
        self._gone = []
        self._gone_since = None
        self.rows = self._unsent = self._cursor = self.reached = 0
        self._late = self._late_cursor = 0
        self.blocked = False

    def gave_up(self, rows: int) -> None:
        """So many of the `spare` rows are gone; there may be room again."""
        self.rows -= rows
        self._unsent -= rows
        self.blocked = False
        self._retry_at = 0.0

    def refused(self, *, now: float) -> None:
        """The disk took nothing: what waits, waits on."""
        self.blocked = True
        self._retry_at = now + self._retry_s

    def to_remove(self, *, now: float, flush: bool = False) -> list[int]:
        """Rows to remove from disk now, together; answer with `removed` or `not_removed`."""
        since = self._gone_since
        if since is None or (now < self._remove_at and not flush):
            return []
        due = len(self._gone) >= self._gone_batch or now >= since + self._gone_wait_s
        return self._gone if due or flush or self.blocked or self._gone_blocks() else []

    def removed(self) -> None:
        """What `to_remove` gave is gone; there may be room again."""
        self.rows -= len(self._gone)
        self._gone = []
        self._gone_since = None
        self.blocked = False
        self._retry_at = self._remove_at = 0.0

    def not_removed(self, *, now: float) -> None:
        """The disk removed nothing."""
        self.refused(now=now)
        self._remove_at = self._retry_at

    def due_at(self) -> float | None:
        """When a `to_*` method may have something new though nothing happened; None if never."""
        moments: list[float] = []
        oldest = self._oldest()
        if oldest is not None:
            held = not self._taking or (self._paced and not self._loose)
            some = self._unsent > 0 and not self._loose
            late = held or (some and self._credit >= 2 * self._batch)
            wait_s = self._batch_wait_s if late else self.ack_timeout_s
            moments.append(max(oldest.born + wait_s, self._retry_at if self.blocked else 0.0))
        if self._gone_since is not None:
            moments.append(max(self._gone_since + self._gone_wait_s, self._remove_at))
        due = min(moments, default=None)
        if self._paced and self._pace is not None:
            more = self._pace.due_at()
            due = more if due is None else min(due, more)
        return due

    def _oldest(self) -> Parcel | None:
        """The oldest result that is neither confirmed nor on disk."""
        if self._loose:
            return next(iter(self._loose))
        return self._waiting[0] if self._waiting else None

    def _gone_blocks(self) -> bool:
        """Whether rows that are confirmed could be read back before they are removed."""
        return self._cursor == 0 and bool(self._gone)
