"""The server keeps what is retained fresh, answers each request once, and survives any of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.clock import SystemClock
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import (
    BLOCK_BYTES,
    MAX_REQUEST_BYTES,
    DeltaOffer,
    Index,
    Missing,
    TimeReply,
)
from edgeslm.contract.topics import FleetTopics, Topics
from edgeslm.core import block as codec
from edgeslm.fleet import server as server_module
from edgeslm.fleet.answers import MAX_LETTERS
from edgeslm.fleet.server import UNWRITTEN_BYTES, Server
from edgeslm.ports import (
    Arrived,
    Confirmed,
    Letter,
    Received,
    Sink,
    Subscribed,
    Transport,
    Up,
)
from edgeslm.updater.mailbox import Mailbox, open_mailbox
from tests.fleet.served import ROOT, FakeServed, Running
from tests.mosquitto import Mosquitto

FLEET = FleetTopics(ROOT)
DEV = Topics(ROOT, "dev")
WAIT_S = 10.0
NONCE = "0123456789abcdef" * 2
DATA = bytes(range(256)) * (3 * BLOCK_BYTES // 256) + b"end"


@pytest.fixture
def served(tmp_path: Path) -> FakeServed:
    return FakeServed(tmp_path / "repository")


class FakeLink:
    """A transport that a test plays: what the server says, and what it is told."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.filters: list[frozenset[str]] = []
        self.sent: list[Letter] = []

    def start(self) -> None:
        """Nothing comes by itself."""

    def subscribe(self, filters: Any) -> None:
        self.filters.append(frozenset(filters))

    def silent_s(self) -> float:
        return 0.0

    def publish(self, publications: Sequence[Letter], *, epoch: int) -> None:
        assert epoch == 1
        self.sent += publications

    def settle(self, messages: Sequence[Received]) -> None:
        """Nobody counts."""

    def pause(self) -> None:
        """Never."""

    def stop(self, last: Letter | None = None, *, forget: bool = False) -> None:
        """Nothing runs."""

    def join(self, timeout_s: float) -> bool:
        del timeout_s
        return True


class Played:
    """A server without a thread: each call is one step."""

    def __init__(self, served: FakeServed, **more: bool) -> None:
        self.links: list[FakeLink] = []

        def connect(sink: Sink) -> Transport[Letter]:
            self.links.append(FakeLink(sink))
            return self.links[0]

        self.server = Server(served, connect, root=ROOT, clock=SystemClock(), **more)
        self.link = self.links[0]

    def hear(self, *reports: Any) -> list[Letter]:
        """Tell the server these; return what it sends then."""
        self.link.sent.clear()
        for report in reports:
            self.link.sink(report)
        self.server.wake()
        self.server.step()
        return list(self.link.sent)

    def ask(self, topic: str, payload: bytes | str | dict[str, Any]) -> list[Letter]:
        if isinstance(payload, dict):
            payload = json.dumps(payload)
        raw = payload.encode() if isinstance(payload, str) else payload
        return self.hear(Arrived([Received(topic, raw, 1, 1, False, False, 1, 0.0)]))  # noqa: FBT003

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def play(served: FakeServed) -> Iterator[Callable[..., Played]]:
    made: list[Played] = []

    def make(**more: bool) -> Played:
        made.append(Played(served, **more))
        return made[-1]

    yield make
    for played in made:
        played.close()


Play = Callable[..., Played]
UP = Up(1, session_present=False)


def want(*ranges: tuple[int, int], again: bool = False, device: str = "dev") -> dict[str, Any]:
    return {"schema": 1, "device": device, "ranges": ranges, "again": again}


def confirm(letters: Sequence[Letter]) -> Confirmed[Letter]:
    return Confirmed(list(letters))


