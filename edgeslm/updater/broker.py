"""A fleet's broker as a source: what is retained there, and what its servers answer."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgeslm.adapters.blocks import FileBlockStore
from edgeslm.adapters.clock import since_boot
from edgeslm.adapters.delta import patch
from edgeslm.contract.fleet import (
    BLOCK_BYTES,
    MAX_COMMAND_BYTES,
    MAX_SIGNED_BYTES,
    Ask,
    BlobFile,
    BlockList,
    DeltaOffer,
    Index,
)
from edgeslm.contract.settings import AgentSettings, UpdateSettings
from edgeslm.contract.topics import FleetTopics
from edgeslm.core.troubles import Troubles
from edgeslm.core.trust import ClockUntrustedError, settle
from edgeslm.core.update import SupersededError
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import BlockStore, Clock, NotThereError, Offer, Received, TrustedMetadata
from edgeslm.runtime.bundle import open_bundle
from edgeslm.updater.download import Fetcher
from edgeslm.updater.install import missing_bytes
from edgeslm.updater.mailbox import NOT_YET, Mailbox, open_mailbox

log = Log(__name__)
RETAINED_S: Final = 10.0  # for a retained message to come
TIME_S: Final = 20.0  # for a server to say what time it is
SETTLED_S: Final = 24 * 3600.0  # a clock that was settled is settled anew after it
DELTA_S: Final = 20.0  # for a server to find or make a difference
DELTA_STALL_S: Final = 30.0  # without progress of a difference: the blocks remain
DELTA_FROM_BYTES: Final = 64 * 1024  # smaller files come whole
DELTA_MOST: Final = 0.5  # of a file: a difference larger than this saves too little
TIMESTAMP: Final = "timestamp.json"
MAX_INDEX_BYTES: Final = 256 * 1024
MAX_COMMANDS: Final = 8  # that wait to be looked at; who sends more has to send again


class MetadataAwayError(UnavailableError):
    """The broker does not hold a metadata file that the fleet's own metadata name."""

    code = "fetch.metadata"


