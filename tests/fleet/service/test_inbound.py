"""Whatever a device says becomes a message, or a reason why it does not; nothing else."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.fleet.service.inbound import MAX_BYTES, MAX_TEXT, RefusedError, read
from edgeslm.fleet.service.sampler import DAY_S, MAX_ALARMS, SAMPLES, Sampler

ROOT = "edgeslm/v1"
EVENT: dict[str, Any] = {"schema": 1, "device": "dev", "time": 1.0, "event": "model_loaded"}
RESULT: dict[str, Any] = {
    "schema": 1,
    "id": "r1",
    "device": "dev",
    "topic": None,
    "source": None,
    "time_in": 1.0,
    "time_out": 1.0,
    "latency_ms": 1.0,
    "task": "anomaly",
    "label": "normal",
    "model": {"name": "press", "version": 1, "hash": "0" * 64},
}


def why(topic: str, message: Any) -> str:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    with pytest.raises(RefusedError) as refused:
        read(ROOT, topic, payload)
    return refused.value.reason


def test_a_message_is_read_as_its_topic_says() -> None:
    found = read(ROOT, f"{ROOT}/dev/results/press", json.dumps(RESULT).encode())
    assert (found.device, found.kind, found.model) == ("dev", "result", "press")
    assert found.message["label"] == "normal"


@pytest.mark.parametrize(
    ("topic", "message", "reason"),
    [
        ("dev/events", {**EVENT, "device": "other"}, "of_another_device"),
        ("dev/results/press", {**RESULT, "device": "other"}, "of_another_device"),
        ("dev/results/other", RESULT, "of_another_model"),
        ("dev/results/press", {**RESULT, "text": "x" * MAX_BYTES}, "too_long"),
        ("dev/events", {**EVENT, "schema": 2}, "malformed"),
        ("dev/events", b"[" * 5000, "malformed"),
        ("dev/events", b"", "malformed"),
        ("dev/events", {**EVENT, "event": "a b"}, "out_of_bounds"),
        ("dev/events", {**EVENT, "model": "../x"}, "out_of_bounds"),
        ("dev/events", {**EVENT, "time": 1e18}, "out_of_bounds"),
        ("dev/events", {**EVENT, "detail": {"n": 2**80}}, "out_of_bounds"),
        ("dev/events", {**EVENT, "detail": {f"k{n}": 1 for n in range(600)}}, "out_of_bounds"),
        ("dev/events/more", EVENT, "unknown_topic"),
        ("dev/other", EVENT, "unknown_topic"),
        ("dev", EVENT, "unknown_topic"),
        ("_fleet/events", {**EVENT, "device": "_fleet"}, "bad_device_id"),
        ("dév/events", {**EVENT, "device": "dév"}, "bad_device_id"),
    ],
)
def test_what_is_wrong_is_refused_by_its_reason(topic: str, message: Any, reason: str) -> None:
    assert why(f"{ROOT}/{topic}", message) == reason


def test_strings_are_cut_but_for_the_text_of_a_result() -> None:
    long = "x" * 2000
    event = {**EVENT, "error": {"code": "a.b", "message": long}}
    found = read(ROOT, f"{ROOT}/dev/events", json.dumps(event).encode())
    assert len(found.message["error"]["message"]) == MAX_TEXT
    result = {**RESULT, "text": long, "key": long}
    found = read(ROOT, f"{ROOT}/dev/results/press", json.dumps(result).encode())
    assert found.message["text"] == long
    assert len(found.message["key"]) == MAX_TEXT


@given(topic=st.text(max_size=40), payload=st.binary(max_size=200))
def test_any_bytes_on_any_topic_are_a_message_or_a_reason(topic: str, payload: bytes) -> None:
    for kind in ("status", "state", "update", "events", "results/press", topic):
        with contextlib.suppress(RefusedError):
            read(ROOT, f"{ROOT}/dev/{kind}", payload)


def test_all_alarms_are_kept_and_of_the_rest_a_few_spread_over_the_day() -> None:
    sampler = Sampler()
    alarm, normal = {"label": "anomaly"}, {"label": "normal"}
    assert all(sampler.keeps("dev", alarm, 0.0) for _ in range(1000))
    kept = [at for at in range(0, int(DAY_S), 10) if sampler.keeps("dev", normal, float(at))]
    assert SAMPLES <= len(kept) <= SAMPLES + 5
    assert max(b - a for a, b in itertools.pairwise(kept)) < DAY_S / SAMPLES * 1.1
    assert sampler.keeps("other", normal, DAY_S)


def test_errors_are_no_evidence_and_a_device_gone_mad_does_not_fill_the_disk() -> None:
    sampler = Sampler()
    assert not sampler.keeps("dev", {"error": {"code": "a", "message": "b"}}, 0.0)
    kept = sum(sampler.keeps("dev", {"label": "anomaly"}, 0.0) for _ in range(MAX_ALARMS + 10))
    assert kept == MAX_ALARMS
    assert sampler.keeps("dev", {"label": "anomaly"}, DAY_S)
