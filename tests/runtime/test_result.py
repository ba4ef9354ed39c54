"""A result is valid by its schema, and carries of the text only what the route shares."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.messages import ADAPTERS, encode
from edgeslm.core.learning import Progress
from edgeslm.ports import Answer, Request
from edgeslm.runtime.result import answered, refused

ENVELOPE: dict[str, Any] = {
    "ref": {"name": "m", "version": 3, "hash": "0" * 64},
    "task": "anomaly",
    "device": "d",
    "topic": "t",
    "id": "7",
    "time_in": 1.0,
    "time_out": 2.0,
    "latency_ms": 1.23456,
}
ANSWER = Answer(label="anomaly", confidence=0.5, score=1.5)
FULL = Answer(
    label="anomaly",
    confidence=0.5,
    score=1.5,
    accepted=False,
    p_value=0.25,
    channels={"text": 0.5},
    source_known=True,
    truncated=True,
    explanation=({"channel": "text", "token": "secret"},),
)
REQUEST = Request("secret text", "machine", 3.0, "k")


def test_has_every_field_that_applies() -> None:
    result = answered(
        FULL, request=REQUEST, share="text", redelivered=True, retained=True, **ENVELOPE
    )
    assert result == {
        "schema": 1,
        "id": "7",
        "device": "d",
        "topic": "t",
        "source": "machine",
        "time_in": 1.0,
        "time_out": 2.0,
        "latency_ms": 1.235,
        "task": "anomaly",
        "model": ENVELOPE["ref"],
        "time": 3.0,
        "key": "k",
        "text": "secret text",
        "label": "anomaly",
        "accepted": False,
        "confidence": 0.5,
        "score": 1.5,
        "p_value": 0.25,
        "channels": {"text": 0.5},
        "source_known": True,
        "truncated": True,
        "explanation": [{"channel": "text", "token": "secret"}],
        "redelivered": True,
        "retained": True,
    }


def test_leaves_out_what_does_not_apply() -> None:
    result = answered(ANSWER, request=Request("x"), **ENVELOPE)
    absent = {"accepted", "p_value", "channels", "source_known", "explanation", "redelivered"}
    assert not absent & set(result)
    assert result["source"] is None


@pytest.mark.parametrize(
    ("share", "text", "explanation"),
    [("none", False, False), ("explanation", False, True), ("text", True, True)],
)
def test_shares_no_more_than_told(*, share: str, text: bool, explanation: bool) -> None:
    result = answered(FULL, request=REQUEST, share=share, **ENVELOPE)
    assert ("text" in result, "explanation" in result) == (text, explanation)
    assert (b"secret" in encode(result)) is (text or explanation)
    assert b"secret" not in encode(answered(FULL, request=REQUEST, **ENVELOPE)), "by default"


def test_a_refusal_has_an_error_in_place_of_an_answer() -> None:
    result = refused("input.encoding", "why", request=None, retained=True, **ENVELOPE)
    assert result["error"] == {"code": "input.encoding", "message": "why"}
    assert not {"label", "confidence", "score", "truncated"} & set(result)
    assert b"secret" not in encode(refused("c", "why", request=REQUEST, **ENVELOPE))


COUNTS = st.integers(0, 2**31)
answers = st.builds(
    Answer,
    label=st.text(),
    confidence=st.floats(0, 1),
    score=st.floats(allow_nan=False, allow_infinity=False),
    accepted=st.none() | st.booleans(),
    p_value=st.none() | st.floats(0, 1),
    channels=st.dictionaries(st.text(), st.floats(0, 1), max_size=3),
    truncated=st.booleans(),
    lesson=st.none() | st.integers(1, 2**31),
    learning=st.none() | st.builds(Progress, COUNTS, st.integers(1, 2**31), COUNTS),
)
requests = st.builds(
    Request,
    text=st.text(st.characters()),
    source=st.text(),
    key=st.none() | st.text(),
    time=st.none() | st.floats(0, 1e12),
)


@given(answers, requests, st.sampled_from(["none", "explanation", "text"]))
def test_fits_its_schema(answer: Answer, request: Request, share: str) -> None:
    for result in (
        answered(answer, request=request, share=share, **ENVELOPE),
        refused("a.b", "why", request=request, share=share, **ENVELOPE),
    ):
        ADAPTERS["result"].validate_python(json.loads(encode(result)))
