"""Fetches blobs block by block: asked for over MQTT, kept on disk, held against their hashes.

Whoever can write to a blob's topic can send anything. Bytes that are not what was promised are
counted and ignored: they are neither kept nor asked for again because of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from edgeslm.contract.fleet import BLOCK_BYTES, Ask, DeltaAsked, DeltaOffer, Missing, Want
from edgeslm.contract.settings import UpdateSettings
from edgeslm.contract.topics import FleetTopics, Topics
from edgeslm.core import block as codec
from edgeslm.core.block_window import Request, Window
from edgeslm.core.hours import is_open
from edgeslm.errors import EdgeSLMError, UnavailableError
from edgeslm.logs import Log
from edgeslm.ports import BlockStore, Clock, DamagedBlobError, Download, Received
from edgeslm.updater.mailbox import Mailbox

CHECK_S: Final = 0.25  # between two looks at whether it is still wanted
# Before the first request, for those who begin a little later: whoever listens misses nothing.
LISTEN_S: Final = 1.0  # at most
LISTEN_BLOCK_S: Final = 0.005  # for each block: about as long as a fast network takes
LISTEN_BLOCKS: Final = 32  # a shorter blob is not worth the wait
SILENT: Final = 3  # so many silences in a row: the server is not there
# So many requests in a row that a server answers by not having the blob. Requests are shared out
# among servers, and one that has it may be another.
MISSING: Final = 12
FLUSH_S: Final = 5.0  # a power cut costs no more than what came in so long
ATTEMPTS: Final = 2  # at a blob whose bytes, when all are here, are not it
ASK_AGAIN_S: Final = 3.0

log = Log(__name__)
T = TypeVar("T")


class StalledError(UnavailableError):
    """Nothing came for as long as the settings let it."""

    code = "fetch.stalled"


class MissingBlobError(UnavailableError):
    """The fleet's servers do not have what its metadata name."""

    code = "fetch.missing"


def _nothing(_: object = None) -> None:
    """Do nothing: whoever calls does not want to know."""


class Fetcher:
    """Fetches by one mailbox into one store, one blob at a time.

    Args:
        mailbox: of the device's updater; filters of ours are added to its own and taken back.
        store: where blobs under way are.
        topics: the device's.
        settings: how fast, how much at once, when, and how long without progress.
        clock: monotonic for all of it but the hours.
        heard: takes what comes on topics that are not ours.
        waiting: told what it waits for: broker, server or window; None: for nothing.

    Attributes:
        ignored: messages on a blob's topic that were none of its blocks, or had other bytes.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        mailbox: Mailbox,
        store: BlockStore,
        topics: Topics,
        *,
        settings: UpdateSettings,
        clock: Clock,
        heard: Callable[[Received], None] = _nothing,
        waiting: Callable[[str | None], None] = _nothing,
    ) -> None:
        self.ignored = 0
        self.mailbox = mailbox
        self.store = store
        self.topics = topics
        self.fleet = FleetTopics(topics.root)
        self.settings = settings
        self.clock = clock
        self.heard = heard
        self.waiting = waiting

    def fetch(  # noqa: PLR0913 -- by name
        self,
        blob: str,
        size: int,
        blocks: Sequence[str] = (),
        *,
        check: Callable[[], None] = _nothing,
        advance: Callable[[int], None] = _nothing,
        stall_s: float | None = None,
    ) -> Path:
        """Return the file of a blob, whole; `BlockStore.move` puts it where it belongs.

        What an earlier call has fetched of it is there already.

        Args:
            blob: its SHA-256.
            size: its bytes.
            blocks: SHA-256 of each block; empty where it has one block, or they are not known.
            check: called now and then; what it raises ends the call.
            advance: called with how many of its bytes are here.
            stall_s: for nothing to come; None: as the settings say.

        Raises:
            StalledError: nothing came for too long: there is no broker, no server, or no way.
            MissingBlobError: no server that answers has such a blob.
            DamagedBlobError: its blocks came twice and were not it.
            DiskFullError, SlotsUnavailableError: the disk refused.
        """
        topic = self.fleet.blob(blob)
        if self.may_fetch():
            self.listen(topic)  # the disk takes its time, and others may be served already
        try:
            download = self.store.begin(blob, size, blocks)
        except BaseException:
            self.leave(topic)
            raise
        try:
            for attempt in range(1, ATTEMPTS + 1):
                _Transfer(self, download, blob, size, check, advance, stall_s).run()
                try:
                    return download.finish()
                except DamagedBlobError as err:
                    log.warning("fetched_blob_damaged", blob=blob, message=str(err))
                    if attempt == ATTEMPTS or not download.missing:
                        raise
        finally:
            self.leave(topic)
            with suppress(EdgeSLMError):  # what ends the call counts more
                download.flush()
            download.close()
        raise AssertionError  # the last attempt returns or raises

    def ask_delta(self, want: str, have: Sequence[str], *, timeout_s: float) -> DeltaOffer | None:
        """Ask for a way from files that are here to one that is wanted; None: there is none."""
        asked = DeltaAsked(want=want, have=tuple(have[:8]))
        nonce = secrets.token_hex(16)

        def read(payload: bytes) -> DeltaOffer | None:
            offer = DeltaOffer.model_validate_json(payload)
            ours = offer.nonce == nonce and offer.want == want
            return offer if ours and (offer.have is None or offer.have in have) else None

        ask = Ask(schema=1, device=self.topics.device, nonce=nonce, delta=asked)
        offer = self.ask("delta", ask, read, timeout_s=timeout_s)
        if offer is None or offer.have is None or offer.blob is None or offer.algorithm is None:
            return None
        return offer

    def ask(
        self, kind: str, ask: Ask, read: Callable[[bytes], T | None], *, timeout_s: float
    ) -> T | None:
        """Ask the fleet's servers something, and return the first answer that `read` takes.

        Args:
            kind: of the answer's topic: time or delta.
            ask: what is asked; it is asked again while no answer comes.
            read: returns an answer; None, or a ValueError, where it is none of ours.
            timeout_s: None is returned after it.
        """
        topic = self.topics.answer(kind)
        payload = ask.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        monotonic = self.clock.monotonic
        until = monotonic() + timeout_s
        again_at = 0.0
        self.listen(topic)
        try:
            while (now := monotonic()) < until:
                if topic in self.mailbox.held and now >= again_at:
                    self.mailbox.send(self.fleet.ask, payload, keep=False)
                    again_at = now + ASK_AGAIN_S
                for message in self.mailbox.wait(min(until - now, 1.0)):
                    if message.topic != topic:
                        self.heard(message)
                        continue
                    try:
                        answer = read(message.payload)
                    except ValueError:
                        self.ignored += 1
                        continue
                    if answer is not None:
                        return answer
            return None
        finally:
            self.leave(topic)

    def may_fetch(self) -> bool:
        """Whether this is one of the hours in which to fetch."""
        local = time.localtime(self.clock.wall())
        return is_open(self.settings.hours, local.tm_hour * 60 + local.tm_min)

    def listen(self, *topics: str) -> None:
        """Add topics to the mailbox's filters."""
        self.mailbox.subscribe(self.mailbox.wanted | set(topics))

    def leave(self, *topics: str) -> None:
        """Take topics back."""
        self.mailbox.subscribe(self.mailbox.wanted - set(topics))


