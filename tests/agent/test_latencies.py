"""The newest answers' latencies, in a room that does not grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.agent.latencies import KEPT, WINDOW_S, Latencies

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
