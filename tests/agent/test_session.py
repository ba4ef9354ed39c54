"""What an input session owes the broker: nothing twice, nothing foreign, nothing too early."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from edgeslm.adapters.loopback import Bus, Loopback, Message
from edgeslm.adapters.ring import Ring
from edgeslm.agent.reading import read
from edgeslm.agent.retained import Retained
from edgeslm.agent.session import InputSession, Job
from edgeslm.contract.routes import Route
from edgeslm.core.delivery import Parcel
from edgeslm.ports import Arrived, Down, Report, Up

OWN = "edgeslm/v1/dev1/"


class Harness:
    """A session on a bus; its inputs wait until a test answers them."""

    def __init__(self, path: Path, *, room: int = 512) -> None:
        self.bus = Bus()
        self.drops: Counter[str] = Counter()
        self.waiting: list[Job] = []
        self.link: Loopback[Parcel] = Loopback(self.bus, "in", self.hear, receive_maximum=room)
        self.ring = Ring(path, unacknowledged=room)
        self.session = InputSession("m", link=self.link, ring=self.ring, own=OWN, drops=self.drops)
        self.session.set_routes([Route(topic="in/#", models=("m",))])
        self.link.start()

    def hear(self, report: Report) -> None:
        match report:
            case Arrived():
                self.waiting += self.session.take(report.messages)
            case Up():
                self.session.up(report.epoch, session_present=report.session_present)
            case Down():
                self.session.down()
            case _:
                pass

    def publish(self, payload: bytes, topic: str = "in/a", **fields: object) -> None:
        self.bus.publish(Message(topic, payload, **fields))  # type: ignore[arg-type]

    def answer(self, job: Job) -> None:
        self.waiting.remove(job)
        job.parcel = Parcel("out", job.message.payload, 0.0, job)
        job.answered = True

    def deliver(self) -> list[bytes]:
        """Let results leave, have them confirmed and their inputs acknowledged."""
        parcels = self.session.leave()
        for parcel in parcels:
            assert parcel.ticket is not None
            parcel.ticket.settled = True
        self.session.acknowledge()
        return [p.payload for p in parcels]

    def finish(self) -> list[bytes]:
        for job in list(self.waiting):
            self.answer(job)
        return self.deliver()

    def reconnect(self) -> None:
        self.link.cut()
        self.link.start()

    @property
    def owed(self) -> Mapping[int, object]:
        """What the broker still waits for."""
        return self.bus._sessions["in"].in_flight  # noqa: SLF001 -- the bus is the tests' own


@pytest.fixture
def h(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path / "r")
    yield made
    made.ring.close()


def test_what_is_still_being_answered_is_not_answered_again(h: Harness) -> None:
    for text in (b"1", b"2", b"3"):
        h.publish(text)
    h.reconnect()
    assert len(h.waiting) == 3
    assert h.finish() == [b"1", b"2", b"3"]
    assert not h.owed


def test_what_was_answered_while_the_link_was_away_is_acknowledged_when_it_comes_again(
    h: Harness,
) -> None:
    h.publish(b"1")
    h.publish(b"2")
    h.link.cut()
    assert h.finish() == [b"1", b"2"]
    assert len(h.owed) == 2
    h.link.start()
    assert h.waiting == []
    assert not h.owed


def test_a_broker_that_forgot_us_is_owed_nothing_and_gets_no_foreign_acknowledgement(
    h: Harness,
) -> None:
    h.publish(b"old")
    h.link.cut()
    h.bus.forget("in")
    h.link.start()
    h.publish(b"new")  # under the packet id of "old"
    old, new = h.waiting
    assert old.message.mid == new.message.mid
    h.answer(old)
    assert h.deliver() == [b"old"]
    assert len(h.owed) == 1
    h.answer(new)
    assert h.deliver() == [b"new"]
    assert not h.owed


def test_a_redelivery_after_a_restart_keeps_its_number(tmp_path: Path, h: Harness) -> None:
    h.publish(b"same")
    h.publish(b"same")
    first = [job.sequence for job in h.waiting]
    h.link.cut()
    h.ring.close()
    # The next life: a new session object on the same broker and ring.
    h.ring = Ring(tmp_path / "r", unacknowledged=512)
    h.waiting.clear()
    h.session = InputSession("m", link=h.link, ring=h.ring, own=OWN, drops=h.drops)
    h.session.set_routes([Route(topic="in/#", models=("m",))])
    h.link.start()
    assert [job.sequence for job in h.waiting] == first
    assert all(job.message.dup for job in h.waiting)
    h.publish(b"same")
    assert h.waiting[-1].sequence == max(first) + 1


def test_our_own_topics_and_topics_of_no_route_are_dropped_counted_and_acknowledged(
    h: Harness,
) -> None:
    h.link.subscribe(["#"])
    h.publish(b"mine", OWN + "results/m")
    h.publish(b"stray", "elsewhere")
    h.publish(b"1")
    assert [job.message.payload for job in h.waiting] == [b"1"]
    assert h.drops == {"own_topic": 1, "no_route": 1}
    h.finish()
    assert not h.owed


def test_what_is_dropped_waits_its_turn_to_be_acknowledged(h: Harness) -> None:
    h.link.subscribe(["#"])
    h.publish(b"1")
    h.publish(b"stray", "elsewhere")
    h.deliver()
    assert len(h.owed) == 2
    h.finish()
    assert not h.owed


def test_a_route_that_is_gone_still_reads_what_was_on_its_way(h: Harness) -> None:
    old = h.session._routes[0]  # noqa: SLF001
    h.session.set_routes([Route(topic="new/#", models=("m",))])
    h.hear(Arrived([]))
    h.link.subscribe(["#"])
    h.publish(b"late", "in/a")
    assert h.waiting[-1].route == old
    h.publish(b"now", "new/a")
    assert h.waiting[-1].route != old


def test_a_payload_that_its_route_does_not_take_is_not_kept(h: Harness) -> None:
    h.session.set_routes([Route(topic="in/#", models=("m",), max_bytes=3)])
    h.publish(b"long one")
    (job,) = h.waiting
    assert (job.message.payload, job.size) == (b"", 8)
    assert job.route is not None
    assert read(job.message, job.route, size=job.size).code == "input.too_long"
    h.reconnect()  # its redelivery is known by its digest
    assert h.waiting == [job]
    h.finish()
    assert not h.owed


def test_a_retained_input_that_was_answered_is_not_answered_in_the_next_life(
    tmp_path: Path,
) -> None:
    path = tmp_path / "retained.json"
    first = Retained(path)
    assert first.take("in/a", b"1", again=False)
    assert not first.take("in/a", b"1", again=False)
    assert first.take("in/b", b"2", again=False)
    first.settle("in/a", b"1")
    first.save()
    second = Retained(path)
    assert not second.take("in/a", b"1", again=False)
    assert second.take("in/b", b"2", again=False)  # its answer was not safe
    assert second.take("in/a", b"3", again=False)
    path.write_text("[1]")
    assert Retained(path).take("in/a", b"1", again=False)


def test_filters_stay_until_they_are_let_go_and_covered_ones_are_not_asked_for(
    h: Harness,
) -> None:
    wide, narrow = Route(topic="in/#", models=("m",)), Route(topic="in/a", models=("m",))
    h.session.set_routes([narrow, wide])
    assert h.session.asked == {"in/#"}
    h.publish(b"1", "in/a")
    assert h.waiting[-1].route is narrow
    h.session.set_routes([Route(topic="new", models=("m",))], keep=True)
    assert h.session.asked == {"in/#", "new"}
    h.session.let_go()
    assert h.session.asked == {"new"}


class Chaos(RuleBasedStateMachine):
    """Publish, answer in any order, lose the connection, lose the broker's memory."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())  # a state machine has no fixtures
        self.h = Harness(self.folder / "r", room=5)
        self.connected = True
        self.count = 0
        self.out: list[bytes] = []
        self.forgotten = False

    @rule()
    def publish(self) -> None:
        self.h.publish(b"%d" % (self.count % 3 if self.count % 2 else self.count))
        self.count += 1

    @precondition(lambda self: self.h.waiting)
    @rule(data=st.data())
    def answer_one(self, data: st.DataObject) -> None:
        self.h.answer(data.draw(st.sampled_from(self.h.waiting)))

    @rule()
    def deliver(self) -> None:
        self.out += self.h.deliver()

    @precondition(lambda self: self.connected)
    @rule()
    def cut(self) -> None:
        self.h.link.cut()
        self.connected = False

    @precondition(lambda self: not self.connected)
    @rule()
    def come_back(self) -> None:
        self.h.link.start()
        self.connected = True

    def teardown(self) -> None:
        try:
            if not self.connected:
                self.h.link.start()
            while len(self.h.session.lane):
                self.out += self.h.finish()
            # Without a restart of ours and with a broker that forgets nothing: each exactly once.
            assert self.out == [m.payload for m in self.h.bus.published]
            assert not self.h.owed
        finally:
            self.h.ring.close()
            shutil.rmtree(self.folder)


TestChaos = Chaos.TestCase
TestChaos.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
