"""Room on disk during a long outage: telemetry is summed up, given up at a bound, or too old."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from edgeslm.contract.settings import OutboxSettings
from edgeslm.core.backlog import Stored, Thinner, to_evict, to_expire
from edgeslm.core.delivery import Uplink
from edgeslm.ports import Outbox, OutboxFullError, OutboxUnavailableError

THIN: Final = 512  # rows that are summed up together
CHUNK: Final = 1024  # rows that are given up together, at most
EVICT_SHARE: Final = 64  # of the bound on rows goes together: a commit costs flash whatever goes
EXPIRE_S: Final = 60.0  # between two looks at the age of what is on disk
TAIL_SHARE: Final = 4  # of the bound on rows stays as it is, at most


class Relief:
    """Owned by the forwarder.

    Args:
        outbox: see `Forwarder`.
        uplink: of telemetry.
        settings: of the outbox.
        sent: most rows that an earlier life may have handed to the broker and not removed.
        unacknowledged: most inputs whose acknowledgement the broker may not have: of the newest
            rows so many stay as they are, since their inputs may come again after a kill.
        tell: called with an event's name, a code and a message, each time.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        outbox: Outbox,
        uplink: Uplink,
        settings: OutboxSettings,
        *,
        sent: int,
        unacknowledged: int,
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._outbox = outbox
        self._uplink = uplink
        self._settings = settings
        self._sent = sent
        self._unacknowledged = unacknowledged
        self._tell = tell
        self._thinner: Thinner | None = None  # begun at the first row that it is to take
        self._unthinned = outbox.rows.telemetry
        self._expire_at = 0.0

    def live_by(self, settings: OutboxSettings, *, unacknowledged: int) -> None:
        """Make room by these from now on."""
        self._settings = settings
        self._unacknowledged = unacknowledged
        if self._thinner is not None:
            self._thinner.period_s = settings.summary_s

    def written(self, rows: int) -> None:
        """So many rows of telemetry are on disk besides."""
        self._unthinned += rows

    def begin_anew(self) -> None:
        """The disk has none of the rows that it had."""
        self._thinner = None
        self._unthinned = 0

    def thin(self) -> None:
        """Sum up the oldest telemetry, where there is much."""
        settings, uplink = self._settings, self._uplink
        most = min(THIN, max(2, settings.max_results // 8))
        tail = min(self._unacknowledged, settings.max_results // TAIL_SHARE)
        spare, after = uplink.spare
        full = settings.thin_share < 1 and self._outbox.share > settings.thin_share
        if not full or min(spare, self._unthinned) < most + tail:
            return
        try:
            thinner = self._thinner or self._begin_thinner()
            thinner.forget(max(after, uplink.reached))
            rows = self._outbox.peek(most + tail, after=thinner.after, alert=False)
            if len(rows) < most + tail:
                self._unthinned = len(rows)
                return
            self._unthinned -= most
            thinned = thinner.take(rows[:most])
            if thinned.grown:
                self._outbox.thin(thinned, reason="telemetry_thinned")
        except OutboxUnavailableError:  # the next commit says so
            self._thinner = None
            return
        uplink.gave_up(len(thinned.gone))
        if thinned.gone:
            self._tell("telemetry_thinned", "outbox.thinned", self._left)

    def _begin_thinner(self) -> Thinner:
        """Begin behind what an earlier life may have sent: nobody is to get it in two forms."""
        rows = self._outbox.peek(self._sent, after=0, alert=False)
        self._thinner = Thinner(self._settings.summary_s, rows[-1][0] if rows else 0)
        return self._thinner

    def evict(self, err: OutboxFullError) -> bool:
        """Give up the oldest telemetry, where that can make room; return whether any went.

        For a lot of room this is called again and again.
        """
        most, after = self._uplink.spare
        if err.rows > most or most <= 0:
            return False
        rows = max(err.rows, min(CHUNK, self._settings.max_results // EVICT_SHARE))
        try:
            found = self._outbox.oldest(min(most, CHUNK), after=after)
            if evicted := to_evict(found, rows=rows, size=err.size):
                self._give_up(evicted, "telemetry_evicted")
        except OutboxUnavailableError:
            return False
        if evicted:
            self._tell("telemetry_evicted", "outbox.evicted", self._left)
        return bool(evicted)

    def fit(self) -> bool:
        """Give up telemetry of an outbox above its bounds; return whether more has to go."""
        if not self._uplink.rows or self._outbox.share <= 1:
            return False
        rows = len(self._outbox) - self._settings.max_results
        return self.evict(OutboxFullError("the bound is lower now", rows=rows, size=0))

    def expire(self, *, now: float) -> None:
        """Give up telemetry that has waited for too long."""
        if now < self._expire_at or not self._uplink.rows:
            return
        most, after = self._uplink.spare
        try:
            found = self._outbox.oldest(max(0, min(most, CHUNK)), after=after)
            if expired := to_expire(found, max_age_s=self._settings.max_age_s):
                self._give_up(expired, "telemetry_expired")
        except OutboxUnavailableError:
            expired = []
        if not expired:
            self._expire_at = now + EXPIRE_S
            return
        self._tell("telemetry_expired", "outbox.evicted", self._left)

    @property
    def _left(self) -> str:
        return f"{len(self._outbox)} results and summaries wait on disk"

    def _give_up(self, stored: Sequence[Stored], reason: str) -> None:
        """Remove these rows of telemetry; it is counted for good how many results they were."""
        ids, results = [one.row for one in stored], sum(one.results for one in stored)
        self._outbox.give_up(ids, reason=reason, results=results)
        self._uplink.gave_up(len(stored))
        if self._thinner is not None:
            self._thinner.forget(stored[-1].row)
