"""The threshold is the lowest down to which the loss stays within what was allowed."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.contract.manifest import Tolerance
from edgeslm.ports import Answer
from edgeslm.runtime.cascade import Bounds, is_sure
from edgeslm.tasks.intent import IntentParameters, p_value
from exporters.handover import TAKEN, FewTextsError, find, settled

Case = tuple[float, bool, bool, bool]  # confidence, first accepts, first right, second right


def answers(cases: list[Case]) -> tuple[list[Answer], list[Answer], list[str]]:
    first = [Answer("a" if r else "b", c, 0.0, accepted=ok) for c, ok, r, _ in cases]
    second = [Answer("a" if r else "b", 1.0, 0.0, accepted=True) for *_, r in cases]
    return first, second, ["a"] * len(cases)


def kept(cases: list[Case], bounds: Bounds) -> list[Case]:
    first, _, _ = answers(cases)
    return [case for case, one in zip(cases, first, strict=True) if is_sure(one, bounds)]


def lost(cases: list[Case], bounds: Bounds) -> float:
    """Points of accuracy against the second stage alone."""
    changed = sum(second - first for _, _, first, second in kept(cases, bounds))
    return 100 * changed / len(cases)


def test_a_first_stage_without_faults_keeps_all_that_it_accepts() -> None:
    cases: list[Case] = [(i / 1000, i % 10 > 0, True, True) for i in range(1000)]
    found = find(*answers(cases), lose=0.3)
    assert found.share == pytest.approx(0.1)
    assert len(kept(cases, found.bounds)) == 900
    assert (found.lost, found.error) == (0.0, 0.0)


def test_ends_where_faults_begin() -> None:
    """Below .5 the first is wrong where the second is right."""
    cases: list[Case] = [(i / 1000, True, i >= 500, True) for i in range(1000)]
    found = find(*answers(cases), lose=0.3)
    # One of a thousand, and its standard error, are .2 points; two are .34.
    assert len(kept(cases, found.bounds)) == 501
    assert lost(cases, found.bounds) == pytest.approx(0.1)


def test_what_only_the_first_knows_makes_up_for_what_only_the_second_does() -> None:
    cases: list[Case] = [(i / 1000, True, i % 2 == 0, i % 2 == 1) for i in range(1000)]
    found = find(*answers(cases), lose=0.3)
    assert 0 < found.share < 1
    assert found.error > 0


def test_nothing_is_kept_where_the_surest_is_wrong() -> None:
    cases: list[Case] = [(1.0, True, False, True)] * 10 + [(0.9, True, True, True)] * 390
    found = find(*answers(cases), lose=0.3)
    assert (found.share, found.bounds) == (1.0, Bounds(1.0))


def test_too_few_texts_are_refused_with_how_many_are_needed() -> None:
    cases: list[Case] = [(0.5, True, True, True)] * 333
    with pytest.raises(FewTextsError, match="at least 334") as caught:
        find(*answers(cases), lose=0.3)
    assert caught.value.code == "cascade.too_few"


def far(score: float, *, right: bool = False) -> Answer:
    return Answer("a" if right else "b", 0.5, score, accepted=False)


def near(score: float = 0.0, p_value: float | None = None) -> Answer:
    return Answer("a", 0.9, score, accepted=True, p_value=p_value)


def test_rejects_for_good_what_is_further_out_than_texts_in_scope_that_the_second_knows() -> None:
    """Of those that the first would reject, the second knows the nearer half."""
    first = [near() for _ in range(900)] + [far(i) for i in range(100)]
    second = [near() for _ in range(950)] + [far(0.0, right=True) for _ in range(50)]
    # That the second rejects them too makes them no loss: but the label, which the first has not.
    outside = [far(i + 0.1) for i in range(0, 200, 2)]
    plain = find(first, second, ["a"] * 1000, lose=0.5)
    assert (plain.bounds.rejects_above, plain.rejected) == (None, 0.0)
    found = find(first, second, ["a"] * 1000, lose=0.5, outside=(outside, outside))
    # Three of a thousand, and their standard error, are .473 points; four are .6.
    assert found.bounds.rejects_above == pytest.approx(96.5)
    assert [found.rejected, found.share] == pytest.approx([0.003, 0.097])
    assert found.lost == pytest.approx(0.3)


def test_a_text_that_both_would_reject_is_no_loss_where_the_first_has_its_label() -> None:
    first = [near() for _ in range(900)] + [far(i, right=True) for i in range(100)]
    second = [near() for _ in range(900)] + [far(0.0, right=True) for _ in range(100)]
    outside = [far(i + 0.1) for i in range(100)]
    found = find(first, second, ["a"] * 1000, lose=0.5, outside=(outside, outside))
    assert found.bounds.rejects_above == 0.5
    assert [found.lost, found.share] == pytest.approx([0.0, 0.001])
    knows = [near() for _ in range(1000)]
    found = find(first, knows, ["a"] * 1000, lose=0.5, outside=(outside, outside))
    assert found.bounds.rejects_above == pytest.approx(96.5), "the second would take it"


def test_a_first_stage_that_rejects_nothing_in_scope_may_reject_all_else() -> None:
    first = [near(i / 1000) for i in range(1000)]
    outside = [far(1.0 + i) for i in range(10)]
    found = find(first, first, ["a"] * 1000, lose=0.5, outside=(outside, outside))
    assert all(is_sure(one, found.bounds) for one in (*first, *outside))


def test_takes_no_more_of_what_the_second_would_reject_than_is_stated() -> None:
    """The first never errs in scope, and is sure of two in five texts that are out of it."""
    first = [near()._replace(confidence=i / 1000) for i in range(1000)]
    strange = [near()._replace(confidence=0.5005 + 4 * i / 1000) for i in range(40)]
    strange += [far(1.0 + i) for i in range(60)]
    for knows, sure in ((True, 0.5005 + 4 * 34 / 1000), (False, 0.0)):
        outside = (strange, [far(0.0) if knows else near() for _ in strange])
        found = find(first, first, ["a"] * 1000, lose=0.5, outside=outside)
        assert found.bounds.confidence == pytest.approx(sure, abs=0.0006)
        assert found.taken == (TAKEN if knows else 0.0)
        taken = sum(is_sure(one, found.bounds) for one in strange[:40])
        assert taken == (5 if knows else 40)
        assert sum(is_sure(one, found.bounds) for one in first) == (363 if knows else 999)
    assert find(first, first, ["a"] * 1000, lose=0.5).taken is None


def test_p_values_count_where_less_is_handed_over_by_them() -> None:
    """The first is as sure of what is unlike its texts, and wrong there."""
    first = [near(p_value=0.5) for _ in range(900)] + [near(p_value=0.01) for _ in range(100)]
    wrong = [Answer("b", 0.9, 0.0, accepted=True, p_value=0.01)] * 100
    second = [near() for _ in range(1000)]
    assert find(first, second, ["a"] * 1000, lose=0.5).bounds.p_exponent is None
    found = find(first[:900] + wrong, second, ["a"] * 1000, lose=0.5)
    assert found.bounds.p_exponent == 0.1
    assert [found.share, found.lost] == pytest.approx([0.1, 0.0])


OWN = IntentParameters(
    labels=("a", "b"), threshold=2.0, reject_share=0.05, temperature=1.0, calibration=(0.0, 1.0)
)
LIMITS = Tolerance(score=0.1, confidence=0.01, verified="measured")


@pytest.mark.parametrize("bounds", [Bounds(0.5), Bounds(0.5, 3.0), Bounds(0.5, 3.0, 1.0)])
def test_what_is_settled_no_device_has_the_other_stage_answer(bounds: Bounds) -> None:
    def said(confidence: float, score: float) -> Answer:
        p = p_value(OWN.calibration, score)
        return Answer("a", confidence, score, accepted=score <= OWN.threshold, p_value=p)

    # Where something changes, and a little before and behind it.
    near_it = (-1.5, -0.5, 0.5, 1.5)
    confidences = [c + 0.01 * off for c in (0.5, 0.75, 0.9) for off in near_it]
    scores = [s + 0.1 * off for s in (0.0, 1.0, 2.0, 3.0) for off in near_it]
    met = set()
    for confidence, score in itertools.product(confidences, scores):
        here = said(confidence, score)
        met.add(is_settled := settled(here, bounds, LIMITS, OWN))
        for sure, out in itertools.product((-0.01, 0.0, 0.01), (-0.1, 0.0, 0.1)):
            if is_settled:
                there = said(confidence + sure, score + out)
                assert is_sure(here, bounds) == is_sure(there, bounds)
    assert met == {True, False}


def test_what_is_near_no_bound_is_settled() -> None:
    bounds = Bounds(0.5, 3.0, 0.1)
    for confidence, score in ((0.9, 0.5), (0.1, 0.5), (0.9, 2.5), (0.1, 2.0), (0.1, 4.0)):
        answer = Answer("a", confidence, score, accepted=score <= OWN.threshold)
        assert settled(answer, bounds, LIMITS, OWN)


confidences = st.integers(0, 20).map(lambda n: n / 20)
cases_of_all_kinds = st.lists(
    st.tuples(confidences, st.booleans(), st.booleans(), st.booleans()), min_size=100, max_size=150
)


@settings(deadline=None)
@given(cases_of_all_kinds, st.floats(1.0, 20.0))
def test_never_loses_more_than_allowed_and_says_what_it_does(
    cases: list[Case], lose: float
) -> None:
    found = find(*answers(cases), lose=lose)
    assert lost(cases, found.bounds) <= lose
    assert found.lost == pytest.approx(lost(cases, found.bounds))
    assert found.share == pytest.approx(1 - len(kept(cases, found.bounds)) / len(cases))
