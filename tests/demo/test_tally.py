"""The books: what was sent, what came back, what it adds up to."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.messages import Result
from edgeslm.demo.factory import Message
from edgeslm.demo.faults import Fault
from edgeslm.demo.orders import OUT_OF_SCOPE, Order
from edgeslm.demo.tally import JUDGED, Summary, Tally, intent_is_right, percentile

FAULT = Fault("jump", "t=900 C", "t 70 -> 900")


def normal(id_: str) -> Message:
    return Message(id_, "pump", "t=70 C", 0.0)


def faulty(id_: str) -> Message:
    return Message(id_, "pump", FAULT.text, 0.0, fault=FAULT)


def order(id_: str, intent: str) -> Message:
    return Message(id_, "office", "stop", 0.0, order=Order("office", "stop", intent))


def answer(id_: str, **fields: Any) -> Result:
    result: Result = {
        "schema": 1, "id": id_, "device": "d", "topic": "t", "source": "s", "time_in": 0.0,
        "time_out": 0.0, "latency_ms": 1.0, "task": "anomaly",
        "model": {"name": "m", "version": 1, "hash": "0" * 64},
    }  # fmt: skip
    return {**result, **fields}  # type: ignore[typeddict-item]  # tests give what fits


def play(tally: Tally, message: Message, **fields: Any) -> str | None:
    tally.sending(message, 10.0)
    outcome = tally.received(answer(message.id, **fields), 10.002)
    return outcome.verdict if outcome else None


@pytest.mark.parametrize(
    ("message", "fields", "verdict"),
    [
        (normal("a"), {"label": "normal"}, "quiet"),
        (normal("a"), {"label": "anomaly"}, "false alarm"),
        (faulty("a"), {"label": "anomaly"}, "caught"),
        (faulty("a"), {"label": "normal"}, "missed"),
        (faulty("a"), {"error": {"code": "x", "message": "y"}}, "missed"),
        (order("a", "stop"), {"label": "stop", "accepted": True}, "understood"),
        (order("a", "stop"), {"label": "stop", "accepted": False}, "wrong"),
        (order("a", "stop"), {"label": "start", "accepted": True}, "wrong"),
        (order("a", OUT_OF_SCOPE), {"label": "stop", "accepted": False}, "understood"),
        (order("a", OUT_OF_SCOPE), {"label": "stop", "accepted": True}, "wrong"),
        (order("a", OUT_OF_SCOPE), {"error": {"code": "x", "message": "y"}}, "wrong"),
    ],
)
def test_answers_are_judged_by_the_truth(
    message: Message, fields: dict[str, Any], verdict: str
) -> None:
    assert play(Tally(), message, **fields) == verdict


def test_an_alarm_in_a_replay_is_neither_true_nor_false() -> None:
    tally = Tally(truth_known=False)
    assert play(tally, normal("a"), label="anomaly") == "alarm"
    summary = tally.summary(pss_mb=None)
    assert summary.false_alarms is None
    assert summary.alarms == 1


def test_a_summary_adds_up() -> None:
    tally = Tally()
    for n in range(90):
        play(tally, normal(f"n{n}"), label="anomaly" if n < 2 else "normal")
    for n in range(10):
        play(tally, faulty(f"f{n}"), label="anomaly" if n else "normal")
    play(tally, order("o", "stop"), label="stop", accepted=True)
    play(tally, normal("e"), error={"code": "x", "message": "y"})
    tally.sending(normal("never answered"), 11.0)
    tally.received(answer("n0", label="normal"), 12.0)
    tally.received(answer("not ours"), 12.0)
    s = tally.summary(pss_mb=101.26)
    assert (s.sent, s.answered, s.lost, s.duplicates) == (103, 102, 1, 1)
    assert s.errors == 1
    assert (s.normal_messages, s.false_alarms) == (92, 2)
    assert (s.faults_injected, s.faults_caught) == (10, 9)
    assert (s.intents, s.intents_right) == (1, 1)
    assert s.caught_by_kind == {"jump": (9, 10)}
    assert s.pss_mb == 101.3
    assert s.p50_ms == pytest.approx(2.0)
    assert s.messages_per_s == pytest.approx(102 / 0.002, rel=0.01)


def test_a_lost_fault_counts_as_injected_and_not_as_caught() -> None:
    tally = Tally()
    tally.sending(faulty("a"), 0.0)
    s = tally.summary(pss_mb=None)
    assert (s.faults_injected, s.faults_caught, s.lost) == (1, 0, 1)


def test_nothing_played_is_a_summary_too() -> None:
    s = Tally().summary(pss_mb=None)
    assert (s.sent, s.p50_ms, s.messages_per_s) == (0, None, 0.0)
    assert s.shortfalls == []
    json.dumps(s.as_json(), allow_nan=False)


def test_promises_broken_are_named() -> None:
    good = replace(
        Tally().summary(pss_mb=None),
        normal_messages=JUDGED, false_alarms=75, faults_injected=20, faults_caught=19,
    )  # fmt: skip
    assert good.shortfalls == []
    for change in ({"lost": 1}, {"faults_caught": 18}, {"false_alarms": 76}):
        short = replace(good, **change)  # type: ignore[arg-type]
        assert len(short.shortfalls) == 1
        assert short.as_json()["shortfalls"] == short.shortfalls
    assert replace(good, normal_messages=JUDGED - 1, false_alarms=100).shortfalls == []


def test_the_summary_has_the_documented_fields() -> None:
    assert set(Tally().summary(pss_mb=None).as_json()) >= {
        "sent", "answered", "duplicates", "lost", "faults_injected", "faults_caught",
        "false_alarms", "p50_ms", "p99_ms", "messages_per_s", "pss_mb",
    }  # fmt: skip
    assert Summary.__dataclass_params__.frozen  # type: ignore[attr-defined]


@given(st.lists(st.floats(0, 10), min_size=1), st.floats(0.01, 1))
def test_a_percentile_is_a_value_that_enough_others_do_not_pass(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-9


def test_no_values_have_no_percentile() -> None:
    assert percentile([], 0.5) is None


def test_an_answer_without_acceptance_is_no_intent() -> None:
    assert not intent_is_right("stop", answer("a", label="stop"))


@given(st.lists(st.sampled_from(["send", "answer", "again", "stranger"]), max_size=60))
def test_every_message_is_answered_once_or_lost(steps: list[str]) -> None:
    tally, n = Tally(), 0
    for step in steps:
        match step:
            case "send":
                tally.sending(normal(str(n)), float(n))
                n += 1
            case "stranger":
                assert tally.received(answer("x"), float(n)) is None
            case _:
                tally.received(answer(str(n - 1), label="normal"), float(n))
    s = tally.summary(pss_mb=None)
    assert s.sent == s.answered + s.lost == n
    assert tally.waiting == s.lost
