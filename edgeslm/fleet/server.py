"""`edgeslm fleet publish`: keeps what is retained fresh, and answers devices.

One thread decides everything; the link's thread reads and writes, another keeps the repository
fresh, a third makes deltas. A blob's blocks go to all who listen to it, no faster than the
connection takes them. Requests come from anywhere: what is wrong with one is counted by reason.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from pydantic import ValidationError

from edgeslm.contract.fleet import BLOCK_BYTES, MAX_REQUEST_BYTES, Missing, Want
from edgeslm.contract.topics import FleetTopics
from edgeslm.core import block as codec
from edgeslm.core.demand import Demand
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.answers import Answers, Signs
from edgeslm.fleet.blobs import BlobFiles
from edgeslm.fleet.deltas import Delta
from edgeslm.fleet.publisher import Publications, Publisher
from edgeslm.logs import Log
from edgeslm.ports import (
    Arrived,
    Clock,
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

UNWRITTEN_BYTES: Final = 1 << 20  # of blocks that the connection has not taken yet
IN_FLIGHT: Final = 32  # letters that the broker has not confirmed
LOOK_S: Final = 1.0  # between two looks at the repository
REFRESH_S: Final = 60.0
TELL_S: Final = 10.0  # between two lines on what was served
CLOSE_S: Final = 3.0

log = Log(__name__)


class Served(Signs, Protocol):
    """A repository."""

    def stamp(self) -> object:
        """What changes whenever what is published does."""

    def publications(self) -> Publications:
        """Return what is to be retained.

        Raises:
            EdgeSLMError: it cannot be read now.
        """

    def refresh(self) -> bool:
        """Sign anew what is to be; on a thread of its own.

        Raises:
            EdgeSLMError: a key cannot be used, or the disk refused.
        """


class Server:
    """Serves one repository on one broker, until it is stopped.

    Args:
        served: the repository.
        connect: makes the session's transport, given where it reports to.
        root: topic levels that the fleet's devices share.
        clock: for what is signed, and for how long things take.
        publishes: it sees to what is retained; else another server does, and it serves alone. A
            function says whether it does now: all is published again whenever it begins to.
        shares: with others of its kind, requests are shared out by the broker; where the broker
            does not, of those whose `publishes` is a function only the one that publishes answers.

    Attributes:
        blocks: that were sent.
        sent_bytes: of them, as they travel.
        refused: requests that were not answered, by reason.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        served: Served,
        connect: Callable[[Sink], Transport[Letter]],
        *,
        root: str,
        clock: Clock,
        publishes: bool | Callable[[], bool] = True,
        shares: bool = True,
    ) -> None:
        self.blocks = 0
        self.sent_bytes = 0
        self.refused: Counter[str] = Counter()
        self._requests = 0
        self._served = served
        self._topics = FleetTopics(root)
        self._clock = clock
        self._takes_turns = callable(publishes)
        self._may_publish = publishes if callable(publishes) else lambda: publishes
        self._publishes = not self._takes_turns and self._may_publish()
        self._shares = shares
        self._reports: SimpleQueue[Report | Delta | None] = SimpleQueue()
        self._link = connect(self._reports.put)
        self._stopping = threading.Event()
        self._epoch = 0
        self._blobs = BlobFiles(served.blobs)
        self._demand = Demand()
        self._unwritten: dict[Letter, int] = {}
        self._unwritten_bytes = 0
        self._letters: deque[Letter] = deque()
        self._in_flight: set[Letter] = set()
        self._publisher = Publisher(root)
        self._stamp: object = None
        self._look_at = 0.0
        self._told_at = clock.monotonic()
        self._told: object = None
        self._answers = Answers(
            served,
            self._blobs,
            root=root,
            clock=clock,
            refused=self.refused,
            made=self._reports.put,
        )

    def run(self) -> None:
        """Serve until `stop`."""
        fresh = threading.Thread(target=self._keep_fresh, name="refresh", daemon=True)
        fresh.start()
        self._link.subscribe(self._filters())
        self._link.start()
        try:
            while not self._stopping.is_set():
                self.step()
        finally:
            self._tell()
            self.close()

    def stop(self) -> None:
        """Have `run` return soon; may be called by another thread."""
        self._stopping.set()
        self.wake()

    def wake(self) -> None:
        """Have `step` return; may be called by another thread."""
        self._reports.put(None)

    def look_soon(self) -> None:
        """Look at the repository at the next step."""
        self._look_at = 0.0

    def close(self) -> None:
        """Leave, and let go of all files."""
        self._link.stop()
        self._link.join(CLOSE_S)
        self._answers.close()
        self._blobs.close()

    def step(self) -> None:
        """Wait for something to happen, and see to all of it."""
        try:
            report = self._reports.get(timeout=LOOK_S)
        except Empty:
            report = None
        while True:
            self._note(report)
            try:
                report = self._reports.get_nowait()
            except Empty:
                break
        now = self._clock.monotonic()
        if self._epoch:
            if now >= self._look_at:
                self._look_at = now + LOOK_S
                self._look(now)
            self._post()
            self._send_blocks(now)
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self._tell()

    def _note(self, report: Report | Delta | None) -> None:
        match report:
            case Arrived():
                for message in report.messages:
                    self._take(message)
                self._link.settle(report.messages)
            case Confirmed():
                self._confirmed(report)
            case Up():
                self._up(report)
            case Down():
                log.warning("broker_lost", reason=report.reason, refused=report.refused)
                self._epoch = 0
            case Subscribed():
                self._subscribed(report)
            case Delta():
                self._answers.made(report)
            case None:
                pass

    # The connection.

    def _filters(self) -> frozenset[str]:
        requests = [self._topics.wants, self._topics.ask]
        if self._shares:
            requests = [self._topics.shared(each) for each in requests]
        elif self._takes_turns and not self._publishes:
            requests = []
        return frozenset([*requests, self._topics.metadata("+")])

    def _up(self, report: Up) -> None:
        log.info("broker_connected", publishes=self._may_publish(), shares=self._shares)
        self._epoch = report.epoch
        largest = report.max_packet_bytes
        if largest is not None and largest < 2 * BLOCK_BYTES:
            log.error("broker_too_small", max_packet_bytes=largest, needed_bytes=2 * BLOCK_BYTES)
        # Whoever wants something asks again, and all that is retained is published again.
        self._demand.clear()
        self._unwritten.clear()
        self._unwritten_bytes = 0
        self._letters.clear()
        self._in_flight.clear()
        self._answers.forget()
        self._publisher.connected()
        self._stamp = None
        self._look_at = 0.0

    def _subscribed(self, report: Subscribed) -> None:
        if self._shares and any(each.startswith("$share/") for each in report.refused):
            # A broker of MQTT 3.1.1 that cannot share: then one server at a time.
            log.warning("sharing_refused", consequence="one server answers at a time")
            self._shares = False
            self._link.subscribe(self._filters())
        elif report.refused:
            log.error("subscription_refused", filters=sorted(report.refused))

    def _confirmed(self, report: Confirmed[Letter]) -> None:
        for letter, why in (*report.refused, *report.deferred):
            log.error("publication_refused", topic=letter.topic, reason=why)
            self.refused["by_broker"] += 1
            self._done(letter)
        for letter in report.publications:
            self._done(letter)

    def _done(self, letter: Letter) -> None:
        self._in_flight.discard(letter)
        self._unwritten_bytes -= self._unwritten.pop(letter, 0)

    def _post(self) -> None:
        """Send what waits, as far as the broker keeps up with it."""
        if len(self._letters) < IN_FLIGHT:
            self._letters.extend(self._answers.taken())
        room = min(IN_FLIGHT - len(self._in_flight), len(self._letters))
        if room > 0:
            letters = [self._letters.popleft() for _ in range(room)]
            self._in_flight.update(letters)
            self._link.publish(letters, epoch=self._epoch)

    def _send_blocks(self, now: float) -> None:
        letters: list[Letter] = []
        while self._unwritten_bytes < UNWRITTEN_BYTES:
            if (taken := self._demand.take(now)) is None:
                break
            blob, block = taken
            size, data = self._blobs.size(blob), self._blobs.read(blob, block)
            if size is None or data is None:
                self.refused["unreadable"] += 1
                self._demand.drop(blob)
                continue
            letter = Letter(self._topics.blob(blob), codec.pack(block, size, data), qos=0)
            self._unwritten[letter] = len(letter.payload)
            self._unwritten_bytes += len(letter.payload)
            self.blocks += 1
            self.sent_bytes += len(letter.payload)
            letters.append(letter)
        if letters:
            self._link.publish(letters, epoch=self._epoch)

    # Requests.

    def _take(self, message: Received) -> None:
        topic = message.topic
        want = self._topics.want("")
        if len(message.payload) > MAX_REQUEST_BYTES and not topic.startswith(
            self._topics.metadata("")
        ):
            self.refused["too_long"] += 1
        elif topic.startswith(want):
            self._requests += 1
            self._take_want(topic.removeprefix(want), message.payload)
        elif topic == self._topics.ask:
            self._requests += 1
            self._answers.take(message.payload)
        else:
            self._publisher.heard(topic, message.payload, self._clock.monotonic())

    def _take_want(self, blob: str, payload: bytes) -> None:
        try:
            want = Want.model_validate_json(payload)
        except ValidationError:
            self.refused["malformed"] += 1
            return
        size = self._blobs.size(blob)
        if size is None:
            self.refused["unknown_blob"] += 1
            try:
                missing = Missing(schema=1, blob=blob)
            except ValidationError:  # nothing can have this name
                return
            self._answers.say(want.device, "missing", missing)
            return
        why = self._demand.want(
            blob,
            count=codec.count_of(size),
            device=want.device,
            ranges=want.ranges,
            again=want.again,
            now=self._clock.monotonic(),
        )
        if why is not None:
            self.refused[why] += 1

    # What is retained.

    def _look(self, now: float) -> None:
        """Publish what has changed in the repository."""
        publishes = self._may_publish()
        if publishes != self._publishes:
            self._publishes = publishes
            log.info("publishing" if publishes else "not_publishing")
            # Another may have published meanwhile, or has begun to.
            self._publisher.connected()
            self._stamp = None
            self._letters = deque(each for each in self._letters if not each.retain)
            if not self._shares:
                self._link.subscribe(self._filters())
        if not publishes:
            return
        try:
            stamp = self._served.stamp()
            if stamp != self._stamp:
                letters = self._publisher.letters(self._served.publications(), now)
                self._stamp = stamp
                self._letters.extend(letters)
                log.info("published", messages=len(letters))
        except EdgeSLMError as err:
            log.warning("publishing_failed", code=err.code, message=str(err))
        self._letters.extend(self._publisher.cleared(now))

    def _keep_fresh(self) -> None:
        while not self._stopping.is_set():
            try:
                if self._may_publish() and self._served.refresh():
                    log.info("refreshed")
            except EdgeSLMError as err:
                log.warning("refresh_failed", code=err.code, message=str(err))
            except Exception as err:  # noqa: BLE001 -- without this thread all expires
                log.fault("refresh_failed", err)
            self._stopping.wait(REFRESH_S)

    def _tell(self) -> None:
        """Log what was served, where that is news."""
        figures = {
            "blocks": self.blocks,
            "bytes": self.sent_bytes,
            "requests": self._requests,
            "merged": self._demand.merged,
            "waiting": len(self._demand),
            "refused": dict(self.refused),
        }
        if figures != self._told:
            self._told = figures
            log.info("served", **figures)
