"""Golden cases: many labels, both sides of the threshold, and marked where unsure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.manifest import Tolerance
from edgeslm.ports import Answer, Request
from edgeslm.runtime.golden import parse_golden, replay
from exporters.data import Row
from exporters.golden import CASES, Judged, Twin, choose, golden_file, pick, strange_rows, tolerance

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