def test_what_is_retained_goes_first_and_then_as_the_broker_keeps_up(
    served: FakeServed, play: Play
) -> None:
    served.devices = {f"d{i}": b"signed" for i in range(100)}
    played = play()
    sent = played.hear(UP)
    assert [letter.topic for letter in sent[:6]] == [
        FLEET.metadata("1.root.json"),
        FLEET.metadata("1.model-a.json"),
        FLEET.metadata("1.targets.json"),
        FLEET.metadata("1.snapshot.json"),
        FLEET.index,
        FLEET.metadata("timestamp.json"),
    ]
    assert len(sent) == server_module.IN_FLIGHT
    total = len(sent)
    while sent:
        sent = played.hear(confirm(sent))
        total += len(sent)
    assert total == 106


def test_blocks_are_sent_no_faster_than_the_connection_takes_them(
    served: FakeServed, play: Play
) -> None:
    data = bytes(40 * BLOCK_BYTES)
    blob = served.add(data)
    played = play(publishes=False)
    played.hear(UP)
    sent = played.ask(FLEET.want(blob), want((0, 39)))
    assert {(letter.topic, letter.qos) for letter in sent} == {(FLEET.blob(blob), 0)}
    assert sum(len(letter.payload) for letter in sent) >= UNWRITTEN_BYTES
    assert len(sent) <= UNWRITTEN_BYTES // BLOCK_BYTES + 1
    assert played.hear() == []
    more = played.hear(confirm(sent[:3]))
    assert len(more) == 3
    numbers = [block.number for letter in sent + more if (block := codec.unpack(letter.payload))]
    assert numbers == list(range(len(sent) + 3))


def test_a_lost_connection_forgets_what_was_wanted(served: FakeServed, play: Play) -> None:
    blob = served.add(bytes(40 * BLOCK_BYTES))
    played = play(publishes=False)
    played.hear(UP)
    assert played.ask(FLEET.want(blob), want((0, 39)))
    assert played.hear(Up(1, session_present=False)) == []
    assert len(played.ask(FLEET.want(blob), want((0, 0)))) == 1


HOSTILE = [
    ("want", b"", "malformed"),
    ("want", b"\xff" * 100, "malformed"),
    ("want", b'{"device": "dev"}', "malformed"),
    ("want", {"device": "../x", "ranges": [[0, 0]]}, "malformed"),
    ("want", {"device": "a/b", "ranges": [[0, 0]]}, "malformed"),
    ("want", {"device": "dev", "ranges": []}, "malformed"),
    ("want", {"device": "dev", "ranges": [[0, 0]] * 65}, "malformed"),
    ("want", {"device": "dev", "ranges": [[0]]}, "malformed"),
    ("want", {"device": "dev", "ranges": [[-1, 0]]}, "malformed"),
    ("want", {"device": "dev", "ranges": [[0, 10**30]]}, "out_of_range"),
    ("want", {"device": "dev", "ranges": [[3, 4]]}, "out_of_range"),
    ("want", {"device": "dev", "ranges": [[2, 1]]}, "out_of_range"),
    ("want", {"device": "dev", "ranges": [[0, 3]] * 40}, "too_much"),
    ("want", b"[" * MAX_REQUEST_BYTES, "malformed"),
    ("want", b" " * (MAX_REQUEST_BYTES + 1), "too_long"),
    ("ask", b"{}", "malformed"),
    ("ask", {"device": "dev", "nonce": "short", "time": True}, "malformed"),
    ("ask", {"device": "a/b", "nonce": NONCE, "time": True}, "malformed"),
    ("ask", {"device": "dev", "nonce": NONCE, "delta": {"want": "x", "have": []}}, "malformed"),
    ("ask", b"x" * (MAX_REQUEST_BYTES + 1), "too_long"),
]


@pytest.mark.parametrize(("kind", "payload", "why"), HOSTILE)
def test_a_request_that_is_none_is_counted_and_nothing_else(
    served: FakeServed, play: Play, kind: str, payload: Any, why: str
) -> None:
    blob = served.add(DATA)
    played = play(publishes=False)
    played.hear(UP)
    topic = FLEET.ask if kind == "ask" else FLEET.want(blob)
    assert played.ask(topic, payload) == []
    assert played.server.refused == {why: 1}
    assert len(played.ask(FLEET.want(blob), want((0, 3)))) == 4


