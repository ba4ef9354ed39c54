"""The real updater, in steps: where it would wait, it returns, and goes on when its time comes.

What is decided, written into the slots and told is what `edgeslm.updater` decides, writes and
tells. Played is what takes time on a device: a download, a model that loads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from edgeslm.contract.fleet import BlobFile, BlockList
from edgeslm.core.update import Effect, Event, State
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import DiskFullError, NotThereError, Offer, Received, TrustedMetadata
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.simulate.trust import DeviceTrust
from edgeslm.updater.change import Change, ModelChange
from edgeslm.updater.driver import WATCH_S, Driver
from edgeslm.updater.mailbox import Mailbox
from edgeslm.updater.updater import Steps, Updater
from edgeslm.updater.voice import PROGRESS_S

_NEVER: Final = float("inf")


class NotYetError(Exception):
    """No fault: what is under way goes on at another time."""


@dataclass(frozen=True, slots=True)
class Download:
    """How bundles come to a device.

    Args:
        seconds: that one takes.
        room: the disk has room for it.
        size: of a bundle, by version; None: as the repository says.
    """

    seconds: float
    room: bool
    size: Callable[[int], int | None]


class PlayedSupply:
    """Implements `edgeslm.updater.change.Supply` for `SteppedDriver`, which brings nothing."""

    def __init__(self, offer: Offer) -> None:
        self.size = offer.bundle.size
        bundle = offer.bundle.bundle
        self._listed = BlockList(
            bundle=bundle, files=(BlobFile(path=MANIFEST, size=1, sha256=bundle),)
        )

    def blocks(self) -> BlockList:
        return self._listed

    def bring(
        self, file: BlobFile, into: Path, *, near: Sequence[Path], advance: Callable[[int], None]
    ) -> None:
        raise NotImplementedError

    def held(self, file: BlobFile) -> int:
        del file
        return 0


@dataclass
class SteppedDriver(Driver):
    """A driver whose `run` and `resume` only begin; `step` goes on.

    Attributes:
        download: how bundles come.
        load_after_s: that a model takes to load.
        again_at: when `step` has something to do, monotonic seconds.
        ended: how the last change ended, once it is over.
    """

    download: Download = Download(0.0, room=True, size=lambda _: None)
    load_after_s: float = 0.0
    again_at: float = _NEVER
    ended: EdgeSLMError | None = None
    _following: Event | None = None
    _waits: tuple[Effect, State] | None = None
    _since: float | None = None

    @property
    def under_way(self) -> bool:
        return self._following is not None or self._waits is not None

    def step(self) -> bool:
        """Go on as far as can be; return whether there is more."""
        try:
            while self.under_way:
                self._following = self._next()
        except NotYetError:
            self._following = None
            return True
        self.again_at, self.ended = _NEVER, self._error
        return False

    def _next(self) -> Event | None:
        if self._waits is not None:
            return self._perform(*self._waits)
        assert self._following is not None  # noqa: S101 -- it is under way
        return self._turn(self._following)

    def _drive(self, event: Event) -> EdgeSLMError | None:
        self._error = self._waits = self._since = self.ended = None
        self._following = event
        self.again_at = self.clock.monotonic()
        return None

    def _perform(self, effect: Effect, state: State) -> Event | None:
        self._waits = effect, state
        found = super()._perform(effect, state)
        self._waits = self._since = None
        return found

    def _pause(self) -> None:
        self._later(WATCH_S)

    def _later(self, seconds: float) -> NoReturn:
        self.again_at = self.clock.monotonic() + seconds
        raise NotYetError

    def _passed(self) -> float:
        """Seconds since what is under way was begun."""
        now = self.clock.monotonic()
        if self._since is None:
            self._since = now
        return now - self._since

    def _fetch(self) -> Event:
        self.check()
        change, download = self._change, self.download
        assert isinstance(change, ModelChange)  # noqa: S101 -- a configuration is not fetched
        assert isinstance(change.supply, PlayedSupply)  # noqa: S101 -- we have made it
        if not download.room:
            msg = f"{self.store.folder(change.model, 'a')}: 1 MiB too few are free."
            raise DiskFullError(msg)
        total = download.size(change.version) or change.supply.size
        passed = self._passed()
        done = total if passed >= download.seconds else int(total * passed / download.seconds)
        self.voice.progress(done, total)
        if done < total:
            self._later(min(PROGRESS_S, download.seconds - passed))
        return Event.FETCHED

    def _verify(self) -> Event:
        return Event.VERIFIED

    def _try(self) -> Event:
        if (left := self.load_after_s - self._passed()) > 0:
            self._later(left)
        return super()._try()


@dataclass
class SteppedUpdater(Updater):
    """An updater whose turns return; `again_at` says when there is something to do."""

    _under_way: Steps | None = None

    @property
    def stepped(self) -> SteppedDriver:
        assert isinstance(self.driver, SteppedDriver)  # noqa: S101 -- made with one
        return self.driver

    @property
    def post(self) -> Post:
        assert isinstance(self.broker, Post)  # noqa: S101 -- made with one
        return self.broker

    def begin(self) -> None:
        """As `run` begins."""
        self.voice.tell()  # what is retained may be of before a kill
        self.driver.resume()

    @property
    def again_at(self) -> float:
        if self.stepped.under_way:
            return self.stepped.again_at
        return self._retry_at or _NEVER

    @property
    def at_rest(self) -> bool:
        """Whether nothing is to be done but to wait for news."""
        return self._under_way is None and not self.stepped.under_way and not self._retry_at

    def turn(self) -> None:
        """Do what can be done now."""
        now = self.clock.monotonic()
        if self.stepped.under_way:
            if now >= self.stepped.again_at or self.post.news:
                self._go_on()
            return
        self._due |= self.broker.listen(0.0)
        if self.broker.ready and (self._due or now >= self._retry_at > 0):
            self._due, self._retry_at = False, 0.0
            self.switch.source = self.broker
            self._under_way = self._steps(self.broker)
            self._advance(None)

    def _go_on(self) -> None:
        if self.stepped.step():
            return
        if self._under_way is None:  # of before a start
            self._outcome(self.stepped.ended)
        else:
            self._advance(self.stepped.ended)

    def _advance(self, ended: EdgeSLMError | None) -> None:
        """Begin what is to be changed next, as far as that can be done now."""
        assert self._under_way is not None  # noqa: S101 -- see both callers
        while True:
            try:
                change: Change = self._under_way.send(ended)
            except StopIteration as over:
                self._under_way = None
                self._outcomes(over.value)
                return
            ended = self.driver.run(change)
            if ended is None:  # it has begun
                if self.stepped.step():
                    return
                ended = self.stepped.ended


class Post:
    """Implements `edgeslm.updater.updater.Broker` on one device's session.

    Args:
        mailbox: of the session.
        trust: of the device.
        assignment: topic.
        arrived: called with each assignment that comes, once, and when it did, monotonic seconds.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        trust: DeviceTrust,
        assignment: str,
        arrived: Callable[[bytes, float], None],
    ) -> None:
        self.check: Callable[[], None] = lambda: None
        self.waiting: Callable[[str | None], None] = lambda _: None
        self._mailbox = mailbox
        self._trust = trust
        self._topic = assignment
        self._arrived = arrived
        self._envelope: bytes | None = None
        self._news = False

    @property
    def news(self) -> bool:
        """Whether `listen` would return True."""
        return self._news

    def look_again(self) -> None:
        """The metadata have changed, or the connection is another."""
        self._news = True

    @property
    def ready(self) -> bool:
        return self._mailbox.connected and self._topic in self._mailbox.held

    def hear(self, messages: Sequence[Received]) -> None:
        """Take what has come."""
        for message in messages:
            if message.topic == self._topic and message.payload != self._envelope:
                self._envelope, self._news = message.payload, True
                if message.payload:
                    self._arrived(message.payload, message.received_at)

    def listen(self, timeout_s: float) -> bool:
        del timeout_s
        news, self._news = self._news, False
        return news

    def send(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001 -- a port
        self._mailbox.send(topic, payload, retain=retain)

    def metadata(self, file: str, max_bytes: int) -> bytes:
        del max_bytes
        raise NotThereError(file)

    def now(self, trust: TrustedMetadata) -> float:
        del trust
        return self._trust.known.now()

    def assignment(self) -> bytes | None:
        return self._envelope or None

    def commands(self) -> list[bytes]:
        return []

    def supply(self, trust: TrustedMetadata, offer: Offer) -> PlayedSupply:
        del trust
        return PlayedSupply(offer)
