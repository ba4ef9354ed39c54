"""The newest answers' latencies, in a room that does not grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.agent.latencies import CATCH_UP, KEPT, WINDOW_S, Latencies

answers = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 100)), max_size=80)


def test_nothing_answered_has_no_quantiles() -> None:
    latencies = Latencies()
    assert latencies.quantiles_ms([0.5], now=0.0) is None
    latencies.add(1.0, 0.25)
    assert latencies.quantiles_ms([0.5, 0.99], now=1.0) == [250.0, 250.0]
    assert latencies.quantiles_ms([0.5], now=1.0 + WINDOW_S) == [250.0]
    assert latencies.quantiles_ms([0.5], now=1.1 + WINDOW_S) is None
    latencies.clear()
    assert latencies.quantiles_ms([0.5], now=1.0) is None


@given(answers)
def test_they_are_those_of_the_last_minute(steps: list[tuple[float, float]]) -> None:
    latencies, kept, now = Latencies(), [], 0.0
    for gap_s, took_s in steps:
        now += gap_s
        latencies.add(now, took_s)
        kept.append((now, took_s))
    fresh = sorted(1e3 * took for at, took in kept if at >= now - WINDOW_S)
    got = latencies.quantiles_ms([0.0, 0.5, 0.99, 1.0], now=now)
    if not fresh:
        assert got is None
        return
    assert got is not None
    assert got == sorted(got)
    assert [got[0], got[3]] == pytest.approx([fresh[0], fresh[-1]])
    below = sum(took <= got[1] * (1 + 1e-12) for took in fresh)
    assert below >= len(fresh) / 2


def test_of_more_than_it_keeps_the_newest_count() -> None:
    latencies = Latencies()
    for i in range(KEPT + 10):
        latencies.add(1.0, float(i))
    assert latencies.quantiles_ms([0.0, 1.0], now=1.0) == [10_000.0, 1e3 * (KEPT + 9)]


def test_what_waited_because_nobody_answered_does_not_count_nor_what_waited_behind_it() -> None:
    latencies = Latencies()
    latencies.halt(10.0)
    latencies.halt(12.0)  # nobody answers already
    latencies.resume(20.0)
    latencies.add(21.0, 9.0, behind=True)
    latencies.add(22.0, 1.5, behind=True)  # came since, and waited behind the first
    latencies.add(22.5, 1.5)  # the last that waits
    assert latencies.quantiles_ms([1.0], now=23.0) is None
    latencies.add(23.0, 0.75)  # came before that one was answered
    latencies.add(23.5, 0.25, behind=True)
    assert latencies.quantiles_ms([0.0, 1.0], now=23.5) == [250.0, 250.0]


def test_one_that_never_catches_up_is_judged_all_the_same() -> None:
    latencies = Latencies()
    latencies.halt(10.0)
    latencies.resume(12.0)
    limit = 12.0 + CATCH_UP * 2.0
    latencies.add(limit - 0.5, 3.0, behind=True)
    latencies.add(limit, 3.0, behind=True)
    assert latencies.quantiles_ms([1.0], now=limit) is None
    latencies.add(limit + 4.0, 3.5, behind=True)
    assert latencies.quantiles_ms([1.0], now=limit + 4.0) == [3500.0]
