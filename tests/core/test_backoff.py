"""Retries spread over an interval that grows to a cap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.backoff import full_jitter


@given(st.integers(0, 10**9), st.floats(0.01, 10), st.floats(0.01, 1000), st.floats(0, 1))
def test_never_beyond_the_cap_nor_the_interval(
    attempt: int, base_s: float, cap_s: float, chance: float
) -> None:
    wait = full_jitter(attempt, base_s=base_s, cap_s=cap_s, chance=chance)
    assert 0 <= wait <= cap_s
    assert attempt > 20 or wait <= base_s * 2**attempt


def test_doubles_until_the_cap() -> None:
    waits = [full_jitter(n, base_s=1, cap_s=10, chance=0.5) for n in range(6)]
    assert waits == [0.5, 1, 2, 4, 5, 5]
