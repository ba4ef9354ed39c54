"""A broker and an outbox in memory, behind the ports of the real ones: for tests and rehearsals.

A `Bus` keeps sessions as an MQTT broker does: packet ids, redelivery, Receive Maximum, retained
messages. Everything happens on the thread that causes it, so a test decides what comes when.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Generic, TypeVar

from edgeslm.contract.topics import matches
from edgeslm.core.backlog import Stored, Thinned
from edgeslm.ports import (
    Arrived,
    Confirmed,
    Down,
    OutboxFullError,
    OutboxRow,
    Publication,
    Received,
    Rows,
    Sink,
    Subscribed,
    Up,
)

P = TypeVar("P", bound=Publication)
MAX_MID: Final = 65_535


@dataclass(frozen=True, slots=True)
class Message:
    """One message on the bus."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    properties: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class _Session:
    """What the bus keeps for one client id."""

    filters: set[str] = field(default_factory=set)
    queue: deque[tuple[Message, bool]] = field(default_factory=deque)  # (message, retained)
    in_flight: dict[int, tuple[Message, bool]] = field(default_factory=dict)
    last_mid: int = 0


class Bus:
    """A broker in memory.

    Attributes:
        published: all that was ever published, in order.
        open: whether connections are accepted.
        confirming: whether publications are acknowledged at once.
    """

    def __init__(self) -> None:
        self.published: list[Message] = []
        self.open = True
        self.confirming = True
        self._retained: dict[str, Message] = {}
        self._sessions: dict[str, _Session] = {}
        self._links: dict[str, Loopback[Publication]] = {}

    def publish(self, message: Message) -> None:
        """Take a message, and deliver it to every session whose filters match."""
        self.published.append(message)
        if message.retain:
            self._retained[message.topic] = message
        for name, session in self._sessions.items():
            if not message.qos and name not in self._links:
                continue  # nothing is kept for who is away
            if any(matches(f, message.topic) for f in session.filters):
                session.queue.append((message, False))
                self.push(name)

    def attach(self, name: str, link: Loopback[Publication], *, keep: bool) -> bool:
        """Connect a client; return whether its session was there."""
        present = keep and name in self._sessions
        if not present:
            self._sessions[name] = _Session()
        self._links[name] = link
        return present

    def detach(self, name: str, *, keep: bool) -> None:
        """Disconnect a client: what it has not acknowledged will be sent again."""
        self._links.pop(name, None)
        if not keep:
            self._sessions.pop(name, None)

    def resend(self, name: str) -> None:
        """Send a client again what it has not acknowledged, in order, marked so."""
        session, link = self._sessions[name], self._links[name]
        for mid, (message, retained) in list(session.in_flight.items()):
            link.receive(message, mid, retained=retained, dup=True)

    def subscribe(self, name: str, filters: set[str]) -> None:
        """Make these the filters of a client; new ones bring retained messages."""
        session = self._sessions[name]
        new = filters - session.filters
        session.filters = filters
        for message in self._retained.values():
            if any(matches(f, message.topic) for f in new):
                session.queue.append((message, True))
        self.push(name)

    def acknowledge(self, name: str, mids: Iterable[int]) -> None:
        """A client has acknowledged these packet ids."""
        session = self._sessions[name]
        for mid in mids:
            session.in_flight.pop(mid, None)
        self.push(name)

    def push(self, name: str) -> None:
        """Deliver what a session holds, as far as its client takes it."""
        session, link = self._sessions[name], self._links.get(name)
        while link is not None and session.queue and len(session.in_flight) < link.receive_maximum:
            message, retained = session.queue.popleft()
            mid = 0
            if message.qos:
                mid = session.last_mid = session.last_mid % MAX_MID + 1
                session.in_flight[mid] = (message, retained)
            link.receive(message, mid, retained=retained, dup=False)

    def drop(self, name: str) -> None:
        """Cut a client's connection; its link does not come back by itself."""
        if link := self._links.get(name):
            link.cut()

    def forget(self, name: str) -> None:
        """Lose a session, as a broker does that was killed."""
        self._sessions.pop(name, None)


