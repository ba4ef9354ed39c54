"""One model's input session: what came in, in which order, and what the broker is owed for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from edgeslm.adapters.ring import Ring, digest
from edgeslm.agent.retained import Retained
from edgeslm.contract.routes import Lane, Route
from edgeslm.contract.topics import matches, widest
from edgeslm.core.delivery import Parcel
from edgeslm.core.lane import Lane as Order
from edgeslm.core.lane import Ticket
from edgeslm.ports import Answer, Received, Request, Transport

MAX_KILLS: Final = 3  # an input that ended the process so often is not tried again
MAX_TOPICS: Final = 4096  # whose route is remembered
_NO_IDENTITY: Final = bytes(8)  # QoS 0 is never redelivered


class Job(Ticket):
    """One input: the message, what it is matched with, and what came of it.

    Attributes:
        message: as received; replaced by its redelivery where the connection was lost.
        route: how it is read; None where it is dropped.
        sequence: its number in the ring.
        kills: how often the process died while handling it.
        size: of its payload, bytes: one that its route does not take is not kept.
        what: digest of topic and payload.
        parcel: its result; None where it has none.
        outcome: "answered", "error" or "expired"; set with `parcel`.
        alarm: it was answered with the label of an anomaly.
        said: of one that was answered, the result's id, what was asked and what was answered.
        turn: when it is judged; None: at any time, or it was.
        owed: settled, but its connection is gone: acknowledged when it is redelivered.
    """

    __slots__ = (
        "alarm",
        "kills",
        "message",
        "outcome",
        "owed",
        "parcel",
        "route",
        "said",
        "sequence",
        "session",
        "size",
        "turn",
        "what",
    )

    def __init__(
        self, session: InputSession, message: Received, route: Route | None, what: bytes
    ) -> None:
        super().__init__()
        self.session = session
        self.size = len(message.payload)
        self.what = what
        # Kept, a window of such payloads would be all our memory.
        long = route is None or self.size > route.max_bytes
        self.message = message._replace(payload=b"") if long else message
        self.route = route
        self.sequence = 0
        self.kills = 0
        self.parcel: Parcel | None = None
        self.outcome = ""
        self.alarm = False
        self.turn: int | None = None
        self.said: tuple[str, Request, Answer] | None = None
        self.owed = False


class InputSession:
    """Owned by the agent's main thread.

    Args:
        model: key of [models].
        link: the session's transport; not started yet.
        ring: identities of what it received.
        own: prefix of our own topics.
        drops: counts messages that are not answered, by reason; shared by all sessions.
        retained: what is known of the retained inputs that were answered.

    Attributes:
        asked: the filters that the link was told.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        model: str,
        *,
        link: Transport[Parcel],
        ring: Ring,
        own: str,
        drops: Counter[str],
        retained: Retained | None = None,
    ) -> None:
        self.model = model
        self.link = link
        self.ring = ring
        self.lane: Order[Job] = Order()
        self.connected = False
        self._own = own
        self._drops = drops
        self._epoch = 0
        self._by_mid: dict[int, Job] = {}  # received and not acknowledged
        self._routes: tuple[Route, ...] = ()
        self._retired: tuple[Route, ...] = ()
        self._by_topic: dict[str, Route | None] = {}
        self.retained = retained or Retained()
        self.asked: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()

    @property
    def lanes(self) -> list[Lane | None]:
        """What its routes say that results count as."""
        return [route.lane for route in self._routes]

    def set_routes(self, routes: Iterable[Route], *, keep: bool = False) -> None:
        """Read messages by these from now on, and subscribe to their topics.

        With `keep` what was subscribed to stays so until `let_go`.

        Routes that are no longer wanted still read what is on its way by them.
        """
        new = tuple(routes)
        gone = tuple(r for r in self._routes if r not in new)
        self._retired = gone + tuple(r for r in self._retired if r not in new)
        self._retired = self._retired[:64]
        self._routes = new
        self._by_topic.clear()
        self._wanted = widest(r.topic for r in new)
        self._ask(widest(self._wanted | self.asked) if keep else self._wanted)

    def let_go(self) -> None:
        """Leave the filters that no route has any more."""
        self._ask(self._wanted)

    def up(self, epoch: int, *, session_present: bool) -> None:
        """A connection is up. Where the broker forgot us, it is owed nothing."""
        self.connected = True
        self._epoch = epoch
        if not session_present:
            self._by_mid.clear()

    def down(self) -> None:
        """The connection is gone: nothing can be acknowledged on it."""
        self.connected = False
        self._epoch = 0

    def take(self, messages: Iterable[Received]) -> list[Job]:
        """Take messages in; return those to answer, in order."""
        jobs: list[Job] = []
        for message in messages:
            if message.qos and message.mid in self._by_mid and self._is_again(message):
                continue
            known = message.qos or message.retain
            what = digest(message.topic, message.payload) if known else _NO_IDENTITY
            route = self._route(message, what)
            job = Job(self, message, route, what)
            if message.qos:
                self._by_mid[message.mid] = job
            self.lane.arrive(job)
            if route is None:
                job.answered = job.settled = True
            else:
                self._number(job)
                jobs.append(job)
        return jobs

    def leave(self) -> list[Parcel]:
        """Results that may leave now, in order."""
        parcels: list[Parcel] = []
        for job in self.lane.leave():
            if job.parcel is None:
                job.settled = True
            else:
                parcels.append(job.parcel)
        return parcels

    def acknowledge(self) -> None:
        """Acknowledge what may be acknowledged now, in order."""
        done = self.lane.acknowledge()
        if not done:
            return
        for job in done:
            message = job.message
            if message.retain and job.route is not None:
                self.retained.settle(message.topic, job.what)
            if message.qos and self._by_mid.get(message.mid) is job:
                if message.epoch == self._epoch:
                    del self._by_mid[message.mid]
                else:
                    job.owed = True
        self.link.settle([job.message for job in done])

    def _is_again(self, message: Received) -> bool:
        """Whether `message` is one that we hold, sent once more; if so, see to it."""
        job = self._by_mid[message.mid]
        held = job.message
        same = held.topic == message.topic and job.what == digest(message.topic, message.payload)
        if not (message.dup and same):
            del self._by_mid[message.mid]  # the broker gave its packet id to another message
            return False
        if job.owed:
            del self._by_mid[message.mid]
            self.link.settle([message])
        else:  # still on its way: acknowledge this copy when it is through
            job.message = message._replace(payload=held.payload)
            self.link.settle([held])
        return True

    def _number(self, job: Job) -> None:
        """Give a new message the next sequence number, a redelivered one its old number."""
        message = job.message
        if not message.qos:
            job.sequence = self.ring.record(0, _NO_IDENTITY)
            return
        if message.dup:
            known = self.ring.find(message.mid, job.what)
            if known is not None:
                job.sequence = known
                job.kills = self.ring.attempts(known)
                return
        job.sequence = self.ring.record(message.mid, job.what)

    def _route(self, message: Received, what: bytes) -> Route | None:
        """The route that reads `message`; None where it is dropped, and counted."""
        topic = message.topic
        try:
            route = self._by_topic[topic]
        except KeyError:
            route = None
            if not topic.startswith(self._own):
                both = self._routes + self._retired
                route = next((r for r in both if matches(r.topic, topic)), None)
            if len(self._by_topic) >= MAX_TOPICS:
                self._by_topic.clear()
            self._by_topic[topic] = route
        if route is None:
            self._drops["own_topic" if topic.startswith(self._own) else "no_route"] += 1
        elif message.retain and not self.retained.take(topic, what, again=message.dup):
            self._drops["retained_again"] += 1  # a new subscription repeats it
            return None
        return route

    def _ask(self, filters: frozenset[str]) -> None:
        if filters != self.asked:
            self.asked = filters
            self.link.subscribe(filters)


def routes_of(routes: Mapping[str, Route], model: str) -> list[Route]:
    """The routes that feed `model`."""
    return [route for route in routes.values() if model in route.models]
