"""Calibration: valid on exchangeable data, monotone, finite, and honest about its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.core.calibration import (
    BudgetError,
    Fusion,
    Scores,
    fusion,
    least_share,
    lines_needed,
    require,
    tail,
)

SCORES = st.lists(st.floats(0, 1e6), min_size=1, max_size=60)
# Many ties, as text scores have.
TIED = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.3, 0.5, 1.0]), min_size=1, max_size=60)
SEED = 5


@given(st.one_of(SCORES, TIED), st.floats(0, 2e6), st.floats(0, 2e6))
def test_p_never_rises_with_the_score(scores: list[float], a: float, b: float) -> None:
    t = tail(scores)
    low, high = min(a, b), max(a, b)
    assert t.log_p_value(high) <= t.log_p_value(low) <= 0
    assert math.isfinite(t.log_p_value(1e12))


@given(st.one_of(SCORES, TIED))
def test_p_is_the_conformal_rank_of_every_calibration_score(scores: list[float]) -> None:
    """That makes it valid: of n + 1 exchangeable scores the k-th highest has p = k / (n + 1)."""
    t, n = tail(scores), len(scores)
    for score in set(scores):
        at_least = sum(s >= score for s in scores)
        tied = scores.count(score) > 1
        rank = 1.0 if score == min(scores) else (at_least + tied) / (n + 1)
        assert math.exp(t.log_p_value(score)) == pytest.approx(rank)


@given(TIED)
def test_just_above_a_tie_p_leaves_the_tied_lines_behind(scores: list[float]) -> None:
    t, n = tail(scores), len(scores)
    for score in set(scores):
        higher = sum(s > score for s in scores)
        p = math.exp(t.log_p_value(math.nextafter(score, 9)))
        assert p == pytest.approx((higher + 1) / (n + 1))


@pytest.mark.parametrize("n", [200, 5000])
def test_p_is_uniform_on_exchangeable_scores(n: int) -> None:
    rng = np.random.default_rng(SEED)
    levels = np.array([0.01, 0.05, 0.2, 0.5, 0.9])
    shares = []
    for _ in range(20):
        t = tail(rng.exponential(size=n))
        p = np.exp([t.log_p_value(s) for s in rng.exponential(size=2000)])
        shares.append([(p <= level).mean() for level in levels])
    got = np.mean(shares, axis=0)
    assert got == pytest.approx(levels, rel=0.25 if n < 1000 else 0.1)


def test_the_tail_goes_on_as_it_fell() -> None:
    scores = np.random.default_rng(SEED).exponential(2.0, 20_000)
    assert tail(scores).decay == pytest.approx(2.0, rel=0.1)


def test_many_scores_are_kept_as_few_knots() -> None:
    scores = np.random.default_rng(SEED).exponential(size=50_000)
    t = tail(scores)
    assert len(t.scores) <= 512
    exact = sorted(scores)
    for rank in (1, 10, 200, 1000, 20_000, 49_000):
        p = math.exp(t.log_p_value(exact[-rank]))
        assert p == pytest.approx(rank / 50_001, rel=0.02)


def scored(n: int) -> tuple[list[float], list[float]]:
    """Text scores that are nearly always 0, and number scores."""
    rng = np.random.default_rng(SEED)
    text = np.where(rng.random(n) < 0.004, rng.uniform(0.2, 1, n), 0.0)
    return text.tolist(), rng.exponential(size=n).tolist()


def test_fused_p_keeps_the_budget_and_channels_keep_theirs() -> None:
    text, number = scored(4000)
    f = fusion(list(map(Scores, text[:2000], number[:2000])))
    verdicts = [f.verdict(Scores(t, x)) for t, x in zip(text[2000:], number[2000:], strict=True)]
    assert np.mean([v.p_value <= 0.05 for v in verdicts]) == pytest.approx(0.05, abs=0.015)
    assert all(0 < p <= 1 for v in verdicts for p in (v.p_value, *v.channels.values()))


def test_a_far_score_in_either_channel_alarms_and_names_it() -> None:
    f = fusion(list(map(Scores, *scored(2000))))
    assert f.verdict(Scores(2.0, 0.0)).p_value < 0.001
    assert f.verdict(Scores(2.0, 0.0)).channel == "text"
    assert f.verdict(Scores(0.0, 40.0)).p_value < 0.001
    assert f.verdict(Scores(0.0, 40.0)).channel == "number"


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_verdicts_are_finite_and_score_and_p_agree(text: float, number: float) -> None:
    f = fusion(list(map(Scores, *scored(300))))
    a, b = f.verdict(Scores(text, number)), f.verdict(Scores(0.0, 0.0))
    assert math.isfinite(a.score)
    assert 0 < a.p_value <= 1
    assert (a.score >= b.score) == (a.p_value <= b.p_value) or a.p_value == b.p_value


@settings(max_examples=30, deadline=None)
@given(st.one_of(SCORES, TIED), st.sampled_from([0.0, -0.0, 0.3, 7.0]))
def test_each_channel_says_its_own_p(scores: list[float], score: float) -> None:
    f = fusion([Scores(one, one) for one in scores])
    said = f.verdict(Scores(score, score)).channels
    assert said == {name: channel.p_value(score) for name, channel in f.channels.items()}


def test_scores_go_on_where_p_ends() -> None:
    f = fusion(list(map(Scores, *scored(300))))
    assert f.verdict(Scores(1e8, 0)).p_value == f.verdict(Scores(1e7, 0)).p_value > 0
    assert f.verdict(Scores(1e8, 0)).score > f.verdict(Scores(1e7, 0)).score


@pytest.mark.parametrize(("budget", "lines"), [(0.01, 100), (0.001, 1000), (0.3, 4), (0.05, 20)])
def test_a_budget_needs_lines_and_the_error_says_how_many(budget: float, lines: int) -> None:
    assert lines_needed(budget) == lines
    require(budget, lines)
    with pytest.raises(BudgetError, match=f"at least {lines} normal lines") as caught:
        require(budget, lines - 1)
    assert caught.value.needed == lines
    assert caught.value.code == "calibration.budget"
    assert str(caught.value).endswith(f"allow a budget of {least_share(lines - 1):g}")


@given(st.integers(2, 100_000))
def test_a_budget_that_is_offered_is_supported(lines: int) -> None:
    offered = float(f"{least_share(lines):g}")
    require(offered, lines)
    assert offered <= 1.11 / lines


def test_of_one_line_no_budget_is_offered() -> None:
    assert str(BudgetError(budget=0.5, lines=1)).endswith("there are 1; add lines")


def test_a_channel_that_says_nothing_of_any_line_is_left_out() -> None:
    f = fusion([Scores(float(i == 0), float(i)) for i in range(200)])
    assert set(f.channels) == {"text", "number"}
    f = fusion([Scores(0.0, float(i), window=None if i % 2 else float(i)) for i in range(200)])
    assert set(f.channels) == {"text", "number", "window"}
    assert "window" not in f.verdict(Scores(0.0, 1.0)).channels


def test_where_a_window_speaks_a_number_must_be_far_out() -> None:
    f = fusion([Scores(0.0, i / 100, window=i / 100) for i in range(400)])
    assert f.verdict(Scores(0.0, 4.2, window=3.9)).channel == "window"
    assert f.verdict(Scores(0.0, 4.2)).channel == "number"
    assert f.verdict(Scores(0.0, 50.0, window=0.0)).channel == "number"


def test_lines_that_say_nothing_new_rank_by_their_numbers() -> None:
    lines = [Scores(float(i == 0), float(i)) for i in range(100)]
    ranks = fusion(lines)
    assert ranks.verdict(Scores(0.0, 10.0)).score < ranks.verdict(Scores(0.0, 20.0)).score
    before = Fusion(ranks.channels, ranks.fused, ranks=False)
    assert before.verdict(Scores(0.0, 10.0)).score == before.verdict(Scores(0.0, 20.0)).score