class Loopback(Generic[P]):
    """Implements `edgeslm.ports.Transport` on a `Bus`.

    Args:
        bus: the broker.
        name: client id.
        sink: takes reports.
        keep: the bus keeps the session.
        receive_maximum: messages taken and not settled.
        clock: monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 -- as a real link's configuration
        self,
        bus: Bus,
        name: str,
        sink: Sink,
        *,
        keep: bool = True,
        receive_maximum: int = 512,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.receive_maximum = receive_maximum
        self._bus = bus
        self._name = name
        self._sink = sink
        self._keep = keep
        self._clock = clock
        self._epoch = 0
        self._up = False
        self._paused = False
        self._filters: set[str] = set()
        self._unconfirmed: list[P] = []

    def start(self) -> None:
        """Connect, also again after `Bus.drop`."""
        self._epoch += 1
        if not self._bus.open:
            self._sink(Down(self._epoch, "the bus is closed"))
            return
        present = self._bus.attach(self._name, self, keep=self._keep)  # type: ignore[arg-type]
        self._up = True
        self._sink(Up(self._epoch, present))
        self._bus.resend(self._name)
        self._subscribe()

    def cut(self) -> None:
        """Lose the connection."""
        self._bus.detach(self._name, keep=self._keep)
        self._up = False
        self._unconfirmed.clear()
        self._sink(Down(self._epoch, "the connection was cut"))

    def confirm(self) -> None:
        """Acknowledge what was published while the bus was not confirming."""
        done, self._unconfirmed = self._unconfirmed, []
        self._sink(Confirmed(done))

    def receive(self, message: Message, mid: int, *, retained: bool, dup: bool) -> None:
        """The bus delivers."""
        if self._paused:
            return
        received = Received(
            message.topic,
            message.payload,
            mid,
            message.qos,
            dup,
            retained,
            self._epoch,
            self._clock(),
            message.properties,
        )
        self._sink(Arrived([received]))

    def subscribe(self, filters: Iterable[str]) -> None:
        self._filters = set(filters)
        if self._up:
            self._subscribe()

    def publish(self, publications: Sequence[P], *, epoch: int) -> None:
        if not self._up or epoch != self._epoch:
            return
        confirmed: list[P] = []
        for item in sorted(publications, key=lambda item: not item.alert):
            message = Message(item.topic, item.payload, item.qos, item.retain, item.properties)
            self._bus.publish(message)
            at_once = self._bus.confirming or not item.qos
            (confirmed if at_once else self._unconfirmed).append(item)
        if confirmed:
            self._sink(Confirmed(confirmed))

    def settle(self, messages: Sequence[Received]) -> None:
        if self._up:
            mids = [m.mid for m in messages if m.qos and m.epoch == self._epoch]
            self._bus.acknowledge(self._name, mids)

    def pause(self) -> None:
        self._paused = True

    def stop(self, last: P | None = None, *, forget: bool = False) -> None:
        if self._up and last is not None:
            self.publish([last], epoch=self._epoch)
        self._bus.detach(self._name, keep=self._keep and not forget)
        self._up = False

    def join(self, timeout_s: float) -> bool:
        del timeout_s  # nothing of ours runs
        return True

    def silent_s(self) -> float:
        return 0.0

    def _subscribe(self) -> None:
        self._bus.subscribe(self._name, set(self._filters))
        self._sink(Subscribed(frozenset(self._filters)))


class MemoryOutbox:
    """Implements `edgeslm.ports.Outbox`, without being durable.

    Args:
        max_rows: most rows held.
        max_bytes: most bytes of payload and topic held.
    """

    def __init__(self, *, max_rows: int, max_bytes: int = 1 << 30) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._lanes: dict[bool, dict[int, OutboxRow]] = {True: {}, False: {}}
        self._results: dict[int, int] = {}
        self._last = 0
        self.given_up: Counter[str] = Counter()

    @property
    def rows(self) -> Rows:
        return Rows(len(self._lanes[True]), len(self._lanes[False]))

    @property
    def share(self) -> float:
        return max(len(self) / self._max_rows, self._bytes / self._max_bytes)

    def open(self) -> Rows:
        return Rows(0, 0)

    def append(
        self, rows: Sequence[tuple[str, bytes, Mapping[str, object]]], *, alert: bool
    ) -> list[int]:
        size = sum(len(t) + len(p) for t, p, _ in rows)
        over = (len(self) + len(rows) - self._max_rows, self._bytes + size - self._max_bytes)
        if max(over) > 0:
            msg = f"{len(self)} rows held; no room for {len(rows)} more"
            raise OutboxFullError(msg, rows=over[0], size=over[1])
        ids = []
        for topic, payload, properties in rows:
            self._last += 1
            self._lanes[alert][self._last] = (self._last, topic, payload, dict(properties))
            ids.append(self._last)
        return ids

    def peek(self, limit: int, *, after: int, alert: bool) -> list[OutboxRow]:
        return [row for id_, row in self._lanes[alert].items() if id_ > after][:limit]

    def newest(self, limit: int, *, alert: bool) -> list[bytes]:
        rows = list(self._lanes[alert].values())
        return [payload for _, _, payload, _ in rows[max(0, len(rows) - limit) :]]

    def set_away(self) -> Path:
        for lane in self._lanes.values():
            lane.clear()
        return Path("nowhere")

    def oldest(self, limit: int, *, after: int, alert: bool = False) -> list[Stored]:
        return [
            Stored(id_, len(topic) + len(payload), self._results.get(id_, 1), 0.0)
            for id_, topic, payload, _ in self.peek(limit, after=after, alert=alert)
        ]

    def remove(self, ids: Sequence[int], *, alert: bool) -> None:
        for id_ in ids:
            self._lanes[alert].pop(id_, None)

    def give_up(self, ids: Sequence[int], *, reason: str, results: int) -> None:
        self.remove(ids, alert=False)
        self.given_up[reason] += results

    def thin(self, thinned: Thinned, *, reason: str) -> None:
        self.remove(thinned.gone, alert=False)
        self.given_up[reason] += thinned.results
        rows = self._lanes[False]
        for id_, payload, results in thinned.grown:
            rows[id_] = (id_, rows[id_][1], payload, {})
            self._results[id_] = results

    def limit(self, *, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return sum(self.rows)

    @property
    def _bytes(self) -> int:
        rows = (row for lane in self._lanes.values() for row in lane.values())
        return sum(len(topic) + len(payload) for _, topic, payload, _ in rows)
