"""Answers that are for one device alone: what time it is, and ways from one file to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import Full
from typing import Final, Protocol

from pydantic import BaseModel, ValidationError

from edgeslm.contract.fleet import Ask, DeltaAsked, DeltaOffer
from edgeslm.contract.topics import Topics
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.blobs import BlobFiles
from edgeslm.fleet.deltas import Delta, DeltaMaker
from edgeslm.logs import Log
from edgeslm.ports import Clock, Letter

MAX_LETTERS: Final = 1024  # that wait to be sent
MAX_WAITING: Final = 256  # devices that wait for a delta

log = Log(__name__)


class Signs(Protocol):
    """What an answer takes of a repository."""

    folder: Path
    blobs: Path

    def sign_time(self, device: str, nonce: str, now: float) -> bytes:
        """Return a signed `TimeReply`.

        Raises:
            EdgeSLMError: the key cannot be used.
            ValueError: not a device's id, not a nonce, or not a time.
        """


class Answers:
    """Owned by the server's thread.

    Args:
        served: the repository.
        blobs: its blobs.
        root: topic levels that the fleet's devices share.
        clock: whose time is signed.
        refused: counts what is not answered, by reason.
        made: called, on another thread, with each delta that was made.
    """

    def __init__(  # noqa: PLR0913 -- by name, once
        self,
        served: Signs,
        blobs: BlobFiles,
        *,
        root: str,
        clock: Clock,
        refused: Counter[str],
        made: Callable[[Delta], None],
    ) -> None:
        self._served = served
        self._blobs = blobs
        self._root = root
        self._clock = clock
        self._refused = refused
        self._deltas = DeltaMaker(served.folder, served.blobs, made)
        self._waiting: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        self._letters: list[Letter] = []

    def take(self, payload: bytes) -> None:
        """Answer an `Ask`, now or when there is an answer."""
        try:
            ask = Ask.model_validate_json(payload)
        except ValidationError:
            self._refused["malformed"] += 1
            return
        if ask.time:
            self._tell_time(ask)
        if ask.delta is not None:
            self._find_delta(ask, ask.delta)

    def made(self, delta: Delta) -> None:
        """A delta was made: tell those who wait for it."""
        self._deltas.settle(delta)
        for device, nonce in self._waiting.pop((delta.want, delta.have), {}):
            self._offer(device, nonce, delta)

    def say(self, device: str, kind: str, message: BaseModel) -> None:
        """Have a message sent to a device."""
        payload = message.model_dump_json(by_alias=True, exclude_none=True).encode()
        self._send(device, kind, payload)

    def taken(self) -> list[Letter]:
        """Return what is to be sent now, once."""
        letters, self._letters = self._letters, []
        return letters

    def forget(self) -> None:
        """The connection was lost: whoever still wants an answer asks again."""
        self._waiting.clear()
        self._letters.clear()

    def close(self) -> None:
        """Make no more deltas."""
        self._deltas.close()

    def _tell_time(self, ask: Ask) -> None:
        if len(self._letters) >= MAX_LETTERS:  # signing costs more than asking
            self._refused["busy"] += 1
            return
        try:
            reply = self._served.sign_time(ask.device, ask.nonce, self._clock.wall())
        except (EdgeSLMError, ValueError) as err:
            log.warning("time_not_signed", message=str(err))
            self._refused["unsigned"] += 1
            return
        self._send(ask.device, "time", reply)

    def _find_delta(self, ask: Ask, asked: DeltaAsked) -> None:
        want, device, nonce = asked.want, ask.device, ask.nonce
        known = (have for have in asked.have if self._blobs.size(have) is not None)
        have = next(known, None)
        if have is None or have == want or self._blobs.size(want) is None:
            self._offer(device, nonce, Delta(want=want, have=want))
            return
        try:
            found = self._deltas.ask(want, have)
        except Full:
            self._refused["busy"] += 1
            return
        if found is not None:
            self._offer(device, nonce, found)
        elif sum(map(len, self._waiting.values())) >= MAX_WAITING:
            self._refused["busy"] += 1
        else:
            self._waiting.setdefault((want, have), {})[device, nonce] = None

    def _offer(self, device: str, nonce: str, delta: Delta) -> None:
        offer = DeltaOffer(schema=1, nonce=nonce, want=delta.want)
        if delta.algorithm is not None:
            given = {"have": delta.have, "algorithm": delta.algorithm, "blob": delta.blob}
            offer = offer.model_copy(update={**given, "size": delta.size})
        self.say(device, "delta", offer)

    def _send(self, device: str, kind: str, payload: bytes) -> None:
        if len(self._letters) >= MAX_LETTERS:
            self._refused["busy"] += 1
            return
        self._letters.append(Letter(Topics(self._root, device).answer(kind), payload))
