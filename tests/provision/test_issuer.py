"""The service's session in which devices ask: whatever one brings up, the next is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from edgeslm.contract.provision import CertificateRequest
from edgeslm.contract.topics import FleetTopics
from edgeslm.fleet.database.identities import Issued
from edgeslm.fleet.service.issuer import FAULT, Issuer
from edgeslm.ports import Arrived, Letter, Received, Sink, Up
from tests.provision.kit import ROOT, Clock

PAYLOAD = json.dumps({"schema": 1, "csr": "x", "token": "t"}).encode()
ISSUED = Issued("1", "d", "k", "r", 0.0, 1.0, 0.0, "PEM")


class Session:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.sink: Sink = lambda _: None
        self.settled = 0
        self.sent: list[dict[str, Any]] = []

    def connect(self, sink: Sink) -> Session:
        self.sink = sink
        return self

    def settle(self, messages: Sequence[Received]) -> None:
        self.settled += len(messages)

    def publish(self, publications: Sequence[Letter], *, epoch: int) -> None:
        assert epoch == 1
        self.sent += [json.loads(each.payload) for each in publications]


def test_a_fault_ends_no_service_and_is_told_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = iter([RuntimeError("a fault"), MemoryError(), KeyError("x")])

    def answer(_request: CertificateRequest, _now: float) -> Issued:
        if (fault := next(faults, None)) is not None:
            raise fault
        return ISSUED

    session = Session()
    clock = Clock(time.time())
    issuer = Issuer(answer, session.connect, root=ROOT, shares=False, clock=clock)  # type: ignore[arg-type] # as much of one as is used
    session.sink(Up(1, session_present=False))
    for number in range(4):
        topic = FleetTopics(ROOT).provision(f"{number:032x}")
        message = Received(
            topic, PAYLOAD, number, 1, dup=False, retain=False, epoch=1, received_at=0.0
        )
        session.sink(Arrived([message]))
    for _ in range(5):
        issuer.step()
    assert [each.get("error", {}).get("code") for each in session.sent] == [
        *["provision.unavailable"] * 3,
        None,
    ]
    assert (issuer.refused[FAULT], issuer.issued, session.settled) == (3, 1, 4)
    told = [record for record in caplog.records if record.message == "request_failed"]
    assert (len(told), told[0].exc_info is not None) == (1, True)
