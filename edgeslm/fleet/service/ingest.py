"""One MQTT session of the service, whose messages go into the database.

A message is acknowledged after the commit that holds it. While the database is down they stay with
the broker: what was taken waits here, and no more is read than there is room for.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from sqlalchemy.exc import DataError, IntegrityError

from edgeslm.core.backoff import full_jitter
from edgeslm.errors import UnavailableError
from edgeslm.fleet.service.inbound import Inbound, RefusedError, read
from edgeslm.logs import Log
from edgeslm.ports import (
    Arrived,
    Clock,
    Down,
    Letter,
    Received,
    Report,
    Sink,
    Subscribed,
    Transport,
    Up,
)

MAX_BATCH: Final = 500  # messages of one transaction
BATCH_S: Final = 0.1  # that the first of a batch waits for more
RECEIVE_MAXIMUM: Final = 1024  # messages taken and not acknowledged
WAIT_S: Final = 1.0
RETRY_S: Final = 0.5  # a database that is down is asked again within twice this, then less often
RETRY_CAP_S: Final = 10.0
TELL_S: Final = 60.0  # between two lines on messages refused for one reason
CLOSE_S: Final = 2.0
_SHOWN: Final = 200  # characters of a topic

log = Log(__name__)


class Keeps(Protocol):
    """Where messages go."""

    def keep(self, messages: Sequence[Inbound], now: float) -> Mapping[str, int]:
        """Commit all of them, or none; return what was refused of them, by reason.

        Raises:
            UnavailableError: not now.
            DataError, IntegrityError: one of them cannot be kept, ever.
        """


class Refusals:
    """Counts messages that were refused, and says so once a minute for each reason. One thread's.

    Attributes:
        counts: by reason.
    """

    def __init__(self, clock: Clock) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._told: dict[str, float] = {}

    def note(self, reason: str, about: str, count: int = 1) -> None:
        """Messages were refused; `about`: a topic or a device."""
        self.counts[reason] += count
        now = self._clock.monotonic()
        if now - self._told.get(reason, -TELL_S) >= TELL_S:
            self._told[reason] = now
            shown = about.encode("utf-8", "replace").decode()[:_SHOWN]
            log.warning("message_refused", reason=reason, about=shown, count=self.counts[reason])


class Ingest:
    """Reads what devices say, on a thread of its own, until it is stopped.

    Args:
        keeps: takes the messages.
        connect: makes the session's transport, given where it reports to.
        root: topic levels that the fleet's devices share.
        filters: of the session; none: it only takes what the broker still holds for it.
        clock: for when a message came.
        heard: called, on this thread, with the devices of what was committed.

    Attributes:
        kept: messages that were committed.
        refused: that were not, by reason.
        unshared: the broker has refused to share a subscription out.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        keeps: Keeps,
        connect: Callable[[Sink], Transport[Letter]],
        *,
        root: str,
        filters: Collection[str],
        clock: Clock,
        heard: Callable[[Collection[str]], None],
    ) -> None:
        self.kept = 0
        self.unshared = False
        self._keeps = keeps
        self._root = root
        self._filters = frozenset(filters)
        self._clock = clock
        self._heard = heard
        self._reports: SimpleQueue[Report | None] = SimpleQueue()
        self._link = connect(self._reports.put)
        self._stopping = threading.Event()
        self._refusals = Refusals(clock)
        self._up_at: float | None = None
        self._last_at = clock.monotonic()

    @property
    def refused(self) -> Counter[str]:
        return self._refusals.counts

    def up_s(self) -> float:
        """Return for how long the session has been connected; 0: it is not. For any thread."""
        up_at = self._up_at
        return self._clock.monotonic() - up_at if up_at is not None else 0.0

    def quiet_s(self) -> float:
        """Return for how long nothing has come, connected all the while; 0 where it is not."""
        if self._up_at is None:
            return 0.0
        return self._clock.monotonic() - max(self._up_at, self._last_at)

    def run(self, *, forget: Callable[[], bool] = lambda: False) -> None:
        """Take messages until `stop`; then leave.

        Args:
            forget: asked at the end: whether the broker is to drop the session.
        """
        self._link.subscribe(self._filters)
        self._link.start()
        try:
            while not self._stopping.is_set():
                self.step()
        finally:
            self._link.stop(forget=forget())
            self._link.join(CLOSE_S)

    def stop(self) -> None:
        """Have `run` return soon; may be called by another thread."""
        self._stopping.set()
        self._reports.put(None)

    def step(self) -> None:
        """Wait for messages, gather more of them, and commit them."""
        messages = self._gathered()
        if not messages:
            return
        taken: list[Inbound] = []
        for message in messages:
            try:
                taken.append(read(self._root, message.topic, message.payload))
            except RefusedError as err:
                self._refusals.note(err.reason, message.topic)
        if self._commit(taken):
            self.kept += len(taken)
            self._link.settle(messages)
            self._heard({each.device for each in taken})

    def _gathered(self) -> list[Received]:
        messages: list[Received] = []
        until = self._clock.monotonic() + WAIT_S
        while len(messages) < MAX_BATCH and not self._stopping.is_set():
            left = until - self._clock.monotonic()
            try:
                report = self._reports.get(timeout=max(0.0, left)) if left > 0 else None
            except Empty:
                report = None
            if report is None:
                break
            if isinstance(report, Arrived):
                if not messages:
                    until = self._clock.monotonic() + BATCH_S
                messages += report.messages
                self._last_at = self._clock.monotonic()
            else:
                self._note(report)
        return messages

    def _note(self, report: Report) -> None:
        match report:
            case Up():
                self._up_at = self._clock.monotonic()
            case Down():
                if self._up_at is not None or report.refused:
                    log.warning("ingest_lost", reason=report.reason, refused=report.refused)
                self._up_at = None
            case Subscribed() if report.refused:
                shared = [each for each in report.refused if each.startswith("$share/")]
                self.unshared = self.unshared or bool(shared)
                if not shared:
                    log.error("subscription_refused", filters=sorted(report.refused))
            case _:
                pass

    def _commit(self, taken: Sequence[Inbound]) -> bool:
        """Commit them, however long the database is away; False where we are stopped before."""
        attempt = 0
        while not self._stopping.is_set():
            try:
                self._keep(taken)
            except UnavailableError as err:
                if not attempt:
                    log.warning("database_lost", code=err.code, message=str(err))
                attempt += 1
                chance = random.random()  # noqa: S311 -- spreads retries, hides nothing
                wait = full_jitter(attempt, base_s=RETRY_S, cap_s=RETRY_CAP_S, chance=chance)
                self._stopping.wait(wait)
            else:
                if attempt:
                    log.info("database_back", attempts=attempt)
                return True
        return False

    def _keep(self, taken: Sequence[Inbound]) -> None:
        """Commit them; those that cannot be kept are refused, and the others are kept."""
        if not taken:
            return
        now = self._clock.wall()
        try:
            self._count(self._keeps.keep(taken, now))
        except (DataError, IntegrityError):
            for each in taken:
                try:
                    self._count(self._keeps.keep([each], now), each.device)
                except (DataError, IntegrityError) as err:
                    self._refusals.note("unstorable", f"{each.device} {each.kind}")
                    log.fault("message_unstorable", err, device=each.device, kind=each.kind)

    def _count(self, refused: Mapping[str, int], about: str = "") -> None:
        for reason, count in refused.items():
            self._refusals.note(reason, about, count)
