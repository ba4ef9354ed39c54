"""Thousands of MQTT sessions on one thread.

Each is a client of its own, with a connection and a last will of its own: what a broker, its rules
and its shared subscriptions see is a fleet.
"""

from __future__ import annotations

import heapq
import itertools
import random
import selectors
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from edgeslm.adapters.mqtt import BASE_S, CAP_S, CONNECT_TIMEOUT_S, FAILURE, STEADY_S
from edgeslm.adapters.mqtt_open import LinkConfig, describe, open_client
from edgeslm.adapters.paho_stock import StockClient
from edgeslm.core.backoff import full_jitter
from edgeslm.ports import Arrived, Confirmed, Down, Letter, Received, Sink, Subscribed, Up

MISC_S: Final = 5.0  # between two looks whether the broker must hear from a session
OPEN_AT_ONCE: Final = 20  # connections made before others are looked after again
_NEVER: Final = float("inf")


class PooledLink:
    """Implements `edgeslm.ports.Transport` for letters, on a pool's thread.

    Args:
        pool: that drives it.
        config: which session; it is begun anew with each connection.
        sink: takes reports.
    """

    def __init__(self, pool: Pool, config: LinkConfig, sink: Sink) -> None:
        self.config = config
        self.client: StockClient | None = None
        self.fd = -1
        self.writing = False
        self.due_at = _NEVER
        self._pool = pool
        self._sink = sink
        self._epoch = 0
        self._attempt = 0
        self._opened_at = 0.0
        self._up = False
        self._wanted: frozenset[str] = frozenset()
        self._held: frozenset[str] = frozenset()
        self._asked: dict[int, list[str]] = {}
        self._in_flight: dict[int, Letter] = {}
        self._leaving = False

    # What the owner asks for.

    def start(self) -> None:
        """Begin to connect at the next opportunity."""
        self._leaving = False
        self._pool.wake_at(self, time.monotonic())

    def subscribe(self, filters: Iterable[str]) -> None:
        self._wanted = frozenset(filters)
        if self._up:
            self._subscribe()

    def publish(self, publications: Sequence[Letter], *, epoch: int) -> None:
        if self.client is not None and self._up and epoch == self._epoch:
            sent = self.client.send(publications)
            self._in_flight.update(zip(sent, publications, strict=True))
            self._pool.dirty(self)

    def settle(self, messages: Sequence[Received]) -> None:
        if self.client is not None:
            epoch = self._epoch
            self.client.acknowledge([m.mid for m in messages if m.qos == 1 and m.epoch == epoch])
            self._pool.dirty(self)

    def pause(self) -> None:
        """Nothing is held back here."""

    def stop(self, last: Letter | None = None, *, forget: bool = False) -> None:
        """Disconnect once what is on its way has arrived; sessions end with their connection."""
        del forget
        self._leaving = True
        if last is not None:
            self.publish([last], epoch=self._epoch)
        if self.client is None:
            self.due_at = _NEVER
        else:
            self._leave_if_done()

    def join(self, timeout_s: float) -> bool:
        del timeout_s
        return self.client is None

    def silent_s(self) -> float:
        return 0.0

    def cut(self, *, again_s: float) -> None:
        """Lose the connection without a word, and connect again after so long."""
        if self.client is not None:
            self._lost("cut by the scenario")
        self._attempt = 0
        self._pool.wake_at(self, time.monotonic() + again_s)

    # What the pool does.

    def tend(self, now: float) -> None:
        """Do what is due."""
        if self.client is None:
            if not self._leaving:
                self._open(now)
            return
        self.client.loop_misc()
        if not self._up and now >= self._opened_at + CONNECT_TIMEOUT_S:
            self.client.trouble = "the broker did not answer"
            self._lost(self.client.trouble)
        elif self.client.socket() is None:
            self._lost(self.client.trouble)
        else:
            self._pool.wake_at(self, now + MISC_S)
            self._pool.dirty(self)

    def read(self, now: float) -> None:
        """Take what has come."""
        client = self.client
        if client is None:
            return
        client.received_at = now
        client.loop_read()
        while client.pending() and client.socket() is not None:
            client.loop_read()
        self._tell()
        if client.socket() is None:
            self._lost(client.trouble)
        elif client.want_write():
            self._pool.dirty(self)

    def write(self) -> bool:
        """Write what the connection takes; return whether there is more."""
        client = self.client
        if client is None:
            return False
        if client.want_write():
            client.loop_write()
        if client.socket() is None:
            self._lost(client.trouble)
            return False
        return bool(client.want_write())

    def _open(self, now: float) -> None:
        self._epoch += 1
        self._opened_at = now
        try:
            self.client = open_client(self.config, epoch=self._epoch)
        except (OSError, ValueError) as err:  # ValueError: paho and ssl on bad settings
            self._rest(describe(err, self.config.broker))
            return
        sock = self.client.socket()
        assert sock is not None  # noqa: S101 -- it is connected
        self.fd = sock.fileno()
        self._pool.register(self)
        self._pool.wake_at(self, now + MISC_S)
        self._pool.dirty(self)

    def _lost(self, why: str) -> None:
        client, self.client = self.client, None
        assert client is not None  # noqa: S101 -- the callers have looked
        self._pool.unregister(self)
        client.close()
        self._up = False
        self._held = frozenset()
        self._asked.clear()
        self._in_flight.clear()
        self._rest(why)

    def _rest(self, why: str) -> None:
        now = time.monotonic()
        steady = now - self._opened_at >= STEADY_S
        self._attempt = 0 if steady else self._attempt + 1
        self._sink(Down(self._epoch, why))
        if self._leaving:
            self.due_at = _NEVER
            return
        chance = random.random()  # noqa: S311 -- spreads reconnects, hides nothing
        rest_s = full_jitter(self._attempt, base_s=BASE_S, cap_s=CAP_S, chance=chance)
        self._pool.wake_at(self, now + rest_s)

    def _tell(self) -> None:
        client = self.client
        assert client is not None  # noqa: S101 -- the caller has looked
        if not self._up and client.session_present is not None:
            self._up = True
            self._sink(Up(self._epoch, session_present=False))
            self._subscribe()
        if client.arrived:
            arrived, client.arrived = client.arrived, []
            self._sink(Arrived(arrived))
        if client.confirmed:
            confirmed, client.confirmed = client.confirmed, []
            self._confirm(confirmed)
        suback, client.suback = client.suback, []
        for mid, granted in suback:
            filters = self._asked.pop(mid, [])
            good = {name for name, ok in zip(filters, granted, strict=False) if ok}
            self._held |= good
            self._sink(Subscribed(self._held, frozenset(filters) - good))
        self._leave_if_done()

    def _confirm(self, codes: Sequence[tuple[int, int]]) -> None:
        good: list[Letter] = []
        bad: list[tuple[Letter, str]] = []
        for mid, code in codes:
            if (letter := self._in_flight.pop(mid, None)) is None:
                continue
            if code < FAILURE:
                good.append(letter)
            else:
                bad.append((letter, f"MQTT reason code {code:#x}"))
        self._sink(Confirmed(good, bad))

    def _subscribe(self) -> None:
        assert self.client is not None  # noqa: S101 -- it is up
        if new := sorted(self._wanted - self._held):
            self._asked[self.client.ask_for(new)] = new
            self._pool.dirty(self)

    def _leave_if_done(self) -> None:
        if self._leaving and not self._in_flight and self.client is not None:
            self.client.disconnect()
            self._pool.dirty(self)


