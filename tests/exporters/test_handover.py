"""The threshold is the lowest down to which the loss stays within what was allowed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.ports import Answer
from edgeslm.runtime.cascade import is_sure
from exporters.handover import FewTextsError, find

Case = tuple[float, bool, bool, bool]  # confidence, first accepts, first right, second right


def answers(cases: list[Case]) -> tuple[list[Answer], list[Answer], list[str]]:
    first = [Answer("a" if r else "b", c, 0.0, accepted=ok) for c, ok, r, _ in cases]
    second = [Answer("a" if r else "b", 1.0, 0.0, accepted=True) for *_, r in cases]
    return first, second, ["a"] * len(cases)


def kept(cases: list[Case], confidence: float) -> list[Case]:
    first, _, _ = answers(cases)
    return [case for case, one in zip(cases, first, strict=True) if is_sure(one, confidence)]


def lost(cases: list[Case], confidence: float) -> float:
    """Points of accuracy against the second stage alone."""
    changed = sum(second - first for _, _, first, second in kept(cases, confidence))
    return 100 * changed / len(cases)


def test_a_first_stage_without_faults_keeps_all_that_it_accepts() -> None:
    cases: list[Case] = [(i / 1000, i % 10 > 0, True, True) for i in range(1000)]
    found = find(*answers(cases), lose=0.3)
    assert found.share == pytest.approx(0.1)
    assert len(kept(cases, found.confidence)) == 900
    assert (found.lost, found.error) == (0.0, 0.0)


def test_ends_where_faults_begin() -> None:
    """Below .5 the first is wrong where the second is right."""
    cases: list[Case] = [(i / 1000, True, i >= 500, True) for i in range(1000)]
    found = find(*answers(cases), lose=0.3)
    # One of a thousand, and its standard error, are .2 points; two are .34.
    assert len(kept(cases, found.confidence)) == 501
    assert lost(cases, found.confidence) == pytest.approx(0.1)


def test_what_only_the_first_knows_makes_up_for_what_only_the_second_does() -> None:
    cases: list[Case] = [(i / 1000, True, i % 2 == 0, i % 2 == 1) for i in range(1000)]
    found = find(*answers(cases), lose=0.3)
    assert 0 < found.share < 1
    assert found.error > 0


def test_nothing_is_kept_where_the_surest_is_wrong() -> None:
    cases: list[Case] = [(1.0, True, False, True)] * 10 + [(0.9, True, True, True)] * 390
    found = find(*answers(cases), lose=0.3)
    assert (found.share, found.confidence) == (1.0, 1.0)


def test_too_few_texts_are_refused_with_how_many_are_needed() -> None:
    cases: list[Case] = [(0.5, True, True, True)] * 333
    with pytest.raises(FewTextsError, match="at least 334") as caught:
        find(*answers(cases), lose=0.3)
    assert caught.value.code == "cascade.too_few"


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
    assert lost(cases, found.confidence) <= lose
    assert found.lost == pytest.approx(lost(cases, found.confidence))
    assert found.share == pytest.approx(1 - len(kept(cases, found.confidence)) / len(cases))
