"""What is retained is how things are; progress is told often enough and not more often."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.messages import ErrorInfo
from edgeslm.contract.slots import Bad, ModelSlots, Operation, Slot, SlotTable
from edgeslm.contract.topics import Topics
from edgeslm.updater.voice import PROGRESS_S, Failure, Voice, state_of

ERROR: ErrorInfo = {"code": "golden.failed", "message": "1 of 2 differ"}
TOPICS = Topics("edgeslm/v1", "d")


class Stage:
    """A voice, a clock that a test moves, and all that was said."""

    def __init__(self, table: SlotTable | None = None) -> None:
        self.now = 100.0
        self.table = table or SlotTable()
        self.said: list[tuple[str, dict[str, Any], bool]] = []
        self.voice = Voice(TOPICS, self, self._send, lambda: self.table)

    def wall(self) -> float:
        return 1.7e9 + self.now

    def monotonic(self) -> float:
        return self.now

    @property
    def updates(self) -> list[dict[str, Any]]:
        return [said for topic, said, _ in self.said if topic == TOPICS.update]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [said for topic, said, _ in self.said if topic == TOPICS.events]

    def _send(self, topic: str, payload: bytes, retained: bool) -> None:  # noqa: FBT001 -- `Send`
        assert retained == (topic == TOPICS.update), "states are retained, events are not"
        self.said.append((topic, json.loads(payload), retained))


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_progress_is_told_at_most_once_a_second(stage: Stage) -> None:
    stage.voice.phase("fetching", "press", 2)
    for done in range(1000):
        stage.now += 0.01
        stage.voice.progress(done, 1000)
    assert 9 <= len(stage.updates) - 1 <= 10
    assert [u["done_bytes"] for u in stage.updates[1:3]] == [99, 199]


def test_a_phase_is_told_at_once_and_begins_with_no_progress(stage: Stage) -> None:
    stage.voice.phase("fetching", "press", 2)
    stage.voice.progress(5, 10)
    stage.voice.waiting("server")
    stage.voice.phase("verifying", "press", 2)
    last = stage.updates[-1]
    assert (last["phase"], last["model"], last["version"]) == ("verifying", "press", 2)
    assert not last.keys() & {"done_bytes", "total_bytes", "waiting"}
    stage.voice.phase("idle")
    assert not stage.updates[-1].keys() & {"model", "version"}


def test_a_wait_is_told_once_and_so_is_its_end(stage: Stage) -> None:
    stage.voice.phase("fetching", "press", 2)
    for _ in range(5):
        stage.voice.waiting("server")
    assert [u.get("waiting") for u in stage.updates[1:]] == ["server"]
    stage.voice.progress(1, 10)  # within the second
    assert "waiting" not in stage.updates[-1]
    stage.voice.waiting(None)
    stage.voice.progress(2, 10)
    assert len(stage.updates) == 3


def test_a_failure_stays_until_something_succeeds(stage: Stage) -> None:
    failure = Failure(ERROR, "press", 2)
    stage.voice.trouble("update_failed", failure, {"version": 2})
    stage.voice.phase("idle")
    stage.voice.phase("fetching", "press", 3)
    assert [u["error"] for u in stage.updates] == [ERROR, ERROR]
    stage.voice.succeeded()
    stage.voice.phase("idle")
    assert "error" not in stage.updates[-1]
    (event,) = stage.events
    assert (event["event"], event["model"], event["error"]) == ("update_failed", "press", ERROR)


def test_an_assignment_is_told_once(stage: Stage) -> None:
    for seq in (3, 3, 4):
        stage.voice.accepted(seq)
    assert [u["seq"] for u in stage.updates] == [3, 4]


def test_a_failure_is_forgotten_with_its_assignment(stage: Stage) -> None:
    assert stage.voice.accepted(3)
    stage.voice.trouble("update_failed", Failure(ERROR, "press"), {})
    assert not stage.voice.accepted(3)
    stage.voice.tell()
    assert (stage.updates[-1]["seq"], stage.updates[-1]["error"]) == (3, ERROR)
    assert stage.voice.accepted(4)
    assert (stage.updates[-1]["seq"], "error" in stage.updates[-1]) == (4, False)


def test_what_succeeds_later_does_not_hide_what_failed_of_the_same_assignment(
    stage: Stage,
) -> None:
    stage.voice.accepted(3)
    stage.voice.trouble("update_refused", Failure(ERROR, "press"), {})
    stage.voice.succeeded()  # another model of it
    stage.voice.outcome(Failure(ERROR, "press"))
    assert stage.updates[-1]["error"] == ERROR
    count = len(stage.updates)
    stage.voice.outcome(Failure(ERROR, "press"))
    assert len(stage.updates) == count
    stage.voice.outcome(None)
    assert "error" not in stage.updates[-1]


@pytest.mark.parametrize("by_itself", [True, False])
@pytest.mark.parametrize("passing", [True, False])
def test_a_failure_says_of_what_it_is_and_whether_it_is_tried_again(
    stage: Stage, *, passing: bool, by_itself: bool
) -> None:
    stage.voice.retries = by_itself  # a stick is not
    stage.voice.trouble("update_failed", Failure(ERROR, "press", 2, passing=passing), {})
    stage.voice.retries = True
    stage.voice.phase("fetching", "valve", 3)
    last = stage.updates[-1]
    assert (last["error_model"], last["error_version"]) == ("press", 2)
    assert last["retries"] == (passing and by_itself)
    stage.voice.succeeded()
    stage.voice.tell()
    assert not stage.updates[-1].keys() & {"error_model", "error_version", "retries"}


def test_a_change_of_before_a_kill_is_told_from_the_beginning() -> None:
    operation = Operation(model="press", seq=1, phase="fetching", version=2)
    stage = Stage(SlotTable(operation=operation))
    stage.voice.tell()
    last = stage.updates[-1]
    assert (last["phase"], last["model"], last["version"]) == ("fetching", "press", 2)
    stage.voice.waiting("window")
    assert stage.updates[-1]["model"] == "press"
    told = state_of(stage.table, device="d", now=5.0, seq=1)
    assert (told["model"], told["version"], told["seq"]) == ("press", 2, 1)


def test_what_is_on_disk_is_told_as_it_is() -> None:
    whole = Slot(bundle="a" * 64, version=2, whole=True)
    bad = Bad(hash="b" * 64, version=3, error=ERROR)
    table = SlotTable(
        models={
            "two": ModelSlots(active="b", a=whole, b=Slot(bundle="c" * 64, version=3, whole=True)),
            "half": ModelSlots(active="a", a=whole, b=Slot(bundle="d" * 64, version=3), bad=(bad,)),
            "none": ModelSlots(a=whole),
        },
        config_seq=4,
        operation=Operation(model="half", seq=1, phase="fetching"),
    )
    state = state_of(table, device="d", now=5.0)
    assert (state["phase"], state["config_seq"], state["time"]) == ("fetching", 4, 5.0)
    half, none, two = state["models"]
    assert half == {"name": "half", "version": 2, "bundle": "a" * 64, "bad": ["b" * 64]}
    assert none == {"name": "none", "spare_version": 2}
    assert two == {"name": "two", "version": 3, "bundle": "c" * 64, "spare_version": 2}


steps = st.one_of(
    st.tuples(st.just("phase"), st.sampled_from(["idle", "fetching", "trial"])),
    st.tuples(st.just("progress"), st.integers(0, 100)),
    st.tuples(st.just("waiting"), st.sampled_from([None, "server", "broker"])),
    st.tuples(st.just("sleep"), st.floats(0, 2)),
)


@given(st.lists(steps, max_size=40))
def test_what_is_retained_lags_in_bytes_alone_and_by_a_second_at_most(
    taken: list[tuple[str, Any]],
) -> None:
    stage = Stage()
    stage.voice.tell()
    phase, waiting = "idle", None
    for step, value in taken:
        before = len(stage.updates)
        match step:
            case "phase":
                phase, waiting = value, None
                stage.voice.phase(value, "press" if value != "idle" else None)
            case "progress":
                changed, waiting = waiting is not None, None
                since = stage.now - stage.voice._told_at  # noqa: SLF001 -- to know what is due
                stage.voice.progress(value, 100)
                assert (len(stage.updates) > before) == (changed or since >= PROGRESS_S)
            case "waiting":
                changed, waiting = waiting != value, value
                stage.voice.waiting(value)
                assert (len(stage.updates) > before) == changed
            case _:
                stage.now += value
        last = stage.updates[-1]
        assert (last["phase"], last.get("waiting")) == (phase, waiting)
        assert stage.voice.state == last
