"""Results on their way out: the pure `Uplink` joined to the broker and the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from edgeslm.core.delivery import Parcel, Uplink
from edgeslm.logs import Log
from edgeslm.ports import (
    Confirmed,
    Down,
    Outbox,
    OutboxFullError,
    OutboxUnavailableError,
    Report,
    Transport,
    Up,
)

log = Log(__name__)
WINDOW: Final = 1024  # results handed to the link and not confirmed
MAX_NOTES: Final = 100  # events kept for an uplink that is down
NEVER: Final = float("inf")


class Forwarder:
    """Owned by the agent's main thread.

    Args:
        link: the uplink; not started yet.
        outbox: where results go that the uplink would not take.
        ack_timeout_s: see `OutboxSettings`.
        on_trouble: called with an event's name and an error when the disk or the broker refuses,
            once for each time it begins.

    Attributes:
        changed: what `state` reports may have changed; the reader resets it.
        refused: results that the broker refused to take.
        lost_notes: events dropped because too many waited.
    """

    def __init__(
        self,
        link: Transport[Parcel],
        outbox: Outbox,
        *,
        ack_timeout_s: float,
        on_trouble: Callable[[str, str, str], None],
    ) -> None:
        self.link = link
        self.changed = False
        self.refused = 0
        self.lost_notes = 0
        self._outbox = outbox
        self._uplink = Uplink(window=WINDOW, ack_timeout_s=ack_timeout_s, rows=len(outbox))
        self._on_trouble = on_trouble
        self._epoch = 0
        self._notes: dict[Parcel, None] = {}  # events not confirmed
        self._told = False  # that the disk refuses

    @property
    def connected(self) -> bool:
        return self._uplink.connected

    @property
    def rows(self) -> int:
        """Results on disk."""
        return self._uplink.rows

    @property
    def withheld(self) -> int:
        """Inputs whose acknowledgement waits for the outbox."""
        return self._uplink.withheld

    @property
    def idle(self) -> bool:
        """Whether no result is in memory alone."""
        return self._uplink.idle

    def take(self, report: Report, *, now: float) -> None:
        """Take what the link reports."""
        match report:
            case Confirmed():
                self._uplink.confirmed(report.publications, now=now)
                for parcel in report.publications:
                    self._notes.pop(parcel, None)
                if report.refused:
                    self._drop(report.refused, now=now)
            case Up():
                self._epoch = report.epoch
                self._uplink.up()
                self.link.publish(list(self._notes), epoch=self._epoch)
            case Down():
                self._uplink.down()
            case _:
                pass

    def offer(self, parcels: Iterable[Parcel]) -> None:
        """Take results in the order in which they shall leave."""
        self._uplink.offer(parcels)

    def say(self, parcel: Parcel) -> None:
        """Publish a state, now or never: a newer one follows."""
        if self.connected:
            self.link.publish([parcel], epoch=self._epoch)

    def note(self, parcel: Parcel) -> None:
        """Publish an event, once it is possible."""
        if len(self._notes) >= MAX_NOTES:
            del self._notes[next(iter(self._notes))]
            self.lost_notes += 1
        self._notes[parcel] = None
        self.say(parcel)

    def pump(self, *, now: float) -> None:
        """Send, write and remove what is due."""
        uplink = self._uplink
        self._remove(now=now)
        try:
            while (wanted := uplink.to_fetch()) is not None:
                limit, after = wanted
                uplink.fetched(self._outbox.peek(limit, after=after), now=now)
                self._send()
        except OutboxUnavailableError as err:
            self._block(err, now=now)
        self._send()
        while parcels := uplink.to_commit(now=now):
            if not self._commit(parcels, now=now):
                break
        if self._told and uplink.idle:  # all that waited for the disk is through
            self._told = False
            self.changed = True
            log.info("outbox_unblocked", rows=self.rows)

    def flush(self, *, now: float) -> None:
        """Write to disk whatever is in memory alone: the process is about to end."""
        self._remove(now=now, flush=True)
        while parcels := self._uplink.to_commit(now=NEVER):
            if not self._commit(parcels, now=now):
                break

    def due_at(self) -> float | None:
        """When `pump` has something to do though nothing happens."""
        return self._uplink.due_at()

    def _send(self) -> None:
        if parcels := self._uplink.to_send():
            self.link.publish(parcels, epoch=self._epoch)

    def _commit(self, parcels: list[Parcel], *, now: float) -> bool:
        """Write as many of `parcels` as there is room for; return whether it was any."""
        size = len(parcels)
        while size:
            part = parcels[:size]
            try:
                ids = self._outbox.append([(p.topic, p.payload, p.properties) for p in part])
            except OutboxFullError as err:
                size //= 2
                trouble: OutboxFullError | OutboxUnavailableError = err
            except OutboxUnavailableError as err:
                size = 0
                trouble = err
            else:
                self._uplink.committed(part, ids)
                return True
        self._block(trouble, now=now)
        return False

    def _remove(self, *, now: float, flush: bool = False) -> None:
        if ids := self._uplink.to_remove(now=now, flush=flush):
            try:
                self._outbox.remove(ids)
            except OutboxUnavailableError as err:
                self._block(err, now=now)
            else:
                self._uplink.removed()
                self.changed = self.changed or self._uplink.rows == 0

    def _block(self, err: OutboxFullError | OutboxUnavailableError, *, now: float) -> None:
        if not self._told:
            self._told = True
            self.changed = True
            self._on_trouble("outbox_blocked", err.code, str(err))
        self._uplink.refused(now=now)

    def _drop(self, refused: Iterable[tuple[Parcel, str]], *, now: float) -> None:
        """Give up results that the broker refuses: it would refuse them again."""
        for parcel, why in refused:
            self._notes.pop(parcel, None)
            self._uplink.confirmed([parcel], now=now)
            if not self.refused:
                self._on_trouble("result_refused", "uplink.refused", f"{parcel.topic}: {why}")
            self.refused += 1
