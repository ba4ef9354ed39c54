"""One MQTT session for a thread that waits: the updater's, beside the agent's own.

A link reports on a thread of its own; here its reports queue up until whoever owns the mailbox
asks for them. What is sent while there is no broker is kept: of a retained topic the newest, of
others so many. The session ends with its connection, so that each new one brings what is retained
and nothing that was meant for an earlier state of things.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.contract.brokers import Broker
from edgeslm.errors import RejectedError
from edgeslm.ports import (
    Arrived,
    Confirmed,
    Down,
    Letter,
    Received,
    Report,
    Sink,
    Subscribed,
    Transport,
    Up,
)

MAX_KEPT: Final = 256  # letters that wait for a broker, and those on their way to it
IN_FLIGHT: Final = 64
MAX_ASIDE: Final = 1024  # messages that came while one retained message was asked for
RECEIVE_MAXIMUM: Final = 96  # blocks of 128 KiB among them
MAX_PACKET_BYTES: Final = 2 * 2**20 + 65_536  # metadata are the longest of what we ask for
CLOSE_S: Final = 3.0
NOT_YET: Final = "not connected yet"


class OversizeError(RejectedError):
    """A retained message is longer than what it should be can be."""

    code = "fetch.oversize"


def open_mailbox(client_id: str, broker: Broker) -> Mailbox:
    """Return the mailbox of a session on a real broker."""
    config = LinkConfig(
        client_id,
        broker,
        receive_maximum=RECEIVE_MAXIMUM,
        window=IN_FLIGHT,
        max_packet_bytes=MAX_PACKET_BYTES,
    )
    return Mailbox(partial(MqttLink[Letter], config))


class Mailbox:
    """Owned by one thread, but for `wake`.

    Args:
        connect: makes the session's transport, given where it reports to; it is started here.

    Attributes:
        epoch: number of the connection; 0: there is none.
        reconnects: connections after the first.
        trouble: why there is none; "" while there is one.
        held: filters that the broker holds for this connection.
        refused: filters that it refused.
        lost: letters that were dropped: there was no room for them.
    """

    def __init__(self, connect: Callable[[Sink], Transport[Letter]]) -> None:
        self._reports: SimpleQueue[Report | None] = SimpleQueue()
        self.epoch = 0
        self.reconnects = 0
        self.trouble = NOT_YET
        self.held: frozenset[str] = frozenset()
        self.refused: frozenset[str] = frozenset()
        self.lost = 0
        self._ups = 0
        self._wanted: frozenset[str] = frozenset()
        # By topic those that are retained, since the newest is all that counts; others by itself.
        self._waiting: dict[str | Letter, Letter] = {}
        self._sent: dict[Letter, None] = {}
        self._passing: set[Letter] = set()  # of both, those that are for this connection only
        self._aside: deque[Received] = deque(maxlen=MAX_ASIDE)
        self._link = connect(self._reports.put)
        self._link.start()

    @property
    def connected(self) -> bool:
        return self.epoch > 0

    @property
    def idle(self) -> bool:
        """Whether all that was sent is with the broker."""
        return not self._waiting and not self._sent

    @property
    def wanted(self) -> frozenset[str]:
        """The session's filters, held or not."""
        return self._wanted

    def subscribe(self, filters: frozenset[str]) -> None:
        """Make these the session's filters; `held` says when they are."""
        if filters != self._wanted:
            self._wanted = filters
            self._link.subscribe(filters)

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1, keep: bool = True
    ) -> None:
        """Send, or keep it for the next connection; without `keep` it is for this one only."""
        letter = Letter(topic, payload, retain, qos)
        if not keep:
            if not self.connected:
                return
            self._passing.add(letter)
        key = topic if retain else letter
        self._waiting.pop(key, None)
        self._waiting[key] = letter
        if len(self._waiting) > MAX_KEPT:
            oldest = next((k for k, old in self._waiting.items() if not old.retain), None)
            # So many retained topics nobody has: then the oldest of them.
            gone = self._waiting.pop(next(iter(self._waiting)) if oldest is None else oldest)
            self._passing.discard(gone)
            self.lost += 1
        self._post()

    def wait(self, timeout_s: float) -> list[Received]:
        """Return what has come, settled; wait for it at most so long.

        The list is empty when the time is over, and when the connection or the session's filters
        have changed, or `wake` was called.
        """
        messages = list(self._aside)
        self._aside.clear()
        return messages + self._take(0.0 if messages else timeout_s)

    def retained(self, topic: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        """Return the message retained on `topic`; None: there was none in that time.

        It is subscribed to for it, so it must be none of the session's own filters. What comes on
        other topics meanwhile is returned by the next `wait`.

        Raises:
            OversizeError: it is longer than `max_bytes`.
        """
        filters = self._wanted
        self.subscribe(filters | {topic})
        until = time.monotonic() + timeout_s
        found: bytes | None = None
        try:
            while found is None and (left := until - time.monotonic()) > 0:
                for message in self._take(left):
                    if message.topic == topic:
                        found = message.payload
                    else:
                        self._aside.append(message)
        finally:
            self.subscribe(filters)
        if found is not None and len(found) > max_bytes:
            msg = f"{topic}: {len(found)} bytes, at most {max_bytes} are expected"
            raise OversizeError(msg)
        return found

    def wake(self) -> None:
        """Have `wait` return; may be called by another thread."""
        self._reports.put(None)

    def close(self) -> None:
        """Send what can still be sent, and leave."""
        self._link.stop()
        self._link.join(CLOSE_S)

    def _take(self, timeout_s: float) -> list[Received]:
        """As `wait`, of what the link reports."""
        until = time.monotonic() + timeout_s
        messages: list[Received] = []
        changed = False
        while True:
            left = 0.0 if messages or changed else until - time.monotonic()
            try:
                report = self._reports.get(timeout=left) if left > 0 else self._reports.get_nowait()
            except Empty:
                break
            match report:
                case Arrived():
                    messages += report.messages
                case Confirmed():
                    self._confirmed(report)
                case _:
                    self._changed(report)
                    changed = True
        if messages:
            self._link.settle(messages)
        return messages

    def _changed(self, report: Up | Down | Subscribed | None) -> None:
        match report:
            case Up():
                self.epoch, self.trouble = report.epoch, ""
                self._ups += 1
                self.reconnects = self._ups - 1
                if not report.session_present:
                    self.held = frozenset()
                self._post()
            case Down():
                self.epoch, self.trouble = 0, report.reason
                self.held = frozenset()
                self._put_back(list(self._sent))
            case Subscribed():
                self.held, self.refused = report.held, report.refused
            case None:
                pass

    def _confirmed(self, report: Confirmed[Letter]) -> None:
        refused = [letter for letter, _ in (*report.refused, *report.deferred)]
        self.lost += len(refused)
        for letter in (*report.publications, *refused):
            self._sent.pop(letter, None)
            self._passing.discard(letter)
        self._post()

    def _put_back(self, letters: list[Letter]) -> None:
        """Have letters wait, before those that wait already, unless there are newer ones."""
        self._sent.clear()
        waiting, self._waiting = self._waiting, {}
        for letter in letters:
            key = letter.topic if letter.retain else letter
            if letter not in self._passing and key not in waiting:
                self._waiting[key] = letter
        self._waiting |= {k: old for k, old in waiting.items() if old not in self._passing}
        self._passing.clear()

    def _post(self) -> None:
        """Hand to the link what it may have."""
        room = min(IN_FLIGHT - len(self._sent), len(self._waiting))
        if not self.epoch or room <= 0:
            return
        letters = [self._waiting.pop(key) for key in list(self._waiting)[:room]]
        self._sent.update(dict.fromkeys(letters))
        self._link.publish(letters, epoch=self.epoch)
