"""One MQTT session of the service, in which devices ask for certificates.

Requests come from anybody who may connect: what is wrong with one is counted by reason. A request
is acknowledged when it is decided. The session ends with its connection: who has no answer asks
again, with the same request, which has the same answer.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from pydantic import TypeAdapter, ValidationError

from edgeslm.contract.fleet import Nonce
from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.provision import MAX_BYTES, CertificateReply, CertificateRequest
from edgeslm.contract.topics import FleetTopics
from edgeslm.core.provisioning import REFUSALS, IssuingUnavailableError
from edgeslm.errors import EdgeSLMError, RejectedError
from edgeslm.fleet.database.identities import Issued
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

WAIT_S: Final = 1.0
IN_FLIGHT: Final = 64  # answers that the broker has not confirmed
MAX_LETTERS: Final = 1024  # that wait to be sent
TELL_S: Final = 60.0  # between two lines on the same reason
CLOSE_S: Final = 2.0
FAULT: Final = "fault"
"""Reason of a request that brought up a fault of ours."""
_NONCE: Final = TypeAdapter(Nonce)

log = Log(__name__)
Answer = Callable[[CertificateRequest, float], Issued]
"""Returns a certificate; raises `RejectedError` where there is none, another where not now."""


class Issuer:
    """Answers requests for certificates until it is stopped. One thread's, but for `stop`.

    Args:
        answer: decides, in a transaction of its own.
        connect: makes the session's transport, given where it reports to.
        root: topic levels that the fleet's devices share.
        shares: with other workers, requests are shared out by the broker.
        clock: for certificates.

    Attributes:
        issued: certificates that were answered with.
        refused: requests that were not, by reason.
        unshared: the broker does not share subscriptions.
    """

    def __init__(
        self,
        answer: Answer,
        connect: Callable[[Sink], Transport[Letter]],
        *,
        root: str,
        shares: bool,
        clock: Clock,
    ) -> None:
        self.issued = 0
        self.refused: Counter[str] = Counter()
        self.unshared = False
        self.shares = shares
        self._answer = answer
        self._topics = FleetTopics(root)
        self._clock = clock
        self._reports: SimpleQueue[Report | None] = SimpleQueue()
        self._link = connect(self._reports.put)
        self._stopping = threading.Event()
        self._epoch = 0
        self._letters: deque[Letter] = deque()
        self._in_flight: set[Letter] = set()
        self._told_at: dict[str, float] = {}

    def run(self) -> None:
        """Answer until `stop`; then leave."""
        requests = self._topics.provisions
        self._link.subscribe([self._topics.shared(requests) if self.shares else requests])
        self._link.start()
        try:
            while not self._stopping.is_set():
                self.step()
        finally:
            self._link.stop()
            self._link.join(CLOSE_S)

    def stop(self) -> None:
        """Have `run` return soon; may be called by another thread."""
        self._stopping.set()
        self._reports.put(None)

    def step(self) -> None:
        """Wait for something to happen, and see to it."""
        try:
            report = self._reports.get(timeout=WAIT_S)
        except Empty:
            return
        match report:
            case Arrived():
                for message in report.messages:
                    if self._stopping.is_set():
                        return
                    self._take(message)
                    self._link.settle([message])
                    self._post()
            case Up():
                self._epoch = report.epoch
                self._letters.clear()
                self._in_flight.clear()
            case Down():
                self._epoch = 0
            case Subscribed() if report.refused:
                self.unshared = self.unshared or self.shares
                if not self.shares:
                    log.error("subscription_refused", filters=sorted(report.refused))
            case Confirmed():
                refused = [letter for letter, _ in (*report.refused, *report.deferred)]
                self.refused["by_broker"] += len(refused)
                self._in_flight.difference_update(report.publications, refused)
                self._post()
            case _:
                pass

    def _take(self, message: Received) -> None:
        request = message.topic.rpartition("/")[2]
        try:
            _NONCE.validate_python(request)
        except ValidationError:  # there is nobody who could hear an answer
            self._refuse("no_request")
            return
        if len(message.payload) > MAX_BYTES:
            self._refuse("too_long")
            return
        try:
            asked = CertificateRequest.model_validate_json(message.payload)
        except ValidationError:
            self._refuse("malformed")
            self._say(request, error={"code": "provision.request", "message": "malformed"})
            return
        try:
            self._decide(request, asked)
        except Exception as err:  # noqa: BLE001 -- what one request brings up ends no service
            self._faulty(request, err)

    def _decide(self, request: str, asked: CertificateRequest) -> None:
        try:
            issued = self._answer(asked, self._clock.wall())
        except RejectedError as err:
            if err.code not in REFUSALS:  # of our own: a key's passphrase, say
                self._away(request, err)
                return
            self._refuse(err.code, str(err))
            self._say(request, error={"code": err.code, "message": str(err)})
        except EdgeSLMError as err:
            self._away(request, err)
        else:
            self.issued += 1
            log.info("certificate_issued", device=issued.device, serial=issued.serial)
            self._say(request, device=issued.device, certificate=issued.pem)

    def _faulty(self, request: str, err: Exception) -> None:
        """A fault of ours; told with where it was, as seldom as the others."""
        if self._due(FAULT):
            log.fault("request_failed", err)
        self.refused[FAULT] += 1
        self._not_now(request)

    def _away(self, request: str, err: EdgeSLMError) -> None:
        """Say that it is no device's fault; what is wrong here is for our log alone."""
        self._refuse(err.code, str(err))
        self._not_now(request)

    def _not_now(self, request: str) -> None:
        code, why = IssuingUnavailableError.code, "the fleet gives no certificates now"
        self._say(request, error={"code": code, "message": f"{why}. Ask again."})

    def _say(
        self,
        request: str,
        *,
        device: str | None = None,
        certificate: str | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        reply = CertificateReply(
            schema=1,
            request=request,
            time=self._clock.wall(),
            device=device,
            certificate=certificate,
            error=error,
        )
        if len(self._letters) >= MAX_LETTERS:
            self._refuse("busy")
            return
        payload = reply.model_dump_json(by_alias=True, exclude_none=True).encode()
        self._letters.append(Letter(self._topics.provision_reply(request), payload))

    def _post(self) -> None:
        while self._epoch and self._letters and len(self._in_flight) < IN_FLIGHT:
            letter = self._letters.popleft()
            self._in_flight.add(letter)
            self._link.publish([letter], epoch=self._epoch)

    def _refuse(self, reason: str, message: str = "") -> None:
        self.refused[reason] += 1
        if self._due(reason):
            log.warning(
                "request_refused", reason=reason, count=self.refused[reason], message=message
            )

    def _due(self, reason: str) -> bool:
        """Whether it is time for another line on this."""
        now = self._clock.monotonic()
        due = now - self._told_at.get(reason, -TELL_S) >= TELL_S
        if due:
            self._told_at[reason] = now
        return due