@pytest.mark.parametrize(
    "name", ["0" * 64, "../../etc/passwd", "", "+", "x" * 300, "\0", "0" * 63, "A" * 64, "..", "."]
)
def test_a_blob_that_is_not_there_is_said_to_be_missing_where_one_can_have_this_name(
    play: Play, name: str
) -> None:
    played = play(publishes=False)
    played.hear(UP)
    sent = played.ask(FLEET.want(name), want((0, 0)))
    assert played.server.refused == {"unknown_blob": 1}
    if name == "0" * 64:
        [letter] = sent
        assert letter.topic == DEV.answer("missing")
        assert Missing.model_validate_json(letter.payload).blob == name
    else:
        assert sent == []


def test_a_blob_that_cannot_be_read_any_more_is_counted(served: FakeServed, play: Play) -> None:
    blob = served.add(DATA)
    played = play(publishes=False)
    played.hear(UP)
    assert len(played.ask(FLEET.want(blob), want((0, 0)))) == 1
    (served.blobs / blob).write_bytes(b"cut")
    assert played.ask(FLEET.want(blob), want((1, 2))) == []
    assert played.server.refused == {"unreadable": 1}


def test_the_time_is_signed_for_who_asks(served: FakeServed, play: Play) -> None:
    played = play(publishes=False)
    played.hear(UP)
    [letter] = played.ask(FLEET.ask, {"device": "dev", "nonce": NONCE, "time": True})
    assert letter.topic == DEV.answer("time")
    assert not letter.retain
    reply = TimeReply.model_validate_json(letter.payload)
    assert (reply.device, reply.nonce) == ("dev", NONCE)
    assert reply.time == pytest.approx(time.time(), abs=10)
    served.broken = True
    assert played.ask(FLEET.ask, {"device": "dev", "nonce": NONCE, "time": True}) == []
    assert played.server.refused == {"unsigned": 1}


def test_answers_that_nobody_takes_are_bounded(play: Play) -> None:
    played = play(publishes=False)
    played.hear(UP)
    ask = json.dumps({"device": "dev", "nonce": NONCE, "time": True}).encode()
    message = Received(FLEET.ask, ask, 1, 1, dup=False, retain=False, epoch=1, received_at=0.0)
    played.hear(Arrived([message] * (MAX_LETTERS + 500)))
    assert played.server.refused["busy"] == 500


def test_a_delta_is_made_once_for_all_who_ask(served: FakeServed, play: Play) -> None:
    have, wanted = served.add(DATA), served.add(DATA[:-1] + b"!")
    played = play(publishes=False)
    played.hear(UP)
    asks = [f"{i:032x}" for i in range(5)]
    sent: list[Letter] = []
    for nonce in asks:
        delta = {"want": wanted, "have": [have]}
        sent += played.ask(FLEET.ask, {"device": "dev", "nonce": nonce, "delta": delta})
    until = time.monotonic() + WAIT_S
    while len(sent) < 5:
        assert time.monotonic() < until
        sent += played.hear()
        time.sleep(0.01)
    offers = [DeltaOffer.model_validate_json(letter.payload) for letter in sent]
    assert sorted(offer.nonce for offer in offers) == asks
    assert {offer.algorithm for offer in offers} == {"bytes-zstd"}
    assert len(list((served.folder / "deltas").glob("*.json"))) == 1
    assert offers[0].blob is not None
    assert len(played.ask(FLEET.want(offers[0].blob), want((0, 0)))) == 1
    [letter] = played.ask(FLEET.ask, {"device": "x", "nonce": NONCE, "delta": delta})
    assert DeltaOffer.model_validate_json(letter.payload).blob == offers[0].blob


