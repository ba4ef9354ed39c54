"""Windows see what no single reading shows, and stay in step whatever the clocks do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeslm.core.calibration import Tail, tail
from edgeslm.core.series import LATE, MARGIN, WILD, Gauge, Series, Usual, View

LINEAR = tail([i / 100 for i in range(500)])


def view(
    *windows: int, levels: tuple[float, ...], steps: tuple[float, float] = (0.0, 99.0)
) -> View:
    """Of one slot: weights of its means, and the range of its mean steps."""
    root = tuple(map(tuple, np.diag(levels).tolist()))
    low, high = steps
    return View(windows, (0.0,) * len(windows), root, (low,), (high,), (0.1,))


def usual(*views: View) -> Usual:
    return Usual((0,), (10.0,), (2.0,), (-3.0,), (3.0,), (0.5,), 100.0, views)


USUAL = usual(view(1, 3, levels=(1.0, 1.7)), view(1, 3, 6, levels=(1.0, 1.7, 2.4)))
KEY = ("pump", 0)


def series(*, limit: int = 4, sources: int = 1) -> Series:
    gauges = {("pump" if i == 0 else f"pump{i}", 0): Gauge(USUAL) for i in range(sources)}
    return Series(gauges, [LINEAR, LINEAR], limit=limit)


def feed(made: Series, values: list[float], *, start: float = 0.0) -> list[float | None]:
    return [made.score("pump", 0, [v], start + i) for i, v in enumerate(values)]


def test_windows_speak_from_the_shortest_on_as_they_fill() -> None:
    found = feed(series(), [10.0] * 7)
    assert [score is None for score in found] == [True, True, False, False, False, False, False]


def test_a_mean_that_creeps_up_is_odd_though_no_reading_is() -> None:
    made = series()
    calm = feed(made, [10.0, 11.0, 9.0, 10.0, 11.0, 9.0])
    crept = feed(made, [13.0, 13.0, 13.0, 13.0, 13.0, 13.0], start=6)
    assert calm[-1] is not None
    assert crept[-1] is not None
    assert crept[-1] > calm[-1] + 0.2
    worst = made.worst(*KEY)
    assert (worst.slot, worst.mean, worst.low, worst.high) == (0, 13.0, 8.0, 12.0)
    assert (worst.readings, worst.steps) == (6, False)


@pytest.mark.parametrize(("values", "mean"), [([11.0] * 8, 0.0), ([9.0, 13.0] * 4, 4.0)])
def test_a_slot_that_is_stuck_or_rattles_is_odd_whatever_its_level(
    values: list[float], mean: float
) -> None:
    gauge = Gauge(usual(view(1, 3, 6, levels=(0.0, 0.0, 0.0), steps=(0.3, 0.7))))
    made = Series({KEY: gauge}, [LINEAR])
    calm = feed(made, [10.0, 11.0] * 4)
    found = feed(made, values, start=8)
    assert calm[-1] is not None
    assert found[-1] is not None
    assert found[-1] > calm[-1] + 0.1
    worst = made.worst(*KEY)
    assert (worst.slot, worst.steps) == (0, True)
    assert (worst.mean, worst.low, worst.high) == pytest.approx((mean, 0.6, 1.4))


def test_no_step_leads_over_a_pause() -> None:
    made, fresh = series(), series()
    feed(made, [2.0] * 6)
    assert feed(made, [12.0] * 6, start=200) == feed(fresh, [12.0] * 6, start=200)


def test_a_far_reading_is_bounded_and_a_wild_one_no_part_of_the_window() -> None:
    far, bound = series(), series()
    feed(far, [10.0] * 5 + [2 * (3 + 5 + 20) + 10.0])
    feed(bound, [10.0] * 5 + [2 * (3 + 5) + 10.0])  # margin beyond the range
    assert feed(far, [10.0] * 3, start=6) == feed(bound, [10.0] * 3, start=6)
    wild, calm = series(), series()
    feed(wild, [10.0, 11.0, 9.0, 10.0, 10.5, 9.5])
    feed(calm, [10.0, 11.0, 9.0, 10.0, 10.5, 9.5])
    told = feed(wild, [1e308, -1e308], start=6)
    assert all(score is not None and score > 0.2 for score in told), "they are seen"
    assert wild.counts["wild"] == 2
    assert feed(wild, [10.0], start=8) == feed(calm, [10.0], start=8)


@given(
    st.lists(
        st.tuples(st.floats(), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
        max_size=40,
    )
)
def test_scores_are_finite_whatever_comes(readings: list[tuple[float, float | None]]) -> None:
    made = series()
    for value, time in readings:
        score = made.score("pump", 0, [value], time)
        assert score is None or (math.isfinite(score) and score >= 0)


THREE = Usual(
    (0, 1, 3),
    (10.0, 0.0, -4.0),
    (2.0, 1.0, 0.5),
    (-3.0, -1.0, -2.0),
    (3.0, 2.0, 2.0),
    (0.5, 0.3, 0.9),
    100.0,
    (
        View(
            (2, 5),
            (0.1, -0.2, 0.3, 0.2, 0.1, -0.1),
            tuple(map(tuple, np.random.default_rng(3).normal(size=(6, 6)).tolist())),
            (0.5, 0.1, 1.0),
            (1.5, 2.0, 2.0),
            (0.2, 0.1, 0.3),
        ),
    ),
)
numbers = st.floats(-60, 60) | st.sampled_from([math.nan, math.inf, -1e300, 10.0, 0.0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[numbers] * 4), min_size=5, max_size=14))
def test_distance_and_cause_are_as_defined(lines: list[tuple[float, ...]]) -> None:
    (looked_at,), centre, scale = THREE.views, np.array(THREE.centre), np.array(THREE.scale)
    low, high = np.array(THREE.low) - MARGIN, np.array(THREE.high) + MARGIN
    made = Series({KEY: Gauge(THREE)}, [LINEAR])
    kept: list[NDArray[np.float64]] = []
    for time, line in enumerate(lines):
        score = made.score(*KEY, line, float(time))
        raw = (np.array(line)[list(THREE.slots)] - centre) / scale
        held = kept[-1][:3] if kept else np.zeros(3)
        value = np.where(np.isnan(raw), held, raw).clip(low, high)
        shown = [*kept, np.append(value, np.abs(value - held) if kept else np.zeros(3))]
        if not np.any((raw > high + WILD) | (raw < low - WILD)):
            kept = shown
        assert (score is None) == (len(shown) < 5)
        if score is None:
            continue
        short, long = np.mean(shown[-2:], axis=0), np.mean(shown[-5:], axis=0)
        means = np.append(short[:3], long[:3]) - looked_at.mean
        distance = np.linalg.norm(means @ np.array(looked_at.root)) / math.sqrt(6)
        outside = np.maximum(looked_at.steps_low - long[3:], long[3:] - looked_at.steps_high)
        beyond = np.maximum(outside, 0) / looked_at.steps_spread
        expected = math.hypot(distance, beyond.max())
        assert score == pytest.approx(-LINEAR.log_p_value(expected), rel=1e-9, abs=1e-9)
        worst, odd = made.worst(*KEY), np.abs(long[:3] - looked_at.mean[3:]) / THREE.spread
        place = THREE.slots.index(worst.slot)
        assert worst.steps == (beyond.max() > 1e-12) or beyond.max() < 1e-9
        of = beyond if worst.steps else odd
        assert of[place] == pytest.approx(of.max())
        at = scale[place] * long[3 + place] if worst.steps else (centre + scale * long[:3])[place]
        assert worst.mean == pytest.approx(at)


@given(st.lists(st.floats(-50, 50), min_size=6, max_size=30))
def test_a_window_holds_its_own_readings_and_no_others(values: list[float]) -> None:
    made, fresh = series(), series()
    whole = feed(made, values)
    assert feed(fresh, values[-6:])[-1] == pytest.approx(whole[-1], rel=1e-12)


def test_a_pause_begins_the_windows_anew() -> None:
    made = series()
    feed(made, [10.0] * 6)
    found = feed(made, [10.0] * 3, start=6 + 100)
    assert [score is None for score in found] == [True, True, False]
    assert made.counts["gaps"] == 1


def test_what_comes_late_or_again_is_counted_and_changes_nothing() -> None:
    made, other = series(), series()
    before = feed(made, [10.0, 12.0, 10.0, 11.0, 9.0, 10.0])
    feed(other, [10.0, 12.0, 10.0, 11.0, 9.0, 10.0])
    assert made.score("pump", 0, [99.0], 2.0) is None, "it is in no window"
    assert made.score("pump", 0, [10.0], 5.0) == before[-1]
    assert made.counts == {"late": 1, "repeated": 1, "wild": 0, "gaps": 0, "series_dropped": 0}
    assert feed(made, [11.0], start=6) == feed(other, [11.0], start=6)


def test_what_comes_late_or_again_after_a_pause_finds_no_windows() -> None:
    made = series()
    feed(made, [10.0] * 6)
    assert made.score(*KEY, [1e9], 200.0) is None  # wild, so that it is not kept
    assert made.score(*KEY, [10.0], 150.0) is None
    assert made.score(*KEY, [1e9], 200.0) is None
    assert (made.counts["late"], made.counts["repeated"], made.counts["wild"]) == (1, 1, 1)


def test_a_clock_that_was_set_back_is_believed_in_the_end() -> None:
    made = series()
    feed(made, [10.0] * 6, start=1e6)
    found = feed(made, [13.0] * (LATE + 6))
    assert found[: LATE - 1] == [None] * (LATE - 1)
    first, last = found[LATE - 1], found[-1]
    assert first is not None, "the windows stood, and go on"
    assert last is not None
    assert last > first
    assert made.counts["late"] == LATE - 1


def test_series_beyond_the_bound_give_way_oldest_first() -> None:
    made = series(limit=2, sources=3)
    for source in ("pump", "pump1", "pump", "pump2"):
        made.score(source, 0, [10.0], None)
    assert len(made) == 2
    assert made.counts["series_dropped"] == 1
    made.score("pump", 0, [10.0], None)
    assert made.counts["series_dropped"] == 1, "the one used last was kept"


def test_a_series_without_a_gauge_is_not_kept() -> None:
    made = series()
    assert made.score("unknown", 0, [10.0], None) is None
    assert made.score("pump", 7, [10.0], None) is None
    assert len(made) == 0


def test_a_slot_without_a_number_holds_what_it_held() -> None:
    gauge = Gauge(USUAL)
    assert gauge.reading([math.nan], None, first=True) == ([0.0, 0.0], False)
    assert gauge.reading([math.nan], [1.5, 9.0], first=False) == ([1.5, 0.0], False)
    assert gauge.reading([12.0], [1.5, 9.0], first=False) == ([1.0, 0.5], False)
    assert isinstance(LINEAR, Tail)
    assert np.isfinite(gauge.look(1, np.ones((6, 3)))[0])