class _Transfer:
    """One blob, until all of its blocks are here."""

    def __init__(  # noqa: PLR0913, PLR0917 -- by place, once
        self,
        fetcher: Fetcher,
        download: Download,
        blob: str,
        size: int,
        check: Callable[[], None],
        advance: Callable[[int], None],
        stall_s: float | None,
    ) -> None:
        self._fetcher = fetcher
        self._mailbox = fetcher.mailbox
        self._download = download
        self._blob = blob
        self._size = size
        self._check = check
        self._advance = advance
        self._data = fetcher.fleet.blob(blob)
        self._answers = fetcher.topics.answer("missing")
        here = download.here()
        settings = fetcher.settings
        self._stall_s = settings.stall_s if stall_s is None else stall_s
        rate = None if settings.rate_kb_s is None else settings.rate_kb_s * 1024.0
        limit = settings.window_kb * 1024 // BLOCK_BYTES
        self._window = Window(codec.count_of(size), here, limit=limit, rate=rate)
        self._here = sum(codec.length_of(block, size) for block in here)
        self._epoch = 0
        self._listen_until: float | None = None
        self._missing_before = 0
        self._missing = 0
        self._missing_asked = 0
        self._unflushed_since: float | None = None
        self._began = self._progress_at = fetcher.clock.monotonic()

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            StalledError, MissingBlobError, DiskFullError, SlotsUnavailableError: see `fetch`.
        """
        self._advance(self._here)
        window, monotonic = self._window, self._fetcher.clock.monotonic
        if not window.missing:
            return
        log.info("fetch_began", blob=self._blob, bytes=self._size, here_bytes=self._here)
        check_at = 0.0
        try:
            while window.missing:
                now = monotonic()
                if now >= check_at:
                    check_at = now + CHECK_S
                    self._check()
                    self._see_to_listening(now)
                    self._see_to_flushing(now)
                wait_s = min(self._ask(now), CHECK_S)
                for message in self._mailbox.wait(wait_s):
                    self._take(message, monotonic())
            self._download.flush()
        finally:
            self._fetcher.leave(self._data, self._answers)
            self._fetcher.waiting(None)
        took_s = monotonic() - self._began
        log.info(
            "fetch_ended",
            blob=self._blob,
            seconds=round(took_s, 3),
            asked=window.asked,
            repeats=window.repeats,
            ignored=self._fetcher.ignored,
        )

    def _see_to_listening(self, now: float) -> None:
        """Be on the blob's topic when we may, and say what we wait for."""
        fetcher, window = self._fetcher, self._window
        in_hours = fetcher.may_fetch()
        listens = self._data in self._mailbox.wanted
        if not in_hours:
            self._progress_at = now
        if in_hours and window.may_listen(now):
            fetcher.listen(self._data)
        elif listens:
            fetcher.leave(self._data)
            window.disconnected()
        if now - self._progress_at > self._stall_s:
            why = self._mailbox.trouble or "the fleet's server does not answer"
            msg = f"{self._blob}: nothing came for {self._stall_s:g} s: {why}"
            raise StalledError(msg)
        if not in_hours:
            fetcher.waiting("window")
        elif not self._mailbox.connected:
            fetcher.waiting("broker")
        else:
            fetcher.waiting("server" if window.silences >= SILENT else None)

    def _see_to_flushing(self, now: float) -> None:
        """Have on disk what came a while ago, and all before the hours' pause."""
        since = self._unflushed_since
        if since is not None and (now - since >= FLUSH_S or not self._fetcher.may_fetch()):
            self._download.flush()
            self._unflushed_since = None

    def _ask(self, now: float) -> float:
        """Ask for what is due; return for how long nothing else is."""
        if self._mailbox.epoch != self._epoch:
            self._epoch = self._mailbox.epoch
            self._window.disconnected()
            self._download.flush()
        if self._data not in self._mailbox.held & self._mailbox.wanted:
            return CHECK_S
        if self._answers not in self._mailbox.wanted:
            if (wait_s := self._listens_for(now)) > 0:
                return wait_s
            self._fetcher.listen(self._answers)
        if self._answers not in self._mailbox.held:
            return CHECK_S
        for request in self._window.ask(now):
            self._send(request)
        due_at = self._window.due_at(now)
        return CHECK_S if due_at is None else max(0.0, due_at - now)

    def _listens_for(self, now: float) -> float:
        """How long to listen yet before anything is asked for: who comes late joins the others.

        Each who did not, and asked for the beginning at once, would have it sent to all of them;
        later round, those who missed it ask for it together. What came while we listened is seen
        before we ask, since the broker then grants us our other topic behind it.
        """
        if self._listen_until is None:
            long = self._window.missing > LISTEN_BLOCKS
            seconds = min(LISTEN_S, self._window.missing * LISTEN_BLOCK_S) if long else 0.0
            self._listen_until = now + seconds
            self._missing_before = self._window.missing
        heard = self._window.missing < self._missing_before
        return 0.0 if heard else self._listen_until - now

    def _send(self, request: Request) -> None:
        device = self._fetcher.topics.device
        want = Want(schema=1, device=device, ranges=request.ranges, again=request.again)
        payload = want.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        self._mailbox.send(self._fetcher.fleet.want(self._blob), payload, keep=False)

    def _take(self, message: Received, now: float) -> None:
        if message.topic == self._data:
            self._take_block(message.payload, now)
        elif message.topic == self._answers:
            self._take_missing(message.payload)
        else:
            if message.topic.startswith(f"{self._fetcher.fleet.base}/"):
                self._window.hurry()  # what a server publishes when it comes back
            self._fetcher.heard(message)

    def _take_block(self, payload: bytes, now: float) -> None:
        window, download = self._window, self._download
        block = codec.unpack(payload)
        if block is None or block.size != self._size:
            self._fetcher.ignored += 1
            return
        if not window.lacks(block.number):
            return
        if not download.put(block.number, block.data):
            self._fetcher.ignored += 1
            return
        window.arrived(block.number, now)
        self._here += len(block.data)
        self._progress_at = now
        self._missing = 0
        if self._unflushed_since is None:
            self._unflushed_since = now
        self._advance(self._here)

    def _take_missing(self, payload: bytes) -> None:
        try:
            missing = Missing.model_validate_json(payload)
        except ValidationError:
            self._fetcher.ignored += 1
            return
        if missing.blob != self._blob:
            return
        if self._missing_asked == self._window.asked:
            return  # of one request; who answers it more often, says it once
        self._missing_asked = self._window.asked
        self._missing += 1
        self._window.hurry()  # the next request may go to another server
        if self._missing >= MISSING:
            msg = (
                f"{self._blob}: no server that answered {MISSING} requests has such a blob. Run "
                "`fleet publish` on the repository that the model was added to, or on a whole "
                "copy of it; the device tries again."
            )
            raise MissingBlobError(msg)