class NoBroker:
    """A device that only sticks bring anything to."""

    ready = False

    def __init__(self) -> None:
        self.check: Callable[[], None] = lambda: None
        self.waiting: Callable[[str | None], None] = lambda _: None

    def listen(self, timeout_s: float) -> bool:
        time.sleep(timeout_s)
        return False

    def send(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001 -- a port
        del topic, payload, retain

    def metadata(self, file: str, max_bytes: int) -> bytes:
        del max_bytes
        raise NotThereError(file)

    def now(self, trust: TrustedMetadata) -> float:
        del trust
        msg = "there is no broker to ask"
        raise ClockUntrustedError(msg)

    def assignment(self) -> bytes | None:
        return None

    def commands(self) -> list[bytes]:
        return []

    def supply(self, trust: TrustedMetadata, offer: Offer) -> BrokerSupply:
        del trust
        raise NotThereError(offer.sha256)


class BrokerSource:
    """Implements `edgeslm.updater.updater.Broker`. Owned by the updater's main thread.

    Args:
        settings: of the device.
        update: their [update].
        downloads: folder of blobs under way.
        clock: of the system.

    Attributes:
        check: see `edgeslm.updater.driver.Driver`.
        waiting: told what a fetch waits for.
    """

    def __init__(
        self, settings: AgentSettings, update: UpdateSettings, *, downloads: Path, clock: Clock
    ) -> None:
        self.check: Callable[[], None] = lambda: None
        self.waiting: Callable[[str | None], None] = lambda _: None
        self.store: BlockStore = FileBlockStore(
            downloads, min_free_bytes=update.min_free_mb * 2**20
        )
        self._device = settings.device_id
        self._update = update
        topics = settings.topics
        self._fleet = FleetTopics(topics.root)
        self._assignment_topic = topics.assignment
        self._command_topic = topics.command
        self._commands: deque[bytes] = deque()
        self._address = settings.uplink.address
        self._downs = Troubles()
        self._timestamp_topic = self._fleet.metadata(TIMESTAMP)
        self._held: dict[str, bytes] = {}
        self._news = False
        self._signed: tuple[float, float] | None = None
        self._own = frozenset({self._assignment_topic, self._timestamp_topic, self._fleet.index})
        self.mailbox: Mailbox = open_mailbox(f"{settings.device_id}-updater", settings.uplink)
        # A broker that does not know of commands may refuse their topic: all else goes on.
        self.mailbox.subscribe(self._own | {self._command_topic})
        self.fetcher = Fetcher(
            self.mailbox,
            self.store,
            topics,
            settings=update,
            clock=clock,
            heard=self._hear,
            waiting=self._wait,
        )

    def _wait(self, what: str | None) -> None:
        self.waiting(what)

    @property
    def ready(self) -> bool:
        held = self.mailbox.held >= self._own
        return self.mailbox.connected and held and self._timestamp_topic in self._held

    def listen(self, timeout_s: float) -> bool:
        for message in self.mailbox.wait(timeout_s):
            self._hear(message)
        self._say_trouble()
        news, self._news = self._news, False
        return news

    def _say_trouble(self) -> None:
        """Log why there is no broker."""
        mailbox = self.mailbox
        if mailbox.connected:
            self._downs.clear()
        elif mailbox.trouble != NOT_YET and self._downs.is_news(mailbox.trouble, since_boot()):
            log.warning("uplink_disconnected", broker=self._address, reason=mailbox.trouble)

    def send(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001 -- a port
        self.mailbox.send(topic, payload, retain=retain)

    def metadata(self, file: str, max_bytes: int) -> bytes:
        if file == TIMESTAMP:
            raw = self._own_retained(self._timestamp_topic)
            if raw is None:
                msg = f"{file}: the broker holds none; does `edgeslm fleet publish` run?"
                raise MetadataAwayError(msg)
            return raw
        version, _, role = file.partition(".")
        newest = self._newest_root() if role == "root.json" else None
        if newest is not None and int(version) > newest:
            raise NotThereError(file)
        topic = self._fleet.metadata(file)
        raw = self.mailbox.retained(topic, timeout_s=RETAINED_S, max_bytes=max_bytes)
        self.check()
        if raw is None:
            if role == "root.json":
                raise NotThereError(file)
            msg = f"{file}: the broker does not hold it; does `edgeslm fleet publish` run?"
            raise MetadataAwayError(msg)
        return raw

    def now(self, trust: TrustedMetadata) -> float:
        if self._signed is None or since_boot() - self._signed[1] > SETTLED_S:
            self._signed = self._ask_time(trust)
        return settle(floor=trust.time_floor, monotonic=since_boot(), signed=self._signed)

    def assignment(self) -> bytes | None:
        # An empty retained message is how one is taken away.
        return self._held.get(self._assignment_topic) or None

    def commands(self) -> list[bytes]:
        found = list(self._commands)
        self._commands.clear()
        return found

    def supply(self, trust: TrustedMetadata, offer: Offer) -> BrokerSupply:
        return BrokerSupply(self, trust, offer)

    def has_room(self, folder: Path, size: int) -> bool:
        """Whether so many bytes fit beside what is to stay free."""
        return not missing_bytes(folder, size + self._update.min_free_mb * 2**20)

    @property
    def delta_stall_s(self) -> float:
        """How long a difference may be without progress; a block takes its time by our rate."""
        rate = self._update.rate_kb_s
        slow_s = 2 * BLOCK_BYTES / (rate * 1024.0) if rate is not None else 0.0
        return min(self._update.stall_s, DELTA_STALL_S + slow_s)

    def wake(self) -> None:
        """Have `listen` return; may be called by another thread."""
        self.mailbox.wake()

    def close(self) -> None:
        """Say what is still to be said, and leave."""
        self.mailbox.close()

    def _hear(self, message: Received) -> None:
        if message.topic == self._command_topic:
            self._hear_command(message)
            return
        if message.topic not in self._own or len(message.payload) > MAX_SIGNED_BYTES:
            return
        if self._held.get(message.topic) != message.payload:
            self._held[message.topic] = message.payload
            self._news |= message.topic != self._fleet.index

    def _hear_command(self, message: Received) -> None:
        fits = len(message.payload) <= MAX_COMMAND_BYTES and not message.retain
        if fits and len(self._commands) < MAX_COMMANDS:
            self._commands.append(message.payload)
        else:
            log.warning("command_dropped", bytes=len(message.payload), retained=message.retain)

    def _own_retained(self, topic: str) -> bytes | None:
        until = time.monotonic() + RETAINED_S
        while topic not in self._held and (left := until - time.monotonic()) > 0:
            for message in self.mailbox.wait(min(left, 1.0)):
                self._hear(message)
            self.check()
        return self._held.get(topic)

    def _newest_root(self) -> int | None:
        """Return the newest root that there is by the index, which nobody signs; None without."""
        raw = self._own_retained(self._fleet.index)
        if raw is None or len(raw) > MAX_INDEX_BYTES:
            return None
        try:
            return Index.model_validate_json(raw).root
        except ValidationError:
            return None

    def _ask_time(self, trust: TrustedMetadata) -> tuple[float, float]:
        """Return a time signed for us, and when it was asked for."""
        nonce = secrets.token_hex(16)
        asked_at = since_boot()

        def read(payload: bytes) -> float:
            try:
                return trust.time_of(payload, device=self._device, nonce=nonce)
            except ClockUntrustedError as err:  # anybody may send one; the next may be genuine
                log.warning("time_refused", why=str(err))
                raise ValueError from err

        self.waiting("time")
        ask = Ask(schema=1, device=self._device, nonce=nonce, time=True)
        found = self.fetcher.ask("time", ask, read, timeout_s=TIME_S)
        self.waiting(None)
        if found is None:
            msg = "none of the fleet's servers says what time it is; does `fleet publish` run?"
            raise ClockUntrustedError(msg)
        return found, asked_at


class BrokerSupply:
    """Implements `edgeslm.updater.change.Supply`."""

    def __init__(self, source: BrokerSource, trust: TrustedMetadata, offer: Offer) -> None:
        self._source = source
        self._trust = trust
        self._offer = offer

    def blocks(self) -> BlockList:
        source, offer = self._source, self._offer
        path = source.fetcher.fetch(offer.sha256, offer.length, check=source.check)
        listed = self._trust.blocks(offer, path.read_bytes())
        source.store.sweep({offer.sha256, *(file.sha256 for file in listed.files)})
        return listed

    def bring(
        self, file: BlobFile, into: Path, *, near: Sequence[Path], advance: Callable[[int], None]
    ) -> None:
        source = self._source
        if file.size >= DELTA_FROM_BYTES and not source.store.held(file.sha256):
            for base, digest in _alike(file, near):
                if self._by_difference(file, into, base, digest):
                    advance(file.size)
                    return
        here = 0

        def count(done: int) -> None:
            nonlocal here
            advance(done - here)
            here = done

        source.fetcher.fetch(file.sha256, file.size, file.blocks, check=source.check, advance=count)
        source.store.move(file.sha256, into)

    def held(self, file: BlobFile) -> int:
        return self._source.store.held(file.sha256)

    def _by_difference(self, file: BlobFile, into: Path, base: Path, digest: str) -> bool:
        """Make a file of one that is here and a difference; return whether that could be done."""
        source = self._source
        offer = source.fetcher.ask_delta(file.sha256, [digest], timeout_s=DELTA_S)
        source.check()
        if offer is None or offer.size > DELTA_MOST * file.size:
            return False
        if not source.has_room(into.parent, file.size + offer.size):
            return False  # the two lie beside each other for a while, and the file alone fits
        try:
            self._patch(offer, file, into, base)
        except SupersededError:
            raise
        except EdgeSLMError as err:
            # Nobody signs differences, and not every server has each: the blocks remain.
            log.warning("delta_refused", file=file.path, code=err.code, message=str(err))
            with suppress(OSError):
                into.unlink(missing_ok=True)
            with suppress(EdgeSLMError):
                self._forget_delta(file)
            return False
        return True

    def _patch(self, offer: DeltaOffer, file: BlobFile, into: Path, base: Path) -> None:
        source = self._source
        assert offer.blob is not None  # noqa: S101 -- `ask_delta` returns no other
        assert offer.algorithm is not None  # noqa: S101
        delta = source.fetcher.fetch(
            offer.blob, offer.size, check=source.check, stall_s=source.delta_stall_s
        )
        patch(offer.algorithm, base, delta, into, size=file.size, sha256=file.sha256)
        self._forget_delta(file)

    def _forget_delta(self, file: BlobFile) -> None:
        self._source.store.sweep({file.sha256, self._offer.sha256})


def _alike(file: BlobFile, near: Sequence[Path]) -> list[tuple[Path, str]]:
    """Return files of other bundles that a file may be made of, with their hashes."""
    found: list[tuple[Path, str]] = []
    for folder in near:
        with suppress(EdgeSLMError):
            artifacts = open_bundle(folder, verify=False).manifest.artifacts
            found += [(folder / a.path, a.sha256) for a in artifacts if a.path == file.path]
    return found[:1]