class Pool:
    """Drives links. One thread's.

    Attributes:
        open: connections there are.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int, PooledLink]] = []
        self._number = itertools.count()
        self._dirty: dict[PooledLink, None] = {}
        self._to_open: deque[PooledLink] = deque()
        self.open = 0

    def turn(self, timeout_s: float) -> None:
        """Do what is due, and wait at most so long for something to come."""
        now = time.monotonic()
        self._tend(now)
        self._flush()
        timeout_s = 0.0 if self._to_open else timeout_s
        if self._due:
            timeout_s = min(timeout_s, self._due[0][0] - now)
        ready = self._selector.select(max(0.0, timeout_s))
        now = time.monotonic()
        for key, mask in ready:
            link: PooledLink = key.data
            if link.client is None or link.fd != key.fd:  # lost since, by another
                continue
            if mask & selectors.EVENT_WRITE:
                self.dirty(link)
            if mask & selectors.EVENT_READ:
                link.read(now)
        self._flush()

    def wake_at(self, link: PooledLink, at: float) -> None:
        """Have a link tended then, and not before."""
        link.due_at = at
        heapq.heappush(self._due, (at, next(self._number), link))

    def dirty(self, link: PooledLink) -> None:
        """A link has something to write."""
        self._dirty[link] = None

    def register(self, link: PooledLink) -> None:
        """Listen to a link's connection."""
        self._selector.register(link.fd, selectors.EVENT_READ, link)
        link.writing = False
        self.open += 1

    def unregister(self, link: PooledLink) -> None:
        """Its connection is gone, or about to go."""
        self._selector.unregister(link.fd)
        link.fd = -1
        self.open -= 1

    def close(self) -> None:
        self._selector.close()

    def _tend(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            at, _, link = heapq.heappop(self._due)
            if at != link.due_at:  # it was put off, or is not wanted any more
                continue
            if link.client is None:
                self._to_open.append(link)
            else:
                link.tend(now)
        for _ in range(min(OPEN_AT_ONCE, len(self._to_open))):
            self._to_open.popleft().tend(time.monotonic())

    def _flush(self) -> None:
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for link in dirty:
                more = link.write()
                if link.client is not None and more != link.writing:
                    link.writing = more
                    mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if more else 0)
                    self._selector.modify(link.fd, mask, link)
