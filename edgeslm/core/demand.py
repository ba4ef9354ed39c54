"""Which blocks to send next, to all who want them at once.

A block goes to everybody who listens to its blob. So it is sent once however many ask for it, and
not again to who was listening when it went, unless they say that it did not come; then once for
all who say so at that time. Blobs take turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

FRESH_S: Final = 5.0  # a block that went so shortly ago is still on its way to who lags behind
LISTENS_S: Final = 0.5  # before it asks first, a device has listened about so long
TOGETHER_S: Final = 1.0  # so far apart, those who miss a block ask for it again
FORGET_S: Final = 60.0  # without a request
MAX_ASKED: Final = 128  # blocks in one request: the longest window that can be set
MAX_BLOBS: Final = 256
MAX_DEVICES: Final = 20_000  # of one blob, whose first request is remembered


@dataclass(slots=True)
class _Sent:
    """A block that went lately; `claims`: who had asked for it again by then."""

    at: float
    claims: set[str] | None = None


@dataclass(slots=True)
class _Blob:
    count: int
    queue: dict[int, None] = field(default_factory=dict)
    sent: dict[int, _Sent] = field(default_factory=dict)  # by age
    claims: dict[int, set[str]] = field(default_factory=dict)  # who asked again for what is queued
    devices: dict[str, float] = field(default_factory=dict)  # when each asked first
    asked_at: float = 0.0

    def want(self, block: int, device: str, *, again: bool, now: float) -> bool:
        """Queue a block where it is to be sent for this device; return whether that is new."""
        since = self.devices.setdefault(device, now)
        new = block not in self.queue
        if new:
            if not _is_due(self.sent.get(block), device, since, again=again, now=now):
                return False
            self.queue[block] = None
        if again:
            self.claims.setdefault(block, set()).add(device)
        return new


class Demand:
    """What devices want. Time is an argument, in seconds on any monotonic scale.

    Attributes:
        merged: blocks asked for that need not be sent for it.
    """

    def __init__(self) -> None:
        self.merged = 0
        self._blobs: dict[str, _Blob] = {}
        self._turns: deque[str] = deque()

    def want(  # noqa: PLR0913 -- by name
        self,
        blob: str,
        *,
        count: int,
        device: str,
        ranges: Iterable[tuple[int, int]],
        again: bool,
        now: float,
    ) -> str | None:
        """Take a request; return why it is refused, None where it is not.

        Args:
            blob: of which.
            count: blocks that it has.
            device: who asks.
            ranges: first and last block of each.
            again: they were asked for before and did not come.
            now: when.
        """
        ranges = list(ranges)
        if (why := _problem(ranges, count)) is not None:
            return why
        held = self._blobs.get(blob)
        if held is None:
            if len(self._blobs) >= MAX_BLOBS and not self._forget(now):
                return "busy"
            held = self._blobs[blob] = _Blob(count)
        held.asked_at = now
        _forget_old(held, now)
        if len(held.devices) >= MAX_DEVICES:
            held.devices.clear()
        idle = not held.queue
        for first, last in ranges:
            for block in range(first, last + 1):
                self.merged += not held.want(block, device, again=again, now=now)
        if idle and held.queue:
            self._turns.append(blob)
        return None

    def take(self, now: float) -> tuple[str, int] | None:
        """Return the next block to send; None: nobody waits for any."""
        if not self._turns:
            return None
        blob = self._turns.popleft()
        held = self._blobs[blob]
        block = next(iter(held.queue))
        del held.queue[block]
        held.sent.pop(block, None)
        held.sent[block] = _Sent(now, held.claims.pop(block, None))
        if held.queue:
            self._turns.append(blob)
        return blob, block

    def drop(self, blob: str) -> None:
        """Nothing of this blob can be sent."""
        self._blobs.pop(blob, None)
        if blob in self._turns:
            self._turns.remove(blob)

    def clear(self) -> None:
        """Forget all: the connection was lost, and devices ask again for what did not come."""
        self._blobs.clear()
        self._turns.clear()

    def __len__(self) -> int:
        """Blocks that wait to be sent."""
        return sum(len(held.queue) for held in self._blobs.values())

    @property
    def blobs(self) -> frozenset[str]:
        """Those that were asked for lately."""
        return frozenset(self._blobs)

    def _forget(self, now: float) -> bool:
        """Forget blobs that nobody has asked for lately; return whether there were any."""
        idle = [
            blob
            for blob, held in self._blobs.items()
            if not held.queue and held.asked_at < now - FORGET_S
        ]
        for blob in idle:
            del self._blobs[blob]
        return bool(idle)


def _problem(ranges: list[tuple[int, int]], count: int) -> str | None:
    if any(not 0 <= first <= last < count for first, last in ranges):
        return "out_of_range"
    if sum(last - first + 1 for first, last in ranges) > MAX_ASKED:
        return "too_much"
    return None


def _is_due(sent: _Sent | None, device: str, since: float, *, again: bool, now: float) -> bool:
    """Whether a block is to be sent for a device that asks for it now."""
    if sent is None:
        return True
    if not again:
        return sent.at < since - LISTENS_S  # it was not listening yet, as far as we know
    if sent.claims is None or sent.at < now - TOGETHER_S:
        return True
    if device in sent.claims:  # it asked again, it was sent again, and it did not come
        return True
    sent.claims.add(device)
    return False


def _forget_old(held: _Blob, now: float) -> None:
    while held.sent:
        block = next(iter(held.sent))
        if held.sent[block].at >= now - FRESH_S:
            break
        del held.sent[block]
