"""The golden file is replayed within its tolerances, and a pass is remembered for this device."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.golden import GoldenCase
from edgeslm.contract.manifest import Tolerance
from edgeslm.errors import EdgeSLMError, RejectedError
from edgeslm.ports import Answer, Request
from edgeslm.runtime.device import Device
from edgeslm.runtime.golden import (
    GoldenFailedError,
    GoldenInvalidError,
    Verdicts,
    faults,
    parse_golden,
    replay,
)

TOLERANCE = Tolerance(score=0.1, confidence=0.01, verified="measured")
ANSWER = Answer(label="a", confidence=0.5, score=1.0, accepted=True)
DEVICE = Device("x86_64", "a CPU", frozenset({"avx2"}))


def line(**changes: Any) -> bytes:
    expect = {"label": "a", "accepted": True, "score": 1.0, "confidence": 0.5}
    case = {"request": {"text": "t"}, "expect": {**expect, **changes.pop("expect", {})}, **changes}
    return json.dumps(case).encode() + b"\n"


@pytest.mark.parametrize(
    ("expect", "near", "passes"),
    [
        ({}, False, True),
        ({"score": 1.09}, False, True),
        ({"score": 1.11}, False, False),
        ({"score": 1.11}, True, False),
        ({"confidence": 0.495}, False, True),
        ({"confidence": 0.48}, False, False),
        ({"label": "b"}, False, False),
        ({"label": "b"}, True, True),
        ({"accepted": False}, False, False),
        ({"accepted": False}, True, True),
        ({"accepted": None}, False, False),
    ],
)
def test_compares_within_tolerance(*, expect: dict[str, Any], near: bool, passes: bool) -> None:
    cases = parse_golden(line(expect=expect, near_threshold=near))
    if passes:
        replay(cases, lambda _: ANSWER, TOLERANCE)
        return
    with pytest.raises(GoldenFailedError, match="1 of 1 golden cases differ: case 1"):
        replay(cases, lambda _: ANSWER, TOLERANCE)


def test_nan_never_passes() -> None:
    broken = ANSWER._replace(score=math.nan)
    with pytest.raises(GoldenFailedError):
        replay(parse_golden(line()), lambda _: broken, TOLERANCE)


def test_an_answer_that_fails_is_a_mismatch() -> None:
    def crash(request: Request) -> Answer:
        raise KeyError(request.text)

    def refuse(_request: Request) -> Answer:
        msg = "no such input"
        raise RejectedError(msg)

    for answer, says in ((crash, "KeyError"), (refuse, "no such input")):
        with pytest.raises(GoldenFailedError, match=says):
            replay(parse_golden(line()), answer, TOLERANCE)


def test_lists_the_first_and_counts_all() -> None:
    cases = parse_golden(line() + line(expect={"label": "b"}) * 5)
    with pytest.raises(GoldenFailedError) as caught:
        replay(cases, lambda _: ANSWER, TOLERANCE)
    assert len(caught.value.mismatches) == 5
    assert str(caught.value).startswith("5 of 6 golden cases differ: case 2")
    assert "case 5" not in str(caught.value)


def test_gently_it_leaves_most_of_the_time_to_others() -> None:
    def slow(_: Request) -> Answer:
        time.sleep(0.005)
        return ANSWER

    began = time.monotonic()
    replay(parse_golden(line() * 5), slow, TOLERANCE, gently=True)
    assert time.monotonic() - began > 4 * 5 * 0.005


def test_asks_what_the_file_says() -> None:
    asked: list[Request] = []

    def answer(request: Request) -> Answer:
        asked.append(request)
        return ANSWER

    request = {"text": "t", "source": "s", "time": 3.5, "key": "k"}
    replay(parse_golden(line(request=request)), answer, TOLERANCE)
    assert asked == [Request("t", "s", 3.5, "k")]


def test_known_faults_are_what_was_labelled_one_and_no_other_alarm() -> None:
    alarm = {"label": "anomaly", "accepted": None}
    raw = line(expect=alarm)
    raw += line(request={"text": "hot", "source": "s"}, expect=alarm, fault=True)
    raw += line(request={"text": "slow"}, near_threshold=True, fault=True)
    assert faults(parse_golden(raw)) == (Request("hot", "s"), Request("slow"))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no case"),
        (b"\n \n", "no case"),
        (b"{", "golden.jsonl:1"),
        (line() + b"[]\n", "golden.jsonl:2"),
        (line() + line(extra=1), "extra: unknown key"),
        (line(expect={"score": "high"}), "expect.score"),
        (b'{"request": {"text": "\xff"}}', "golden.jsonl:1"),
        (line() * 4097, "over 4096 cases"),
        (b" " * (16 * 1024 * 1024 + 1), "longer than"),
        (line(request={"text": "x" * 65_537}), "request.text"),
    ],
)
def test_what_is_no_golden_file_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(GoldenInvalidError, match=says):
        parse_golden(raw)


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([line(), b"{}\n", b"\x85", b'"'])).map(b"".join)
)
def test_any_bytes_give_cases_or_a_typed_error(raw: bytes) -> None:
    try:
        cases = parse_golden(raw)
    except EdgeSLMError:
        return
    assert all(isinstance(case, GoldenCase) for case in cases)


def test_a_pass_is_remembered_for_this_bundle_variant_device_and_runtime(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    verdicts = Verdicts(folder, device=DEVICE, runtime="cpu 1.0")
    assert not verdicts.passed("a" * 64)
    verdicts.remember("a" * 64)
    assert verdicts.passed("a" * 64)
    assert not verdicts.passed("b" * 64)
    assert not Verdicts(folder, device=DEVICE, runtime="cpu 1.1").passed("a" * 64)
    assert not Verdicts(folder, device=DEVICE, runtime="cpu 1.0", variant="v").passed("a" * 64)
    other = dataclasses.replace(DEVICE, cpu_features=frozenset({"avx2", "avx512_vnni"}))
    assert not Verdicts(folder, device=other, runtime="cpu 1.0").passed("a" * 64)


def test_a_verdict_that_was_cut_counts_for_nothing(tmp_path: Path) -> None:
    verdicts = Verdicts(tmp_path, device=DEVICE, runtime="cpu 1.0")
    verdicts.remember("a" * 64)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-2])
    assert not verdicts.passed("a" * 64)


def test_a_folder_that_cannot_be_written_only_costs_a_replay(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    verdicts = Verdicts(tmp_path / "file" / "below", device=DEVICE, runtime="cpu 1.0")
    verdicts.remember("a" * 64)
    assert not verdicts.passed("a" * 64)
    nowhere = Verdicts(None, device=DEVICE, runtime="cpu 1.0")
    nowhere.remember("a" * 64)
    assert not nowhere.passed("a" * 64)
