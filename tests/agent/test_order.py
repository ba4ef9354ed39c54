"""Answers that depend on what came before: those of `infer`, however many threads read at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeslm import tasks
from edgeslm.adapters.clock import DeviceClock
from edgeslm.adapters.loopback import Bus, Loopback
from edgeslm.adapters.ring import Ring
from edgeslm.agent.responder import Responder
from edgeslm.agent.session import InputSession, Job
from edgeslm.agent.workers import Pool
from edgeslm.contract.routes import Route
from edgeslm.core.delivery import Parcel
from edgeslm.ports import Memory, Received
from edgeslm.runtime.model import Model, load_model
from tests.agent.kit import AgentProcess, Plant, poll
from tests.runtime import tiny

HERE = Path(__file__).parent
TEXTS = [
    "sleep 0.3" if i % 12 == 1 else "raise x" if i % 12 == 5 else "fail" if i % 12 == 7 else f"t{i}"
    for i in range(48)
]


def tally_bundle(folder: Path) -> Path:
    expect = {"label": "nothing", "score": 0, "confidence": 1}
    second = {"label": "a", "score": 1, "confidence": 1}
    cases = [
        {"request": {"text": "a"}, "expect": expect},
        {"request": {"text": "b"}, "expect": second},
    ]
    golden = "".join(json.dumps(case) + "\n" for case in cases).encode()
    return tiny.write_bundle(folder, files={"golden.jsonl": golden}, task="tally", name="tally")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tally_bundle(tmp_path / "tally")


@pytest.fixture
def model(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Loaded, so its golden file was replayed in order."""
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(HERE / "tasks")])
    return load_model(bundle)


def said(result: dict[str, Any]) -> tuple[object, ...]:
    return result.get("error", {}).get("code"), result.get("label"), result.get("score")


def expected() -> list[tuple[object, ...]]:
    before: list[str] = []
    found: list[tuple[object, ...]] = []
    for text in TEXTS:
        if text in {"raise x", "fail"}:
            found.append(("internal", None, None))
        else:
            found.append((None, before[-1] if before else "nothing", float(len(before))))
            before.append(text)
    return found


@pytest.mark.broker
def test_order_holds_with_four_threads_and_slow_and_failing_inputs_between(
    make_agent: Callable[..., AgentProcess], plant: Plant, bundle: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": bundle, "workers": 4}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
        state_interval_s=1,
    )
    agent.start()
    for text in TEXTS:
        plant.publish("in/a", text)
    results = plant.wait_for(len(TEXTS))
    assert [said(r) for r in results] == expected()
    poll(lambda: plant.last["state"]["models"][0].get("memory") == {"texts": 40}, "counted")
    assert agent.stop() < 5


def test_infer_says_the_same(bundle: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(HERE / "with_brittle.py"), "infer", str(bundle), "--threads=4"],
        input="\n".join(TEXTS).encode(),
        capture_output=True,
        check=False,
    )
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [said(r) for r in results] == expected(), ran.stderr


class Desk:
    """A pool of four threads, and somebody who gives it inputs."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.ring = Ring(folder / "ring", unacknowledged=64)
        bus: Bus = Bus()
        link: Loopback[Parcel] = Loopback(bus, "in", lambda _: None)
        self.session = InputSession("m", link=link, ring=self.ring, own="x/", drops=Counter())
        self.route = Route(topic="#", models=("m",))
        self.responder = Responder(model, device="d", topic="out", clock=DeviceClock(earliest=0))
        self.done: deque[Job] = deque()
        self.pool = Pool(
            "work", threads=4, responder=self.responder, done=self.done, wake=lambda: None
        )

    def put(self, text: str, *, begin: bool = True) -> Job:
        message = Received("in", text.encode(), 0, 0, False, False, 1, time.monotonic())  # noqa: FBT003
        job = Job(self.session, message, self.route, b"")
        job.sequence = self.ring.record(0, bytes(8))
        if begin:
            self.responder.begin(job)
        self.pool.put(job)
        return job

    def wait(self, count: int) -> list[tuple[object, ...]]:
        poll(lambda: len(self.done) >= count, f"{count} answers")
        jobs = sorted(self.done, key=lambda job: job.sequence)
        return [said(json.loads(job.parcel.payload)) for job in jobs if job.parcel is not None]


@pytest.fixture
def desk(model: Model, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(model, tmp_path)
    yield made
    made.pool.stop()
    assert made.pool.join(time.monotonic() + 10)
    made.ring.close()


def test_nobody_waits_and_what_waits_for_its_turn_is_no_suspect(desk: Desk) -> None:
    slow = desk.put("sleep 0.6")
    behind = [desk.put(f"t{i}") for i in range(20)]
    poll(lambda: desk.responder.waiting == 20, "all are read while one is slow")
    assert not desk.done
    assert [desk.ring.attempts(job.sequence) for job in (slow, *behind)] == [1] + [0] * 20
    found = desk.wait(21)
    assert found[0] == (None, "nothing", 0.0)
    assert found[1:] == [(None, "sleep 0.6" if i == 0 else f"t{i - 1}", i + 1.0) for i in range(20)]
    poll(lambda: desk.pool.longest_s() == 0, "no thread is said to be at work")


def test_a_lesson_takes_its_place_among_the_inputs(desk: Desk) -> None:
    desk.put("sleep 0.2")
    desk.put("a")

    def teach(memory: Memory) -> None:
        memory.texts.append("lesson")  # type: ignore[attr-defined] # the tests' own

    def fail(memory: Memory) -> None:
        raise RuntimeError(memory)

    for one in (fail, teach):
        lesson = desk.responder.lesson(one)
        assert lesson is not None
        desk.pool.put(lesson)
    desk.put("b")
    assert [label for _, label, _ in desk.wait(3)] == ["nothing", "sleep 0.2", "lesson"]
    poll(lambda: desk.pool.longest_s() == 0, "no thread is said to be at work")


def test_another_model_begins_with_a_memory_of_its_own(desk: Desk, model: Model) -> None:
    desk.put("sleep 0.2")
    desk.put("a")
    poll(lambda: desk.responder.waiting == 1, "the second is read")
    desk.responder.equip(model)
    desk.put("b")
    assert [label for _, label, _ in desk.wait(3)] == ["nothing", "sleep 0.2", "nothing"]


def test_an_input_without_a_turn_is_judged_when_it_comes(desk: Desk) -> None:
    """It came while a model answered that keeps no order."""
    desk.put("a", begin=False)
    desk.wait(1)
    desk.put("b")
    assert [label for _, label, _ in desk.wait(2)] == ["nothing", "a"]


def test_a_thread_that_dies_takes_its_own_input_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Model.read

    def die(model: Model, requests: Sequence[Any]) -> Any:
        if requests[0].text == "die":
            raise SystemExit
        return read(model, requests)

    monkeypatch.setattr(Model, "read", die)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    desk.put("a")
    desk.put("die")
    desk.put("b")
    assert [label for _, label, _ in desk.wait(2)] == ["nothing", "a"]


def test_the_pool_ends_though_one_was_taken_and_not_begun(desk: Desk) -> None:
    desk.put("sleep 0.2")
    desk.put("a")
    left = desk.pool.end()
    assert desk.pool.join(time.monotonic() + 5)
    assert len(left) + len(desk.done) <= 2
