"""MQTT over paho: one session, one thread, kept up.

The thread drives paho by its interface for external loops, so that reading can pause, writes
leave together, and nothing of ours runs inside paho's callbacks. Each connection has a paho
client of its own: what was in flight belongs to whoever published it (see `ports.Transport`), so
nothing is carried over and nothing is sent twice behind our back.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Generic, TypeVar

from edgeslm.adapters.mqtt_open import LAST_S, LinkConfig, describe, forget_session, open_client
from edgeslm.adapters.paho_stock import StockClient
from edgeslm.core.backoff import full_jitter
from edgeslm.logs import Log
from edgeslm.ports import Arrived, Confirmed, Down, Publication, Received, Sink, Subscribed, Up

TICK_S: Final = 1.0
RATE: Final = 2000.0  # a second; when more packets come, they are read together
GATHER_S: Final = 0.0005  # in bursts so far apart
STOCK: Final = 256  # messages that our owner has and has not settled: it does not wait for more
STOCK_S: Final = 0.01  # and they, too, are read in bursts
BASE_S: Final = 0.25  # first retry within twice it
CAP_S: Final = 30.0
STEADY_S: Final = 10.0  # a connection that lived so long ends the backoff
CONNECT_TIMEOUT_S: Final = 10.0  # TCP stands, no CONNACK
OVERHEAD: Final = 1024  # of a packet, beside topic and payload: headers and properties
FAILURE: Final = 0x80  # reason codes from it on
FOR_GOOD: Final = frozenset({0x90, 0x99})  # the topic or the payload is invalid

log = Log(__name__)
P = TypeVar("P", bound=Publication)


class MqttLink(Generic[P]):
    """Implements `edgeslm.ports.Transport` on a real broker.

    Args:
        config: which session.
        sink: takes reports, on the link's thread.
    """

    def __init__(self, config: LinkConfig, sink: Sink) -> None:
        self.config = config
        self.sink = sink
        # Written by the owner's thread, read by ours; queues are filled there and emptied here.
        self.to_publish: deque[tuple[int, Sequence[P]]] = deque()
        self.to_settle: deque[Sequence[Received]] = deque()
        self.wanted: frozenset[str] = frozenset()
        self.paused = False
        self.stopping = threading.Event()
        self.last: P | None = None
        self.forget = False
        # Our thread's alone.
        self.held = config.held
        self.outstanding = 0  # messages reported and not settled
        self._epoch = 0
        self._node = 0  # of the broker's: the one that is tried
        self._asleep = False
        self._round_at = time.monotonic()  # when our thread came round last
        self._ear, self._bell = socket.socketpair()
        self._ear.settimeout(0)
        self._thread = threading.Thread(
            target=self._run, name=f"mqtt {config.client_id}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def subscribe(self, filters: Iterable[str]) -> None:
        self.wanted = frozenset(filters)
        self._wake()

    def publish(self, publications: Sequence[P], *, epoch: int) -> None:
        self.to_publish.append((epoch, publications))
        self._wake()

    def settle(self, messages: Sequence[Received]) -> None:
        self.to_settle.append(messages)
        self._wake()

    def pause(self) -> None:
        self.paused = True
        self._wake()

    def stop(self, last: P | None = None, *, forget: bool = False) -> None:
        self.last = last
        self.forget = forget
        self.stopping.set()
        with contextlib.suppress(OSError):  # our thread has ended
            self._bell.send(b"!")

    def join(self, timeout_s: float) -> bool:
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def silent_s(self) -> float:
        begun = self._thread.ident is not None
        return time.monotonic() - self._round_at if begun and not self.stopping.is_set() else 0.0

    def sleep(self, poller: select.poll, timeout_s: float) -> list[int]:
        """Wait for a descriptor of `poller` or for the owner; return what is ready."""
        self._round_at = time.monotonic()
        self._asleep = True
        if self.to_publish or self.to_settle:  # put there before we were seen to sleep
            timeout_s = 0.0
        ready = [fd for fd, _ in poller.poll(max(0.0, timeout_s) * 1000)]
        self._asleep = False
        if self._ear.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._ear.recv(4096)
        return ready

    def take_settled(self) -> list[Received]:
        """Messages settled since the last call; they make room for as many."""
        done: list[Received] = []
        while self.to_settle:
            done += self.to_settle.popleft()
        self.outstanding -= len(done)
        return done

    def _wake(self) -> None:
        if self._asleep:  # else our thread looks at the queues before it sleeps
            self._asleep = False
            with contextlib.suppress(OSError):  # our thread has ended
                self._bell.send(b"!")

    def _poller(self) -> select.poll:
        poller = select.poll()
        poller.register(self._ear, select.POLLIN)
        return poller

    def _run(self) -> None:
        attempt = 0
        while not self.stopping.is_set():
            self._epoch += 1
            began = self._round_at = time.monotonic()
            try:
                client = open_client(self.config, epoch=self._epoch, node=self._node)
                try:
                    _Connection(self, client, self._poller()).serve()
                finally:
                    client.close()
                report = Down(self._epoch, client.trouble, refused=client.refusal != 0)
            except (OSError, ValueError) as err:  # ValueError: paho and ssl on bad settings
                report = Down(self._epoch, describe(err, self.config.broker, self._node))
            except Exception as err:  # noqa: BLE001 -- without its thread a link never comes back
                log.fault("link_failed", err, client_id=self.config.client_id)
                report = Down(self._epoch, f"a fault of ours: {type(err).__name__}")
            if self.stopping.is_set():
                break
            self.sink(report)
            steady = time.monotonic() - began >= STEADY_S
            attempt = 0 if steady else attempt + 1
            self._node += 1
            # A round of all nodes is one attempt: where one is down, another may be there.
            self._rest(attempt // len(self.config.broker.nodes))
        if self.forget:
            forget_session(self.config)
        self._ear.close()
        self._bell.close()

    def _rest(self, attempt: int) -> None:
        """Sleep before the next attempt, and for as long as there is no room for messages."""
        chance = random.random()  # noqa: S311 -- spreads reconnects, hides nothing
        until = time.monotonic() + full_jitter(attempt, base_s=BASE_S, cap_s=CAP_S, chance=chance)
        poller = self._poller()
        while not self.stopping.is_set():
            self.take_settled()
            self.to_publish.clear()  # for a connection that is gone: `sleep` would not sleep
            left = until - time.monotonic()
            if left <= 0 and self.outstanding <= self.config.receive_maximum // 2:
                return
            self.sleep(poller, left if left > 0 else TICK_S)  # what settles inputs wakes us


class _Connection(Generic[P]):
    """One connection of a link, from CONNECT to the end."""

    def __init__(self, link: MqttLink[P], client: StockClient, poller: select.poll) -> None:
        self._link = link
        self._client = client
        self._poller = poller
        self._up = False
        self._alerts: deque[P] = deque()
        self._queue: deque[P] = deque()
        self._in_flight: dict[int, P] = {}
        self._asked: dict[int, list[str]] = {}  # packet id of a subscription: its filters
        self._wanted: frozenset[str] | None = None
        self._full_since: float | None = None
        self._stop_at: float | None = None
        self._watched = (-1, -1)

    def serve(self) -> None:
        """Drive the connection until it is gone."""
        client, link = self._client, self._link
        now = time.monotonic()
        give_up = now + CONNECT_TIMEOUT_S
        tick = read_at = now
        while (sock := client.socket()) is not None:
            if now >= tick:
                tick = now + TICK_S
                client.loop_misc()
                if not self._up and now >= give_up:
                    client.trouble = "the broker did not answer"
                    break
            if self._up:
                self._obey(now)
            self._write()
            if client.socket() is None:
                break
            busy = self._watch(sock.fileno(), now)
            ready = link.sleep(self._poller, 0.0 if busy else tick - now)
            now = time.monotonic()
            if busy or sock.fileno() in ready:
                client.received_at = now
                client.loop_read()
                client.rearm()
                count = len(client.arrived) + len(client.confirmed)
                self._tell()
                if link.outstanding > STOCK:
                    time.sleep(STOCK_S)
                elif count > RATE * (now - read_at):
                    time.sleep(GATHER_S)
                read_at = now

    def _write(self) -> None:
        """Write what the connection takes; at QoS 0 that is all that can be known of it."""
        client = self._client
        if client.want_write():
            client.loop_write()
            if client.confirmed:
                self._tell()

    def _watch(self, fd: int, now: float) -> bool:
        """Poll `fd` for what is wanted now; return whether bytes are waiting already."""
        link, client = self._link, self._client
        full = link.outstanding > link.config.receive_maximum
        if not full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        elif now - self._full_since > link.config.broker.keepalive_s / 2:
            # The broker must hear from us: rather than read on without bound, leave the rest
            # with it until there is room. It keeps our session and what we have not settled.
            client.trouble = "left until the inputs taken are settled: there is no room for more"
            client.disconnect()
        reading = not full and not link.paused
        mask = (select.POLLIN if reading else 0) | (select.POLLOUT if client.want_write() else 0)
        if self._watched != (fd, mask):
            self._poller.register(fd, mask)
            self._watched = (fd, mask)
        return reading and client.pending()

    def _obey(self, now: float) -> None:
        """Do what the owner asked for since the last time."""
        link, client = self._link, self._client
        while link.to_publish:
            epoch, publications = link.to_publish.popleft()
            if epoch == client.epoch:
                self._take(publications)
        if link.stopping.is_set() and self._stop_at is None:
            self._stop_at = now + LAST_S
            if link.last is not None:
                self._queue.append(link.last)
        room = min(link.config.window, client.quota) - len(self._in_flight)
        for queue in (self._alerts, self._queue):
            if not queue or room <= 0:
                continue
            items = [queue.popleft() for _ in range(min(room, len(queue)))]
            room -= len(items)
            self._in_flight.update(zip(client.send(items), items, strict=True))
        if link.to_settle:
            epoch = client.epoch
            settled = link.take_settled()
            client.acknowledge([m.mid for m in settled if m.qos == 1 and m.epoch == epoch])
        if link.wanted is not self._wanted:
            # At first for all, whatever the broker says it kept: one that was killed comes back
            # with the session as it last saved it, without the filters added since.
            known = frozenset[str]() if self._wanted is None else link.held
            self._wanted = link.wanted
            self._subscribe(known)
        on_the_way = bool(self._alerts or self._queue or self._in_flight)
        if self._stop_at is not None and (now > self._stop_at or not on_the_way):
            client.disconnect()

    def _take(self, publications: Sequence[P]) -> None:
        """Queue what the broker will take; a longer packet would cost the connection, each time."""
        largest = self._client.largest
        long = [p for p in publications if len(p.payload) + len(p.topic) + OVERHEAD > largest]
        if long:
            why = f"longer than the {largest} bytes that the broker takes"
            self._link.sink(Confirmed([], [(item, why) for item in long]))
            publications = [item for item in publications if item not in long]
        for item in publications:
            (self._alerts if item.alert else self._queue).append(item)

    def _subscribe(self, known: frozenset[str]) -> None:
        link, client = self._link, self._client
        old, new = link.held - link.wanted, link.wanted - known
        # First the new: a message that both match must not fall between them.
        if new:
            self._asked[client.ask_for(sorted(new))] = sorted(new)
        if old:
            client.drop(sorted(old))
            link.held -= old
            link.sink(Subscribed(link.held))

    def _tell(self) -> None:
        """Report what came in."""
        link, client = self._link, self._client
        if not self._up and client.session_present is not None:
            self._up = True
            if not client.session_present:
                link.held = frozenset()
            link.sink(Up(client.epoch, client.session_present, client.max_packet_bytes))
        if client.arrived:
            link.outstanding += len(client.arrived)
            link.sink(Arrived(client.arrived))
            client.arrived = []
        if client.confirmed:
            self._confirm(client.confirmed)
            client.confirmed = []
        if client.suback:
            for mid, granted in client.suback:
                filters = self._asked.pop(mid, [])
                good = {name for name, ok in zip(filters, granted, strict=False) if ok}
                bad = frozenset(filters) - good
                link.held = (link.held | good) - bad
                if filters:
                    link.sink(Subscribed(link.held, bad))
            client.suback = []

    def _confirm(self, codes: list[tuple[int, int]]) -> None:
        good: list[P] = []
        bad: list[tuple[P, str]] = []
        later: list[tuple[P, str]] = []
        for mid, code in codes:
            item = self._in_flight.pop(mid, None)
            if item is None:
                continue
            if code < FAILURE:
                good.append(item)
            else:
                to = bad if code in FOR_GOOD else later
                to.append((item, f"MQTT reason code {code:#x}"))
        self._link.sink(Confirmed(good, bad, later))
