"""Golden cases: many labels, both sides of the threshold, and marked where unsure."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.manifest import Tolerance
from edgeslm.core.template import canonical, split
from edgeslm.ports import Answer, Request
from edgeslm.runtime.golden import parse_golden, replay
from exporters.data import Row
from exporters.golden import (
    CASES,
    FAULTS,
    Judged,
    Twin,
    choose,
    golden_file,
    known_faults,
    pick,
    strange_rows,
    tolerance,
)

THRESHOLD = 0.0


def judged(text: str, score: float, label: str = "start", confidence: float = 0.9) -> Judged:
    accepted = score <= THRESHOLD
    return Judged(Row(text), Answer(label, confidence, score, accepted=accepted, p_value=0.5))


def surety(answer: Answer, allowed: Tolerance) -> float:
    return abs(answer.score - THRESHOLD) / allowed.score


def twin(case: Judged, by: float) -> Twin:
    answer = case.answer
    score = answer.score + by
    return Twin(
        case,
        Answer(answer.label, answer.confidence, score, accepted=score <= THRESHOLD, p_value=0.5),
    )


cases = st.lists(
    st.builds(
        judged,
        st.text(max_size=2),
        st.floats(-5, 5),
        st.sampled_from([f"label {i}" for i in range(60)]),
    ),
    max_size=300,
)


@given(cases, st.integers(1, 60))
def test_chosen_texts_differ_and_fill_the_file(pool: list[Judged], wanted: int) -> None:
    chosen = choose(pool, surety, cases=wanted)
    texts = [j.row.text for j in chosen]
    assert len(set(texts)) == len(texts)
    assert len(chosen) == min(wanted, len({j.row.text for j in pool}))
    assert choose(pool, surety, cases=wanted) == chosen


def test_both_sides_and_as_many_labels_as_fit() -> None:
    pool = [judged(f"in {i}", -5.0, f"label {i % 30}") for i in range(600)]
    pool += [judged(f"near {i}", -0.1 * i, "label 0") for i in range(9)]
    pool += [judged(f"out {i}", 0.1 + i, "label 1") for i in range(9)]
    chosen = choose(pool, surety, cases=CASES)
    texts = {j.row.text for j in chosen}
    assert {f"near {i}" for i in range(4)} <= texts  # the last below the threshold
    assert {f"out {i}" for i in range(4)} <= texts  # the first above it
    assert {f"out {i}" for i in range(5, 9)} <= texts  # the farthest
    assert {j.answer.label for j in chosen} == {f"label {i}" for i in range(30)}


def test_the_tolerance_covers_what_the_twin_differs_by() -> None:
    pool = [twin(judged("a", -3.0), 0.25), twin(judged("b", -3.0), -0.1)]
    allowed = tolerance(pool)
    assert allowed.verified == "measured"
    assert 0.25 < allowed.score < 1
    assert 0 < allowed.confidence < 0.001  # no difference is still allowed float noise


def test_a_case_that_a_device_may_judge_otherwise_is_marked() -> None:
    near, flips, far = judged("near", -0.05), judged("flips", -0.2), judged("far", -3.0)
    allowed = Tolerance(score=0.1, confidence=0.1, verified="measured")
    raw = golden_file(
        pick([twin(near, 0), twin(flips, 0.3), twin(far, 0)], surety, allowed=allowed)
    )
    marked = {case.request.text: case.near_threshold for case in parse_golden(raw)}
    assert marked == {"near": True, "flips": True, "far": False}


@given(cases.filter(bool), st.floats(-0.05, 0.05))
def test_the_twin_itself_passes(pool: list[Judged], by: float) -> None:
    """What the tolerance was measured on is within it."""
    twins = [twin(j, by) for j in choose(pool, surety, cases=160)]
    raw = golden_file(pick(twins, surety, allowed=tolerance(twins)))
    said = {t.judged.row.text: t.answer for t in twins}
    replay(parse_golden(raw), lambda request: said[request.text], tolerance(twins))


@pytest.mark.parametrize("rows", [1, 12, 500])
def test_few_examples_still_give_enough_cases(rows: int) -> None:
    texts = {row.text for row in strange_rows([Row(f"valve {i} open") for i in range(rows)])}
    assert len(texts) >= min(3 * rows, CASES)


def line(text: str, score: float, label: str | None, source: str = "", **more: Any) -> Judged:
    said = "anomaly" if score > 5 else "normal"
    template = canonical(split(text).template)
    answer = Answer(said, 0.9, score, p_value=0.5, template=template, **more)
    return Judged(Row(text, label, source), answer)


def test_known_faults_are_labelled_one_of_each_kind_the_nearest_to_normal() -> None:
    hot: dict[str, Any] = {"explanation": [{"channel": "number", "slot": 0}]}
    judged = [
        line("oil fire near pump 1", 9, "anomaly", new=True),
        line("oil fire near pump 2", 8, "anomaly", "b", new=True),
        line("Oil fire near pump 3", 9.5, "anomaly", new=True),
        line("temp=90 C", 9, "anomaly", "a", **hot),
        line("temp=80 C", 7, "anomaly", "a", **hot),
        line("temp=95 C", 8, "anomaly", "b", **hot),
        line("leak at 3", 2, "anomaly", new=True),  # missed
        line("temp=71 C", 1, "anomaly", "a"),  # missed, and no lesson changes it
        line("temp=79 C", 6, "normal", "a", **hot),  # a false alarm
        line("door open", 9, None, new=True),
        judged_intent := Judged(Row("x", "anomaly"), Answer("anomaly", 0.9, 9.0, accepted=False)),
    ]
    found = known_faults(judged)
    texts = ["temp=80 C", "oil fire near pump 2", "leak at 3", "temp=95 C"]
    assert [j.row.text for j in found] == texts
    assert judged_intent not in found


def test_known_faults_are_bounded_by_number_and_text_and_each_template_comes_first() -> None:
    words = [f"{'x' * (i + 1)} burst" for i in range(70)]
    judged = [line(text, 9 + i, "anomaly", new=True) for i, text in enumerate(words)]
    judged += [line("temp=80 C", 7, "anomaly", source) for source in "ab"]
    found = known_faults(judged)
    assert [j.row.text for j in found] == ["temp=80 C", *words[: FAULTS - 1]]
    assert known_faults(judged) == found
    long = [line(f"{c}{'y' * 65_000}", 9, "anomaly", new=True) for c in "abcd"]
    assert [j.row.text[0] for j in known_faults([*long, line("z", 10, "anomaly", new=True)])] == [
        "a",
        "b",
        "z",
    ]


def test_faults_are_said_in_the_golden_file_and_nothing_of_others() -> None:
    case, fault = judged("in", -3.0), judged("out", -0.2)
    allowed = Tolerance(score=0.1, confidence=0.1, verified="measured")
    raw = golden_file(pick([twin(case, 0)], surety, allowed=allowed, faults=[twin(fault, 0.3)]))
    first, second = raw.splitlines()
    assert b"fault" not in first, "a device that does not know the field reads it"
    assert b'"fault":true' in second
    assert [(c.fault, c.near_threshold) for c in parse_golden(raw)] == [
        (False, False),
        (True, True),
    ]


def test_a_golden_file_keeps_request_and_answer() -> None:
    row = Row("ünïcode\n", None, "press", 2.5, "k")
    case = Judged(row, Answer("normal", 0.123456789, 1e-9, p_value=0.25))
    allowed = Tolerance(score=1, confidence=1, verified="none")
    raw = golden_file(pick([Twin(case, case.answer)], surety, allowed=allowed))
    (read,) = parse_golden(raw)
    assert Request(**read.request.model_dump()) == Request("ünïcode\n", "press", 2.5, "k")
    assert read.expect.accepted is None
    assert read.expect.confidence == 0.123457
    assert read.expect.score == 1e-9
