"""A mailbox waits for messages, keeps what it cannot send, and loses count of nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from edgeslm.adapters.loopback import Bus, Loopback, Message
from edgeslm.contract.brokers import Broker
from edgeslm.ports import Letter, Received, Sink, Transport
from edgeslm.updater.mailbox import (
    IN_FLIGHT,
    MAX_KEPT,
    MAX_PACKET_BYTES,
    Mailbox,
    OversizeError,
    open_mailbox,
)
from tests.mosquitto import Mosquitto

WAIT_S = 10.0


@dataclass
class World:
    """A bus, and mailboxes on it whose connections a test can cut."""

    bus: Bus = field(default_factory=Bus)
    links: dict[str, Loopback[Letter]] = field(default_factory=dict)

    def mailbox(self, name: str) -> Mailbox:
        def connect(sink: Sink) -> Transport[Letter]:
            self.links[name] = Loopback(self.bus, name, sink, keep=False, receive_maximum=96)
            return self.links[name]

        return Mailbox(connect)

    def topics(self) -> list[str]:
        return [message.topic for message in self.bus.published]


@pytest.fixture
def world() -> World:
    return World()


def until(box: Mailbox, done: Callable[[], bool]) -> list[Received]:
    """Wait until `done`; return what came meanwhile."""
    messages: list[Received] = []
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline
        messages += box.wait(0.05)
    return messages


def test_returns_what_came_and_settles_it(world: World) -> None:
    box = world.mailbox("a")
    box.subscribe(frozenset({"t/+"}))
    until(box, lambda: box.held == {"t/+"})
    for i in range(300):  # three times what may be unsettled
        world.bus.publish(Message(f"t/{i % 2}", b"%d" % i, qos=i % 5 and 1))
        assert [m.payload for m in box.wait(1)] == [b"%d" % i]
    assert box.wait(0) == []


def test_an_empty_list_when_the_time_is_over(world: World) -> None:
    box = world.mailbox("a")
    until(box, lambda: box.connected)
    began = time.monotonic()
    assert box.wait(0.1) == []
    assert 0.1 <= time.monotonic() - began < 5


def test_returns_at_once_when_woken_or_when_the_connection_changes(world: World) -> None:
    box = world.mailbox("a")
    until(box, lambda: box.connected)
    timer = threading.Timer(0.05, box.wake)
    began = time.monotonic()
    timer.start()
    assert box.wait(WAIT_S) == []
    timer.join()
    world.bus.drop("a")
    assert box.wait(WAIT_S) == []
    assert not box.connected
    assert "cut" in box.trouble
    assert time.monotonic() - began < WAIT_S / 2


def test_what_is_sent_meanwhile_goes_with_the_next_connection_in_order(world: World) -> None:
    box = world.mailbox("a")
    until(box, lambda: box.connected)
    assert box.epoch == 1
    world.bus.drop("a")
    until(box, lambda: not box.connected)
    for i in range(3):
        box.send("events", b"%d" % i)
        box.send("state", b"%d" % i, retain=True)
    box.send("want", b"stale", keep=False)
    assert world.bus.published == []
    world.links["a"].start()
    until(box, lambda: box.idle)
    assert [(m.topic, m.payload) for m in world.bus.published] == [
        ("events", b"0"),
        ("events", b"1"),
        ("events", b"2"),
        ("state", b"2"),
    ]
    assert (box.epoch, box.reconnects) == (2, 1)


def test_what_was_not_confirmed_goes_again_unless_it_is_stale(world: World) -> None:
    box = world.mailbox("a")
    until(box, lambda: box.connected)
    world.bus.confirming = False
    box.send("events", b"0")
    box.send("state", b"old", retain=True)
    box.send("other", b"kept", retain=True)
    box.send("want", b"stale", keep=False)
    world.bus.drop("a")
    box.send("state", b"new", retain=True)
    until(box, lambda: not box.connected)
    world.bus.published.clear()
    world.bus.confirming = True
    world.links["a"].start()
    until(box, lambda: box.idle)
    assert [(m.topic, m.payload) for m in world.bus.published] == [
        ("events", b"0"),
        ("state", b"new"),
        ("other", b"kept"),
    ]


def test_what_is_kept_is_bounded_and_retained_state_outlives_events(world: World) -> None:
    box = world.mailbox("a")
    world.bus.drop("a")
    box.send("state", b"s", retain=True)
    for i in range(MAX_KEPT + 50):
        box.send("events", b"%d" % i)
    assert box.lost == 51
    world.links["a"].start()
    until(box, lambda: box.idle)
    assert world.topics().count("state") == 1
    assert world.bus.published[1].payload == b"51"


def test_retained_topics_without_end_are_bounded_too(world: World) -> None:
    box = world.mailbox("a")
    world.bus.drop("a")
    for i in range(2 * MAX_KEPT):
        box.send(f"state/{i}", b"s", retain=True)
    world.links["a"].start()
    until(box, lambda: box.idle)
    assert len(world.bus.published) == MAX_KEPT


def test_no_more_is_on_its_way_than_the_broker_confirms(world: World) -> None:
    box = world.mailbox("a")
    until(box, lambda: box.connected)
    world.bus.confirming = False
    for i in range(2 * IN_FLIGHT):
        box.send("events", b"%d" % i)
    assert len(world.bus.published) == IN_FLIGHT
    world.links["a"].confirm()
    until(box, lambda: len(world.bus.published) == 2 * IN_FLIGHT)


def test_filters_are_held_for_a_connection(world: World) -> None:
    box = world.mailbox("a")
    box.subscribe(frozenset({"t"}))
    until(box, lambda: box.held == {"t"})
    world.bus.drop("a")
    until(box, lambda: not box.connected)
    assert box.held == frozenset()
    world.links["a"].start()
    until(box, lambda: box.held == {"t"})


def test_one_retained_message_and_nothing_else_is_lost(world: World) -> None:
    box = world.mailbox("a")
    box.subscribe(frozenset({"t"}))
    until(box, lambda: box.held == {"t"})
    world.bus.publish(Message("meta/1", b"one", retain=True))
    world.bus.publish(Message("t", b"other"))
    assert box.retained("meta/1", timeout_s=1, max_bytes=3) == b"one"
    assert [m.payload for m in box.wait(0)] == [b"other"]
    until(box, lambda: box.held == {"t"})
    assert box.retained("meta/1", timeout_s=1, max_bytes=3) == b"one"
    assert box.retained("meta/2", timeout_s=0.05, max_bytes=3) is None
    with pytest.raises(OversizeError, match="3 bytes, at most 2"):
        box.retained("meta/1", timeout_s=1, max_bytes=2)


def test_a_retained_message_is_waited_for_through_a_lost_connection(world: World) -> None:
    box = world.mailbox("a")
    world.bus.publish(Message("meta/1", b"one", retain=True))
    world.bus.drop("a")
    timer = threading.Timer(0.05, world.links["a"].start)
    timer.start()
    assert box.retained("meta/1", timeout_s=WAIT_S, max_bytes=3) == b"one"
    timer.join()


@pytest.fixture
def pair(mosquitto: Mosquitto) -> Iterator[tuple[Mailbox, Mailbox]]:
    broker = Broker(host="127.0.0.1", port=mosquitto.port)
    boxes = (open_mailbox("a", broker), open_mailbox("b", broker))
    yield boxes
    for box in boxes:
        box.close()


@pytest.mark.broker
def test_on_a_real_broker_that_is_restarted(
    mosquitto: Mosquitto, pair: tuple[Mailbox, Mailbox]
) -> None:
    box, other = pair
    box.subscribe(frozenset({"t"}))
    until(box, lambda: box.held == {"t"})
    other.send("meta/1", b"one", retain=True)
    other.send("t", bytes(300_000), qos=0)
    until(other, lambda: other.idle)
    assert [len(m.payload) for m in box.wait(WAIT_S)] == [300_000]
    mosquitto.stop()
    until(box, lambda: not box.connected)
    until(other, lambda: not other.connected)
    other.send("state", b"old", retain=True)
    other.send("state", b"new", retain=True)
    mosquitto.start()
    until(other, lambda: other.idle)
    assert box.retained("state", timeout_s=WAIT_S, max_bytes=100) == b"new"
    assert box.retained("meta/1", timeout_s=WAIT_S, max_bytes=100) == b"one"
    assert box.reconnects >= 1


@pytest.mark.broker
def test_a_packet_longer_than_any_of_ours_does_not_reach_us(pair: tuple[Mailbox, Mailbox]) -> None:
    box, other = pair
    box.subscribe(frozenset({"t"}))
    until(box, lambda: box.held == {"t"})
    other.send("t", bytes(MAX_PACKET_BYTES))
    other.send("t", b"next")
    until(other, lambda: other.idle)
    assert [m.payload for m in box.wait(WAIT_S)] == [b"next"]
