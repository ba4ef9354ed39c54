"""Results on their way out: two pure `Uplink`s, alerts and telemetry, joined to broker and disk."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from edgeslm.agent.relief import Relief
from edgeslm.contract.messages import Result, encode, stamp
from edgeslm.contract.settings import OutboxSettings
from edgeslm.core.delivery import Parcel, Uplink
from edgeslm.core.pace import Pace
from edgeslm.logs import Log
from edgeslm.ports import (
    Confirmed,
    Down,
    Outbox,
    OutboxDamagedError,
    OutboxFullError,
    OutboxUnavailableError,
    Report,
    Transport,
    Up,
)

log = Log(__name__)
WINDOW: Final = 512  # results of one lane handed to the link and not confirmed
MAX_GONE: Final = 256  # results of one lane that are confirmed and not removed from disk
# Of those, how many are removed together, and how long they wait for company: what a removal writes
# is mostly the commit, and nobody waits for it. After a kill they are sent again, under their ids.
GONE_BATCH: Final = 192
GONE_S: Final = 2.0
BATCH: Final = 128  # results of telemetry in one commit: its cost to flash is mostly the commit's
BATCH_S: Final = 0.5  # and how long it waits for company
MAX_NOTES: Final = 100  # events kept for an uplink that is down
NOTE_S: Final = 30.0  # before events that the broker put off are sent again; twice as long, up to
NOTE_CAP_S: Final = 3600.0
MAX_LET_GO: Final = 1000  # of those that are on their way, and would not be sent again
NEVER: Final = float("inf")
EPISODE_S: Final = 60.0  # trouble that comes again within it has been told
REOPEN_S: Final = 5.0  # after an attempt at an outbox that cannot be opened; twice as long, up to
REOPEN_CAP_S: Final = 60.0
UNREADABLE_S: Final = 60.0  # rows that cannot be read for so long stand in nobody's way
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
        settings: of the outbox.
        unacknowledged: most inputs whose acknowledgement the broker may not have.
        on_trouble: called with an event's name, a code and a message when the disk or the broker
            refuses, once for each time it begins.

    Attributes:
        changed: what `state` reports may have changed; the reader resets it.
    """

    def __init__(
        self,
        link: Transport[Parcel],
        outbox: Outbox,
        *,
        settings: OutboxSettings,
        unacknowledged: int,
        on_trouble: Callable[[str, str, str], None],
    ) -> None:
        self.link = link
        self.changed = False
        self._drops: Counter[str] = Counter()
        self._outbox = outbox
        self._settings = settings
        self._pace = Pace(settings.catch_up_per_s)
        self._alerts = self._lane(outbox.rows.alerts, alert=True)
        self._telemetry = self._lane(outbox.rows.telemetry, batch=BATCH, batch_wait_s=BATCH_S)
        self._unacknowledged = unacknowledged
        self._relief = Relief(
            outbox,
            self._telemetry,
            settings,
            sent=WINDOW + MAX_GONE,
            unacknowledged=unacknowledged,
            tell=self._tell,
        )
        self._now = 0.0  # of this turn
        # By lane, ids of the newest rows as of the last time that inputs might come again.
        self._written: set[tuple[bool, str]] = set()
        self.recall()
        self._on_trouble = on_trouble
        self._epoch = 0
        self._notes: dict[Parcel, bool] = {}  # events not confirmed: whether they are on their way
        self._note_at: float | None = None  # those that the broker put off are sent again then
        self._note_s = NOTE_S
        self._let_go: set[Parcel] = set()  # those that had to make room while they were
        self._open = False  # the outbox is ready
        self._open_at = 0.0
        self._reopen_s = REOPEN_S
        self._unread: dict[Uplink, float] = {}  # whose rows cannot be read, since when
        self._fitting = False  # the bound is lower now than what is held
        self._told = False  # that the disk refuses
        self._last: dict[str, float] = {}  # event -> when its cause was last seen
        self._resume_at: float | None = None  # results are held back until then
        self._resumed = 0  # times in a row
        self._limits = [NEVER, NEVER]  # bytes of a packet: as the broker says, as we learnt
        self._cut: tuple[bytes, int] = (b"", 0)  # the head of the results in flight, and how often

    @property
    def drops(self) -> dict[str, int]:
        """What was given up, by reason: of the disk by all agents on it, else by this one."""
        return {**self._drops, **self._outbox.given_up}

    @property
    def connected(self) -> bool:
        return self._telemetry.connected

    @property
    def rows(self) -> int:
        """Results on disk; a summary counts as one."""
        return self._alerts.rows + self._telemetry.rows

    @property
    def alerts(self) -> int:
        """Alerts on disk."""
        return self._alerts.rows

    @property
    def withheld(self) -> int:
        """Inputs whose acknowledgement waits for the outbox."""
        return self._alerts.withheld + self._telemetry.withheld

    @property
    def idle(self) -> bool:
        """Whether no result is in memory alone."""
        return self._alerts.idle and self._telemetry.idle

    def live_by(self, settings: OutboxSettings, *, unacknowledged: int) -> None:
        """Bound the outbox by these from now on."""
        self._settings = settings
        self._unacknowledged = unacknowledged
        self._outbox.limit(max_rows=settings.max_results, max_bytes=settings.max_mb * 2**20)
        self._pace.per_s = settings.catch_up_per_s
        for uplink in self._lanes:
            uplink.ack_timeout_s = settings.ack_timeout_s
        self._relief.live_by(settings, unacknowledged=unacknowledged)
        self._fitting = True

    @property
    def _lanes(self) -> tuple[Uplink, Uplink]:
        """Both, the one that goes first first."""
        return self._alerts, self._telemetry

    def _lane(self, rows: int, **commits: Any) -> Uplink:
        timeout_s, pace = self._settings.ack_timeout_s, self._pace
        return Uplink(
            window=WINDOW,
            ack_timeout_s=timeout_s,
            rows=rows,
            gone_batch=GONE_BATCH,
            gone_wait_s=GONE_S,
            max_gone=MAX_GONE,
            pace=pace,
            **commits,
        )

    def take(self, report: Report, *, now: float) -> None:
        """Take what the link reports."""
        self._now = now
        match report:
            case Confirmed():
                if report.publications:
                    self._cut = (b"", 0)
                self._confirm(report.publications, now=now)
                for parcel in report.publications:
                    if self._notes.pop(parcel, None):
                        self._note_s = NOTE_S
                self._let_go.difference_update(report.publications)
                self._drop(report.refused, now=now)
                self._defer(report.deferred, now=now)
            case Up():
                self._epoch = report.epoch
                self._limits[0] = report.max_packet_bytes or NEVER
                self._resume_at = None
                for uplink in self._lanes:
                    uplink.up()
                self._send_notes()
            case Down():
                self._suspect()
                self._lose_events(len(self._let_go))
                self._let_go.clear()
                self._notes = dict.fromkeys(self._notes, False)
                for uplink in self._lanes:
                    uplink.down()
                self._unread.clear()
            case _:
                pass

    def offer(self, parcels: Sequence[Parcel]) -> None:
        """Take results in the order in which they shall leave."""
        if self._written:
            parcels = [parcel for parcel in parcels if not self._is_written(parcel)]
        if alerts := [parcel for parcel in parcels if parcel.alert]:
            self._alerts.offer(alerts)
            parcels = [parcel for parcel in parcels if not parcel.alert]
        self._telemetry.offer(parcels)

    def recall(self) -> None:
        """Learn what was written last: a broker that lost us may not know of its acknowledgement.

        To be called before an agent, or a connection, hears its first input.
        """
        self._written.clear()
        if not self.rows:
            return
        with contextlib.suppress(OutboxUnavailableError):
            for alert in (True, False):
                for payload in self._outbox.newest(self._unacknowledged, alert=alert):
                    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                        self._written.add((alert, str(json.loads(payload)["id"])))

    def say(self, parcel: Parcel) -> None:
        """Publish a state, now or never: a newer one follows."""
        if self.connected:
            self.link.publish([parcel], epoch=self._epoch)

    def note(self, parcel: Parcel) -> None:
        """Publish an event, once it is possible.

        Of many the oldest makes room. It is lost, unless it is on its way: then it may yet arrive.
        """
        if len(self._notes) >= MAX_NOTES:
            oldest = next(iter(self._notes))
            if self._notes.pop(oldest) and len(self._let_go) < MAX_LET_GO:
                self._let_go.add(oldest)
            else:
                self._lose_events(1)
        self._notes[parcel] = self.connected
        self.say(parcel)

    def _send_notes(self) -> None:
        """Publish the events that are not on their way, if there is a link."""
        self._note_at = None
        if self.connected:
            waiting = [parcel for parcel, on_its_way in self._notes.items() if not on_its_way]
            self.link.publish(waiting, epoch=self._epoch)
            self._notes = dict.fromkeys(self._notes, True)

    def _lose_events(self, count: int) -> None:
        if count:  # a count of none is not told
            self._drops["event"] += count

    def pump(self, *, now: float) -> None:
        """Send, write and remove what is due."""
        self._now = now
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            for uplink in self._lanes:
                uplink.resume()
        if self._note_at is not None and now >= self._note_at:
            self._send_notes()
        if not self._open and now >= self._open_at:
            self._open_disk(now=now)
        for uplink in self._lanes:
            self._pump(uplink, now=now)
        self._fitting = self._relief.fit()
        self._relief.expire(now=now)
        served = self._open and not self._unread
        if self._told and served and self.idle:  # all that waited for the disk is through
            self._told = False
            self.changed = True
            log.info("outbox_unblocked", rows=self.rows)
        last = self._last.get("results_deferred")
        if last is not None and self.connected and now >= last + EPISODE_S:
            del self._last["results_deferred"]
            self._resumed = 0
            self._on_trouble("results_taken", "uplink.deferred", "the broker takes results again")

    def _pump(self, uplink: Uplink, *, now: float) -> None:
        self._remove(uplink, now=now)
        try:
            while (wanted := uplink.to_fetch(now=now)) is not None:
                limit, after = wanted
                rows = self._outbox.peek(limit, after=after, alert=uplink is self._alerts)
                self._unread.pop(uplink, None)
                uplink.fetched(rows, now=now)
                self._send(uplink, now=now)
        except OutboxUnavailableError as err:
            uplink.not_fetched(now=now)
            self._block(uplink, err, now=now)
            if now >= self._unread.setdefault(uplink, now) + UNREADABLE_S:
                self._begin_anew(err, now=now)
        self._send(uplink, now=now)
        while parcels := uplink.to_commit(now=now):
            if not self._commit(uplink, parcels, now=now):
                break

    def flush(self, *, now: float) -> None:
        """Write to disk whatever is in memory alone: the process is about to end."""
        for uplink in self._lanes:
            self._remove(uplink, now=now, flush=True)
            while parcels := uplink.to_commit(now=now, flush=True):
                if not self._commit(uplink, parcels, now=now):
                    break

    def due_at(self) -> float | None:
        """When `pump` has something to do though nothing happens."""
        moments = [self._resume_at, self._note_at, *(uplink.due_at() for uplink in self._lanes)]
        if self._fitting:
            moments.append(self._now)
        return min((moment for moment in moments if moment is not None), default=None)

    def _confirm(self, parcels: Sequence[Parcel], *, now: float) -> None:
        if self._alerts.in_flight:
            self._alerts.confirmed(parcels, now=now)
        self._telemetry.confirmed(parcels, now=now)

    def _send(self, uplink: Uplink, *, now: float) -> None:
        if not (parcels := uplink.to_send(now=now)):
            return
        limit = min(self._limits)
        large = [] if limit == NEVER else [p for p in parcels if _packet_bytes(p) > limit]
        for parcel in large:
            self._drops["result_too_large"] += 1
            why = f"{parcel.topic}: {len(parcel.payload)} bytes; the broker takes {limit:.0f}"
            self._tell("result_replaced", "result.too_large", why)
            with contextlib.suppress(Exception):  # bits flipped on disk
                parcel.payload = _too_large(parcel.payload)
        hopeless = [p for p in large if _packet_bytes(p) > limit]
        # Another form (Sparkplug B, CloudEvents) would be made here: the disk has ours, to sum up.
        self.link.publish([p for p in parcels if p not in hopeless], epoch=self._epoch)
        self._drop([(p, "larger than the broker takes") for p in hopeless], now=now)

    def _open_disk(self, *, now: float) -> None:
        try:
            rows = self._outbox.open()
        except OutboxUnavailableError as err:
            self._open_at = now + self._reopen_s
            self._reopen_s = min(REOPEN_CAP_S, 2 * self._reopen_s)
            for uplink in self._lanes:
                self._block(uplink, err, now=now)
        else:
            self._open = True
            self._reopen_s = REOPEN_S
            self._alerts.found(rows.alerts)
            self._telemetry.found(rows.telemetry)
            self._relief.written(rows.telemetry)
            if sum(rows):
                self.recall()

    def _begin_anew(self, err: OutboxUnavailableError, *, now: float) -> None:
        """Move the file away: rows that cannot be read would hold up all others for good."""
        self._unread.clear()
        try:
            aside = self._outbox.set_away()
        except OutboxUnavailableError:  # nor can it be moved: in a minute once more
            return
        self._on_trouble("outbox_set_aside", "outbox.damaged", f"{err}; {self.rows} are in {aside}")
        for uplink in self._lanes:
            uplink.lost()
        self._relief.begin_anew()
        self._written.clear()
        self._open = False
        self._open_at = now

    def _is_written(self, parcel: Parcel) -> bool:
        """Whether `parcel` is on disk already, and so safe; its input is settled then."""
        if not parcel.again:
            return False
        if (parcel.alert, json.loads(parcel.payload)["id"]) not in self._written:
            return False
        if parcel.ticket is not None:
            parcel.ticket.settled = True
        return True

    def _suspect(self) -> None:
        """Learn the largest packet of a broker that names none but cuts us off.

        Where connection after connection ends with the same result at the head and none
        confirmed, the largest on the way is what it does not take.
        """
        sent = [*self._alerts.in_flight, *self._telemetry.in_flight]
        if not sent:  # nobody to connect to, or nothing to send: that says nothing
            return
        head = sent[0].payload
        cuts = self._cut[1] + 1 if head == self._cut[0] else 1
        self._cut = (head, cuts)
        if cuts >= MAX_CUTS:
            self._cut = (b"", 0)
            largest = max(_packet_bytes(parcel) for parcel in sent)
            if largest >= SUSPECT_BYTES:
                self._limits[1] = largest - 1

    def _defer(self, deferred: Iterable[tuple[Parcel, str]], *, now: float) -> None:
        """Keep results and events that the broker does not take now; try again after a while."""
        results = []
        for parcel, why in deferred:
            if any(parcel in lane.in_flight for lane in self._lanes):
                results.append((parcel, why))
            elif parcel in self._notes:
                self._notes[parcel] = False
                if self._note_at is None:
                    self._note_at = now + self._note_s
                    self._note_s = min(NOTE_CAP_S, 2 * self._note_s)
            elif parcel in self._let_go:
                self._let_go.discard(parcel)
                self._lose_events(1)
        if not results:
            return
        for uplink in self._lanes:
            uplink.defer(parcel for parcel, _ in results)
        parcel, why = results[0]
        self._tell("results_deferred", "uplink.deferred", f"{parcel.topic}: {why}")
        if self._resume_at is None:
            self._resume_at = now + min(RESUME_CAP_S, RESUME_S * 2.0**self._resumed)
            self._resumed = min(self._resumed + 1, 10)

    def _tell(self, event: str, code: str, message: str) -> None:
        """Tell of trouble when it begins, and again when it begins anew."""
        if self._now >= self._last.get(event, -NEVER) + EPISODE_S:
            self._on_trouble(event, code, message)
        self._last[event] = self._now

    def _commit(self, uplink: Uplink, parcels: list[Parcel], *, now: float) -> bool:
        """Write as many of `parcels` as there is room for; return whether it was any."""
        alert = uplink is self._alerts
        size = len(parcels)
        while size:
            part = parcels[:size]
            rows = [(p.topic, p.payload, p.properties) for p in part]
            try:
                ids = self._outbox.append(rows, alert=alert)
            except OutboxFullError as err:
                trouble: OutboxFullError | OutboxUnavailableError = err
                if not self._relief.evict(err):
                    size //= 2
            except OutboxUnavailableError as err:
                size = 0
                trouble = err
            else:
                uplink.committed(part, ids)
                if not alert:
                    self._relief.written(size)
                self._relief.thin()
                return True
        self._block(uplink, trouble, now=now)
        return False

    def _remove(self, uplink: Uplink, *, now: float, flush: bool = False) -> None:
        if ids := uplink.to_remove(now=now, flush=flush):
            try:
                self._outbox.remove(ids, alert=uplink is self._alerts)
            except OutboxUnavailableError as err:
                self._block(uplink, err, now=now)
                uplink.not_removed(now=now)
            else:
                uplink.removed()
                self.changed = self.changed or self.rows == 0

    def _block(
        self, uplink: Uplink, err: OutboxFullError | OutboxUnavailableError, *, now: float
    ) -> None:
        if not self._told:
            self._told = True
            self.changed = True
            self._on_trouble("outbox_blocked", err.code, str(err))
        uplink.refused(now=now)
        if isinstance(err, OutboxDamagedError):
            self._begin_anew(err, now=now)

    def _drop(self, refused: Iterable[tuple[Parcel, str]], *, now: float) -> None:
        """Give up results that the broker refuses: it would refuse them again."""
        for parcel, why in refused:
            self._notes.pop(parcel, None)
            self._let_go.discard(parcel)
            self._confirm([parcel], now=now)
            self._drops["result_refused"] += 1
            self._tell("result_refused", "uplink.refused", f"{parcel.topic}: {why}")


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
    if "time_mono" in whole and "boot" in whole:
        stamp(result, mono=whole["time_mono"], boot=whole["boot"], trust=whole.get("clock"))
    return encode(result)