def test_a_broker_that_cannot_share_is_used_alone(play: Play) -> None:
    played = play()
    shared = {FLEET.shared(FLEET.wants), FLEET.shared(FLEET.ask)}
    played.hear(UP, Subscribed(frozenset(), frozenset(shared)))
    assert played.link.filters == [{FLEET.wants, FLEET.ask, FLEET.metadata("+")}]
    played.hear(Subscribed(frozenset(), frozenset({FLEET.ask})))
    assert len(played.link.filters) == 1


def test_trouble_with_the_repository_is_logged_and_passes(
    served: FakeServed, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    served.broken = True
    played = play()
    with caplog.at_level(logging.INFO):
        assert played.hear(Up(1, session_present=False, max_packet_bytes=1000)) == []
    events = [record.getMessage() for record in caplog.records]
    assert {"broker_too_small", "publishing_failed"} <= set(events)
    served.broken = False
    played.server.look_soon()
    assert len(played.hear()) == 6


def test_what_the_broker_refuses_is_told(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    played = play()
    sent = played.hear(UP)
    played.hear(Confirmed(sent[1:], [(sent[0], "not authorised")]))
    assert played.server.refused == {"by_broker": 1}
    assert "publication_refused" in [record.getMessage() for record in caplog.records]


# On a real broker.


@pytest.fixture
def box(mosquitto: Mosquitto) -> Iterator[Mailbox]:
    made = open_mailbox("reader", Broker(host="127.0.0.1", port=mosquitto.port))
    yield made
    made.close()


def read(box: Mailbox, topic: str, payload: bytes | None = None) -> bytes:
    """What is retained on `topic`, when it is there and is `payload`."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        found = box.retained(topic, timeout_s=1.0, max_bytes=1 << 20)
        if found is not None and payload in {None, found}:
            return found
    pytest.fail(f"{topic}: {found!r}")


@pytest.mark.broker
def test_what_is_retained_follows_the_repository_and_outlives_the_broker(
    served: FakeServed, mosquitto: Mosquitto, box: Mailbox
) -> None:
    served.devices = {"dev": b"first"}
    running = Running(served, mosquitto.port)
    try:
        assert read(box, DEV.assignment) == b"first"
        assert Index.model_validate_json(read(box, FLEET.index)).root == 1
        served.devices = {"dev": b"second"}
        read(box, DEV.assignment, b"second")
        served.version = 2
        read(box, FLEET.metadata("timestamp.json"), b'["timestamp.json", 2]')
        assert read(box, FLEET.metadata("2.snapshot.json"))
        mosquitto.kill()
        (mosquitto.folder / "mosquitto.db").unlink(missing_ok=True)
        mosquitto.start()
        read(box, DEV.assignment, b"second")
        assert read(box, FLEET.metadata("2.snapshot.json"))
        served.devices = {}
        until = time.monotonic() + WAIT_S
        while box.retained(DEV.assignment, timeout_s=0.2, max_bytes=100) is not None:
            assert time.monotonic() < until
    finally:
        running.stop()
    assert served.refreshes >= 1


@pytest.mark.broker
def test_several_servers_share_requests_and_one_publishes(
    served: FakeServed, mosquitto: Mosquitto, box: Mailbox
) -> None:
    blob = served.add(bytes(100 * BLOCK_BYTES))
    first = Running(served, mosquitto.port, name="first")
    second = Running(served, mosquitto.port, name="second", publishes=False)
    try:
        read(box, FLEET.index)
        time.sleep(0.5)  # both have subscribed
        box.subscribe(frozenset({FLEET.blob(blob)}))
        while FLEET.blob(blob) not in box.held:
            box.wait(1)
        for block in range(100):
            box.send(FLEET.want(blob), json.dumps(want((block, block))).encode())
        came: list[int] = []
        until = time.monotonic() + WAIT_S
        while len(came) < 100:
            assert time.monotonic() < until
            for message in box.wait(1):
                block_ = codec.unpack(message.payload)
                assert block_ is not None
                came.append(block_.number)
        assert sorted(came) == list(range(100))
        assert first.server.blocks + second.server.blocks == 100
        assert min(first.server.blocks, second.server.blocks) >= 20
    finally:
        first.stop()
        second.stop()
