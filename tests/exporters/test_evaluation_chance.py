"""Intervals and tests: against published examples, other code, and what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, norm
from sklearn.metrics import f1_score, roc_auc_score

from exporters.evaluation import chance, promise
from exporters.evaluation.chance import Bools, Floats
from exporters.evaluation.measures import (
    Area,
    Computed,
    Overlap,
    Share,
    calibration_error,
    macro_f1,
)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_shares_have_the_published_intervals(hits: int, of: int, low: float, high: float) -> None:
    """Newcombe 1998, Stat. Med. 17:857, table I, method 3."""
    found = chance.wilson(hits, of)
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**6).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_a_share_lies_in_its_interval(counts: tuple[int, int]) -> None:
    hits, of = counts
    found = chance.wilson(hits, of)
    assert 0 <= found.low <= hits / of <= found.high <= 1
    assert found.low < found.high


scores = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=2, max_size=60
).filter(lambda rows: len({positive for *_, positive in rows}) == 2)


def columns(rows: list[tuple[int, int, bool]]) -> tuple[Floats, Floats, Bools]:
    first, second, positive = zip(*rows, strict=True)
    return np.array(first, float), np.array(second, float), np.array(positive)


@settings(max_examples=50, deadline=None)
@given(scores)
def test_areas_are_those_of_other_code(rows: list[tuple[int, int, bool]]) -> None:
    first, second, positive = columns(rows)
    area = chance.auroc(first, positive)
    assert area == pytest.approx(roc_auc_score(positive, first))
    found = chance.newcombe(area, int(positive.sum()), int((~positive).sum()))
    assert 0 <= found.low <= area <= found.high <= 1
    assert found.low < found.high, "also of an area of 1"
    difference = chance.delong(first, second, positive)
    other = chance.auroc(second, positive)
    assert difference.value == pytest.approx(other - area)
    assert difference.low <= difference.value <= difference.high
    assert 0 <= difference.p <= 1
    assert chance.delong(first, first, positive).p == 1


def test_areas_hold_what_they_promise() -> None:
    """Of normal scores apart by 1.5: the true area is in 95 of 100 intervals, and so on."""
    random = np.random.default_rng(1)
    true, inside, rejected, rounds = norm.cdf(1.5 / math.sqrt(2)), 0, 0, 300
    positive = np.arange(90) < 30
    for _ in range(rounds):
        one, other, both = random.normal(size=(3, 90))
        first, second = (positive * 1.5 + 0.8 * both + 0.6 * own for own in (one, other))
        found = chance.newcombe(chance.auroc(first, positive), 30, 60)
        inside += found.low <= true <= found.high
        rejected += chance.delong(first, second, positive).p < 0.05
    assert inside / rounds == pytest.approx(0.95, abs=0.03)
    assert rejected / rounds == pytest.approx(0.05, abs=0.03)


def test_paired_shares_have_the_published_interval() -> None:
    """Newcombe 1998, Stat. Med. 17:2635, table II, example (a): 36, 12, 2 and 0 of 50."""
    first = np.repeat([True, False, True, False], [36, 2, 12, 0])
    second = np.repeat([True, True, False, False], [36, 2, 12, 0])
    found = chance.mcnemar(second, first)
    assert found.value == pytest.approx(0.2)
    assert [found.low, found.high] == pytest.approx([0.0569, 0.3404], abs=5e-5)
    assert found.p == pytest.approx(binomtest(2, 14, 0.5).pvalue)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_mcnemar_is_the_sign_test_of_what_differs(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    found = chance.mcnemar(first, second)
    won = int((second & ~first).sum())
    differ = int((first != second).sum())
    assert found.p == pytest.approx(binomtest(won, differ, 0.5).pvalue if differ else 1)
    assert found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12
    back = chance.mcnemar(second, first)
    assert (back.value, back.low, back.high, back.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p)
    )


@pytest.mark.parametrize(
    ("flagged", "verdict"), [(10, "kept"), (15, "kept"), (20, "over"), (3, "kept"), (2, "under")]
)
def test_a_promise_is_held_against_exact_chance(flagged: int, verdict: str) -> None:
    found = promise.judge(flagged, 1000, 0.01)
    assert found.verdict == verdict
    over = binomtest(flagged, 1000, 0.01, alternative="greater").pvalue
    under = binomtest(flagged, 1000, 0.01, alternative="less").pvalue
    assert (found.p_over, found.p_under) == pytest.approx((over, under))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=50))
def test_macro_f1_is_that_of_other_code(pairs: list[tuple[int, int]]) -> None:
    truth, said = (np.array(column) for column in zip(*pairs, strict=True))
    found = macro_f1(truth, said, np.arange(len(truth)))
    assert found == pytest.approx(f1_score(truth, said, average="macro", zero_division=0))


def test_a_calibration_error_lies_in_its_interval() -> None:
    """Resampling adds to it, so that the usual interval may lie above it altogether."""
    random = np.random.default_rng(2)
    confidence = random.uniform(size=2000)
    right = random.uniform(size=2000) < confidence

    def error(rows: NDArray[np.int64]) -> float:
        return calibration_error(confidence[rows], right[rows], bins=15)

    measure = Computed(error, 2000, 1.0, "basic")
    found, usual = measure.interval(), Computed(error, 2000, 1.0).interval()
    assert found is not None
    assert usual is not None
    assert measure.value is not None
    assert found.low < measure.value < found.high
    assert sum(usual[:2]) / 2 > 1.1 * measure.value
    overconfident = Computed(
        lambda i: calibration_error(confidence[i] ** 0.5, right[i], bins=15), 2000, 1.0, "basic"
    )
    sure = overconfident.interval()
    assert sure is not None
    assert 0.12 < sure.low < 1 / 6 < sure.high < 0.2, "its true one is 2/3 - 1/2"


def test_intervals_and_differences_are_the_same_each_time() -> None:
    random = np.random.default_rng(3)
    hits, of, others = random.uniform(size=(3, 300)) < np.array([[0.8], [0.5], [0.6]])
    shares = Share(hits, of), Share(~hits, others)
    assert shares[0].against(shares[1]) == shares[0].against(shares[1])
    found = shares[0].against(shares[1])
    assert found is not None
    assert found.method == "paired", "they look at different rows"
    assert found.p < 0.01
    same = shares[0].against(Share(hits, of))
    assert same is not None
    assert (same.method, same.value, same.p) == ("mcnemar", 0, 1)


@pytest.mark.parametrize(("positives", "told"), [(1, False), (9, False), (10, True), (191, False)])
def test_of_too_few_of_either_kind_areas_are_not_compared(positives: int, told: bool) -> None:  # noqa: FBT001 -- a table
    random = np.random.default_rng(5)
    positive = np.arange(200) < positives
    first, second = (Area(scores, positive) for scores in random.normal(size=(2, 200)))
    assert (second.against(first) is not None) == told
    assert second.interval() is not None, "of each by itself there is one"


def test_an_f1_is_in_its_interval_as_often_as_promised() -> None:
    random, inside, rounds = np.random.default_rng(6), 0, 400
    # A tenth of the rows are of the label; of these 80 % are found, of the others 1 % said to be.
    true = 2 * 0.08 / (0.1 + 0.08 + 0.009)
    for _ in range(rounds):
        is_it = random.uniform(size=400) < 0.1
        said = random.uniform(size=400) < np.where(is_it, 0.8, 0.01)
        low, high, _ = Overlap(is_it, said, 1.0).interval() or (1, 0, "")
        inside += low <= true <= high
    assert inside / rounds == pytest.approx(0.95, abs=0.03)
    perfect = Overlap(np.arange(30) < 10, np.arange(30) < 10)
    found = perfect.interval()
    assert found is not None
    assert (perfect.value, round(found.low), found.high) == (100, 84, 100), "of ten it is not sure"


def test_overlaps_are_compared_row_by_row() -> None:
    is_it = np.arange(200) < 50
    worse, better = (Overlap(is_it, is_it ^ (np.arange(200) % n == 0)) for n in (5, 50))
    found = better.against(worse)
    assert found is not None
    assert found.low > 0
    assert found.value == pytest.approx((better.value or 0) - (worse.value or 0))
    assert found.p < 0.01


def test_what_rows_cannot_tell_is_not_told() -> None:
    none, some = np.zeros(5, bool), np.ones(5, bool)
    share, area, overlap = Share(some, none), Area(np.arange(5.0), some), Overlap(none, some)
    computed = Computed(lambda _: float("nan"), 5)
    for measure in (share, area, overlap, computed, Computed(lambda _: 1.0, 0)):
        assert (measure.value, measure.interval()) == (None, None)
    assert share.against(share) is None
    assert area.against(area) is None
    assert overlap.against(overlap) is None
    assert computed.against(computed) is None
