"""Memory that grows for hours is told once, and neither spikes nor a plateau are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeslm.core.growth import BOUND_MB_H, ENOUGH, SETTLE_S, SPAN_S, Growth

MINUTE_S = 60.0


def minutes(hours: float, mb: Callable[[float], float]) -> Iterator[tuple[float, float]]:
    """Yield (seconds, MiB) of each minute, of a function of hours."""
    for i in range(int(hours * 60)):
        yield i * MINUTE_S, mb(i / 60)


def told(growth: Growth, readings: Iterator[tuple[float, float]]) -> list[float]:
    """Return the hours at which growth was told."""
    return [now / 3600 for now, mb in readings if growth.take(now, mb)]


@given(st.floats(-20, 20), st.integers(0, 2**32))
@settings(max_examples=25)
def test_the_slope_is_found_under_noise_and_spikes(slope: float, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311

    def mb(hours: float) -> float:
        spike = 80.0 if int(hours * 6) % 6 == seed % 6 else 0.0  # one span in six
        return 100.0 + slope * hours + chance.gauss(0, 0.5) + spike

    growth = Growth()
    told(growth, minutes(7, mb))
    assert growth.mb_per_h == pytest.approx(slope, abs=1.0)


def test_growth_is_told_once_when_enough_is_known() -> None:
    growth = Growth()
    hours = told(growth, minutes(30, lambda h: 100 + 3 * BOUND_MB_H * h))
    assert len(hours) == 1
    assert hours[0] == pytest.approx((SETTLE_S + ENOUGH * SPAN_S) / 3600, abs=0.05)


def test_a_plateau_is_not_told() -> None:
    growth = Growth()
    assert told(growth, minutes(24, lambda h: 100 + 60 * min(1.0, h * 6))) == []
    assert growth.mb_per_h == pytest.approx(0, abs=0.01)


def test_what_a_model_takes_is_not_growth() -> None:
    growth = Growth()
    for now, mb in minutes(24, lambda h: 100 + 60 * (h >= 2) + 60 * (h >= 8)):
        if now in {2 * 3600.0, 8 * 3600.0}:
            growth.begin(now)
            assert growth.mb_per_h is None
        assert not growth.take(now, mb)
