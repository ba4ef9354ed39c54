"""Numbers against their history: finite always, fair to counters, sharp on what never changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.numbers import (
    KNOTS,
    LIMIT,
    History,
    Line,
    Slot,
    effective_readings,
    history,
    pooled,
)

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
READINGS = st.lists(st.one_of(st.just(math.nan), st.floats(allow_infinity=False)), max_size=50)
SEED = 3


def slot(values: Sequence[float]) -> Slot:
    return Slot(history(values))


def normal(n: int, mean: float = 72.4, scale: float = 1.0) -> list[float]:
    readings = np.random.default_rng(SEED).normal(mean, scale, n).round(1)
    return [float(x) for x in readings]


@given(READINGS, FLOATS)
def test_every_float_has_a_finite_surprise(readings: list[float], value: float) -> None:
    given_value = value if math.isfinite(value) else math.nan  # as `template.number` gives it
    assert 0 <= slot(readings).surprise(given_value) <= LIMIT


@given(st.lists(READINGS.filter(len), min_size=1, max_size=5), FLOATS)
def test_pooled_histories_are_finite_too(groups: list[list[float]], value: float) -> None:
    given_value = value if math.isfinite(value) else math.nan
    assert 0 <= Slot(pooled(groups)).surprise(given_value) <= LIMIT


@given(READINGS)
def test_a_history_is_well_formed_and_bounded(readings: list[float]) -> None:
    h = history(readings)
    assert len(h.values) == len(h.counts) <= KNOTS
    assert list(h.values) == sorted(set(h.values))
    assert list(h.counts) == sorted(set(h.counts))
    assert (h.counts[-1] if h.counts else 0) + h.others == len(readings)
    assert h.scale > 0
    assert h.effective >= 1


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(0, 1e6), st.floats(0, 1e6)
)
def test_farther_beyond_the_range_is_no_less_surprising(
    readings: list[float], near: float, more: float
) -> None:
    s = slot(readings)
    top, bottom = max(readings), min(readings)
    assert s.surprise(top + near + more) >= s.surprise(top + near)
    assert s.surprise(bottom - near - more) >= s.surprise(bottom - near)


@pytest.mark.parametrize("value", [172.4, 82.0, 60.0, -72.4, 0.0, 1e308, -1e308, math.nan])
def test_what_no_reading_came_near_is_more_surprising_than_any_reading(value: float) -> None:
    readings = normal(300)
    s = slot(readings)
    assert s.surprise(value) > max(s.surprise(x) for x in readings)


def test_the_middle_of_the_range_is_no_surprise() -> None:
    assert slot(normal(300)).surprise(72.4) < 0.5


def test_a_code_never_seen_between_codes_seen_stands_out() -> None:
    codes = [200.0] * 150 + [404.0] * 150
    np.random.default_rng(SEED).shuffle(codes)
    s = slot(codes)
    assert s.surprise(403.0) > 4
    assert s.surprise(200.0) < 1


def test_a_temperature_never_seen_between_temperatures_does_not_stand_out() -> None:
    readings = np.random.default_rng(SEED).normal(72, 1, 300).tolist()  # all distinct
    assert slot(readings).surprise(72.0000001) < 0.5


def test_dropping_values_of_a_long_history_makes_none_of_them_new() -> None:
    readings = np.random.default_rng(SEED).integers(0, 4 * KNOTS, 20_000).astype(float).tolist()
    s = slot(readings)
    assert len(history(readings).values) == KNOTS
    middle = [x for x in readings if KNOTS < x < 3 * KNOTS]
    assert max(s.surprise(x) for x in middle) < 1.5


def test_a_counter_surprises_nobody_by_counting_on() -> None:
    assert slot([float(i) for i in range(1000)]).surprise(1001.0) < 1


def test_a_constant_that_changes_is_a_surprise_that_grows_with_its_length() -> None:
    short, long = slot([24.0] * 5), slot([24.0] * 500)
    assert long.surprise(25.0) > 5
    assert short.surprise(25.0) < 3
    assert long.surprise(24.0) == 0


def test_a_slot_of_names_is_never_scored() -> None:
    s = slot([math.nan] * 90 + [1.0] * 10)
    assert s.surprise(math.nan) == s.surprise(1e9) == 0


@pytest.mark.parametrize("readings", [normal(150), [float(i) for i in range(1000)], [5.0] * 150])
def test_no_number_where_there_always_was_one_is_far_out_even_of_a_counter(
    readings: list[float],
) -> None:
    s, spread = slot(readings), history(readings).scale
    assert s.surprise(math.nan) >= s.surprise(max(readings) + 9 * spread)


def test_no_number_where_one_in_ten_is_none_is_no_surprise() -> None:
    s = slot(([math.nan] + [5.0] * 9) * 30)
    assert s.surprise(math.nan) < 3


@pytest.mark.parametrize(("r", "low", "high"), [(0.0, 800, 1000), (0.9, 30, 90), (1.0, 1, 10)])
def test_effective_readings_fall_with_autocorrelation(r: float, low: float, high: float) -> None:
    rng = np.random.default_rng(SEED)
    x = np.empty(1000)
    x[0] = rng.normal()
    for i in range(1, 1000):
        x[i] = r * x[i - 1] + math.sqrt(max(1 - r * r, 0.05)) * rng.normal()
    assert low <= effective_readings(x) <= high


def test_sources_at_different_levels_say_little_of_the_next_one() -> None:
    apart = [normal(200, level, 0.5) for level in (50, 60, 70, 80)]
    alike = [normal(200, 60, 0.5) for _ in range(4)]
    assert pooled(apart).effective < 20
    assert pooled(alike).effective > 400


def test_one_far_slot_makes_the_line_and_is_named() -> None:
    line = Line([history(normal(300)), history(normal(300, 5)), history([7.0] * 300)])
    calm, jump = [72.4, 5.0, 7.0], [72.4, 50.0, 7.0]
    assert line.score(calm) < 1
    assert line.score(jump) > 5
    ((index, expected),) = line.worst(jump)
    assert index == 1
    low, high = expected.split(" to ")
    assert 0 < float(low) < 5 < float(high) < 10
    assert line.worst([72.4, 5.0, 8.0]) == [(2, "7")]


def test_up_to_three_slots_are_named_the_oddest_first() -> None:
    line = Line([history(normal(300, 5)) for _ in range(5)])
    assert [slot for slot, _ in line.worst([5.0, 50.0, 5.0, 500.0, 5.0])] == [3, 1]
    assert [slot for slot, _ in line.worst([50.0, 60.0, 70.0, 80.0, 90.0])] == [4, 3, 2]
    assert len(line.worst([5.0] * 5)) == 1


def test_the_number_farthest_out_of_its_range_is_named() -> None:
    line = Line([history([float(i) for i in range(101)]), history(normal(150)), history([])])
    assert line.beyond([50.0, 72.4, math.nan]) is None
    assert line.beyond([math.nan, 72.4, math.nan]) is None
    assert line.beyond([300.0, 72.4, math.nan]) == (0, "0 to 100")
    found = line.beyond([101.0, 90.0, math.nan])
    assert found is not None
    assert found[0] == 1, "in widths of its range"
    assert line.beyond([300.0, 90.0, 7.0]) == (2, "no number")


def test_a_line_with_many_slots_alarms_no_more_often_than_one_with_one() -> None:
    rng = np.random.default_rng(SEED)
    train, test = rng.normal(size=(8, 500)), rng.normal(size=(8, 4000))
    one = Line([history(train[0].tolist())])
    eight = Line([history(x.tolist()) for x in train])
    over_one = np.mean([one.score([x]) > 4 for x in test[0]])
    over_eight = np.mean([eight.score(list(column)) > 4 for column in test.T])
    assert over_eight < 2 * over_one + 0.01


def test_a_history_of_nothing_is_never_surprised() -> None:
    s = Slot(History((), (), 0, 0, 1.0, 1.0))
    assert s.surprise(5.0) == s.surprise(math.nan) == 0
    assert s.expected == "no number"
