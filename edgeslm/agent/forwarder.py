"""Results on their way out: the pure `Uplink` joined to the broker and the disk."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from edgeslm.contract.messages import Result, encode
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
EPISODE_S: Final = 60.0  # trouble that comes again within it has been told
REOPEN_S: Final = 5.0  # between two attempts at an outbox that could not be opened
RESUME_S: Final = 1.0  # after results were deferred; twice as long each time, up to
RESUME_CAP_S: Final = 30.0
MAX_CUTS: Final = 3  # connections in a row that ended with the same result unconfirmed
SUSPECT_BYTES: Final = 16_384  # a result of this size may be what the broker cuts us off for
PACKET_OVERHEAD: Final = 32  # bytes of a PUBLISH besides topic, payload and correlation data


class Forwarder:
    """Owned by the agent's main thread.

    Args:
        link: the uplink; not started yet.
        outbox: where results go that the uplink would not take.
        ack_timeout_s: see `OutboxSettings`.
        on_trouble: called with an event's name, a code and a message when the disk or the broker
            refuses, once for each time it begins.

    Attributes:
        changed: what `state` reports may have changed; the reader resets it.
        drops: what was given up, by reason; see `edgeslm.contract.vocabulary.DROPS`.
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
        self.drops: Counter[str] = Counter()
        self._outbox = outbox
        self._uplink = Uplink(window=WINDOW, ack_timeout_s=ack_timeout_s, rows=len(outbox))
        self._on_trouble = on_trouble
        self._epoch = 0
        self._notes: dict[Parcel, None] = {}  # events not confirmed
        self._open = False  # the outbox is ready
        self._open_at = 0.0
        self._told = False  # that the disk refuses
        self._last: dict[str, float] = {}  # event -> when its cause was last seen
        self._resume_at: float | None = None  # results are held back until then
        self._resumed = 0  # times in a row
        self._limits = [NEVER, NEVER]  # bytes of a packet: as the broker says, as we learnt
        self._cut: tuple[bytes, int] = (b"", 0)  # the head of the results in flight, and how often

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

    def set_ack_timeout(self, ack_timeout_s: float) -> None:
        """See `OutboxSettings`; from now on."""
        self._uplink.ack_timeout_s = ack_timeout_s

    def take(self, report: Report, *, now: float) -> None:
        """Take what the link reports."""
        match report:
            case Confirmed():
                if report.publications:
                    self._cut = (b"", 0)
                self._uplink.confirmed(report.publications, now=now)
                for parcel in report.publications:
                    self._notes.pop(parcel, None)
                self._drop(report.refused, now=now)
                self._defer(report.deferred, now=now)
            case Up():
                self._epoch = report.epoch
                self._limits[0] = report.max_packet_bytes or NEVER
                self._resume_at = None
                self._uplink.up()
                self.link.publish(list(self._notes), epoch=self._epoch)
            case Down():
                self._suspect()
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
            self.drops["event"] += 1
        self._notes[parcel] = None
        self.say(parcel)

    def pump(self, *, now: float) -> None:
        """Send, write and remove what is due."""
        uplink = self._uplink
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            uplink.resume()
        if not self._open and now >= self._open_at:
            self._open_disk(now=now)
        self._remove(now=now)
        try:
            while (wanted := uplink.to_fetch()) is not None:
                limit, after = wanted
                uplink.fetched(self._outbox.peek(limit, after=after), now=now)
                self._send(now=now)
        except OutboxUnavailableError as err:
            self._block(err, now=now)
        self._send(now=now)
        while parcels := uplink.to_commit(now=now):
            if not self._commit(parcels, now=now):
                break
        if self._told and self._open and uplink.idle:  # all that waited for the disk is through
            self._told = False
            self.changed = True
            log.info("outbox_unblocked", rows=self.rows)
        last = self._last.get("results_deferred")
        if last is not None and self.connected and now >= last + EPISODE_S:
            del self._last["results_deferred"]
            self._resumed = 0
            self._on_trouble("results_taken", "uplink.deferred", "the broker takes results again")

    def flush(self, *, now: float) -> None:
        """Write to disk whatever is in memory alone: the process is about to end."""
        self._remove(now=now, flush=True)
        while parcels := self._uplink.to_commit(now=now, flush=True):
            if not self._commit(parcels, now=now):
                break

    def due_at(self) -> float | None:
        """When `pump` has something to do though nothing happens."""
        due = self._uplink.due_at()
        if self._resume_at is None:
            return due
        return self._resume_at if due is None else min(due, self._resume_at)

    def _send(self, *, now: float) -> None:
        if not (parcels := self._uplink.to_send()):
            return
        limit = min(self._limits)
        large = [] if limit == NEVER else [p for p in parcels if _packet_bytes(p) > limit]
        for parcel in large:
            self.drops["result_too_large"] += 1
            why = f"{parcel.topic}: {len(parcel.payload)} bytes; the broker takes {limit:.0f}"
            self._tell("result_replaced", "result.too_large", why, now=now)
            with contextlib.suppress(ValueError, KeyError, TypeError):  # bits flipped on disk
                parcel.payload = _too_large(parcel.payload)
        hopeless = [p for p in large if _packet_bytes(p) > limit]
        self.link.publish([p for p in parcels if p not in hopeless], epoch=self._epoch)
        self._drop([(p, "larger than the broker takes") for p in hopeless], now=now)

    def _open_disk(self, *, now: float) -> None:
        try:
            rows = self._outbox.open()
        except OutboxUnavailableError as err:
            self._open_at = now + REOPEN_S
            self._block(err, now=now)
        else:
            self._open = True
            self._uplink.found(rows)

    def _suspect(self) -> None:
        """Learn the largest packet of a broker that names none but cuts us off.

        Where connection after connection ends with the same result at the head and none
        confirmed, the largest on the way is what it does not take.
        """
        sent = self._uplink.in_flight
        if not sent:  # nobody to connect to, or nothing to send: that says nothing
            return
        head = next(iter(sent)).payload
        cuts = self._cut[1] + 1 if head == self._cut[0] else 1
        self._cut = (head, cuts)
        if cuts >= MAX_CUTS:
            self._cut = (b"", 0)
            largest = max(_packet_bytes(parcel) for parcel in sent)
            if largest >= SUSPECT_BYTES:
                self._limits[1] = largest - 1

    def _defer(self, deferred: Iterable[tuple[Parcel, str]], *, now: float) -> None:
        """Keep results that the broker does not take now, and try again after a while."""
        results = [(p, why) for p, why in deferred if p in self._uplink.in_flight]
        if not results:
            return
        self._uplink.defer(parcel for parcel, _ in results)
        parcel, why = results[0]
        self._tell("results_deferred", "uplink.deferred", f"{parcel.topic}: {why}", now=now)
        if self._resume_at is None:
            self._resume_at = now + min(RESUME_CAP_S, RESUME_S * 2.0**self._resumed)
            self._resumed = min(self._resumed + 1, 10)

    def _tell(self, event: str, code: str, message: str, *, now: float) -> None:
        """Tell of trouble when it begins, and again when it begins anew."""
        if now >= self._last.get(event, -NEVER) + EPISODE_S:
            self._on_trouble(event, code, message)
        self._last[event] = now

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
            self.drops["result_refused"] += 1
            self._tell("result_refused", "uplink.refused", f"{parcel.topic}: {why}", now=now)


def _packet_bytes(parcel: Parcel) -> int:
    """Size of the PUBLISH that carries `parcel`, or a little more."""
    size = len(parcel.payload) + len(parcel.topic.encode()) + PACKET_OVERHEAD
    if parcel.properties and isinstance(data := parcel.properties.get("CorrelationData"), bytes):
        size += len(data)
    return size


def _too_large(payload: bytes) -> bytes:
    """Return the result that says that this one does not fit."""
    whole: Result = json.loads(payload)
    result: Result = {
        "schema": whole["schema"],
        "id": whole["id"],
        "device": whole["device"],
        "topic": whole["topic"],
        "source": whole["source"],
        "time_in": whole["time_in"],
        "time_out": whole["time_out"],
        "latency_ms": whole["latency_ms"],
        "task": whole["task"],
        "model": whole["model"],
        "error": {
            "code": "result.too_large",
            "message": f"the answer has {len(payload)} bytes, more than the uplink broker takes",
        },
    }
    for mark in ("redelivered", "retained"):
        if mark in whole:
            result[mark] = whole[mark]
    return encode(result)
