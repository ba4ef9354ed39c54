"""Levels rise and fall by rule, and slowly, whatever a device reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.core.pressure import (
    CACHE_SHARE,
    FALL_S,
    RISE_S,
    WORSEN_S,
    Level,
    Limits,
    Pressure,
    Reading,
    at_ease,
    entries_at,
    is_paused,
    passed,
    unjudged,
)

LIMITS = Limits(temperature_c=80.0, memory_available_mb=100.0, load_per_core=2.0)
COOL = Reading(temperature_c=50.0, memory_available_mb=900.0, load_per_core=0.3)
HOT = replace(COOL, temperature_c=85.0)
WARM = replace(COOL, temperature_c=78.0)  # within its limit, and not well within it


def play(pressure: Pressure, reading: Reading, span_s: float, *, begin: float) -> list[Level]:
    """Read the same every 5 s for `span_s`; return the level after each reading."""
    levels = []
    for i in range(int(span_s / 5) + 1):
        pressure.take(LIMITS, reading, now=begin + 5 * i)
        levels.append(pressure.level)
    return levels


@pytest.mark.parametrize(
    ("reading", "causes"),
    [
        (COOL, ()),
        (HOT, ("temperature_c",)),
        (replace(COOL, memory_available_mb=99.0), ("memory_available_mb",)),
        (replace(HOT, load_per_core=2.5), ("temperature_c", "load_per_core")),
        (replace(COOL, temperature_c=80.0, load_per_core=2.0, memory_available_mb=100.0), ()),
        (Reading(), ()),
    ],
)
def test_a_limit_is_passed_where_it_is_passed(reading: Reading, causes: tuple[str, ...]) -> None:
    assert passed(LIMITS, reading) == causes
    assert passed(Limits(), reading) == ()


@pytest.mark.parametrize(
    ("reading", "eased"),
    [
        (COOL, True),
        (WARM, False),
        (replace(COOL, memory_available_mb=120.0), False),
        (replace(COOL, load_per_core=1.7), False),
        (Reading(), True),
    ],
)
def test_well_within_is_more_than_within(reading: Reading, eased: bool) -> None:  # noqa: FBT001
    assert at_ease(LIMITS, reading) is eased


def test_what_cannot_be_read_is_named() -> None:
    assert unjudged(LIMITS, Reading(load_per_core=1.0)) == ("temperature_c", "memory_available_mb")
    assert unjudged(Limits(load_per_core=1.0), Reading(load_per_core=1.0)) == ()


def test_it_rises_by_steps_and_falls_by_steps() -> None:
    pressure = Pressure()
    levels = play(pressure, HOT, 200, begin=0.0)
    assert levels.index(Level.TELEMETRY) * 5 == RISE_S
    assert levels.index(Level.ALARMS_ONLY) * 5 == RISE_S + WORSEN_S
    assert list(pressure.causes) == ["temperature_c"]
    levels = play(pressure, COOL, 300, begin=205.0)
    assert not pressure.causes
    assert levels.index(Level.TELEMETRY) * 5 == FALL_S
    assert levels.index(Level.NONE) * 5 == 2 * FALL_S


def test_near_its_limit_it_stays_where_it_is() -> None:
    pressure = Pressure()
    assert set(play(pressure, WARM, 600, begin=0.0)) == {Level.NONE}
    play(pressure, HOT, 30, begin=605.0)
    assert set(play(pressure, WARM, 600, begin=640.0)) == {Level.TELEMETRY}
    assert pressure.causes == ("temperature_c",)


def test_a_moment_is_no_pressure() -> None:
    pressure = Pressure()
    for i in range(100):
        assert pressure.take(LIMITS, COOL if i % 3 == 2 else HOT, now=5.0 * i) is None
    assert pressure.level is Level.NONE


READINGS = st.builds(
    Reading,
    st.one_of(st.none(), st.floats(-40, 150)),
    st.one_of(st.none(), st.floats(0, 4096)),
    st.one_of(st.none(), st.floats(0, 50)),
)
STEPS = st.lists(st.tuples(st.floats(0.1, 90), READINGS), max_size=60)


@given(STEPS, st.sampled_from([LIMITS, Limits(), Limits(load_per_core=1.0)]))
def test_it_moves_by_one_and_only_after_its_time(
    steps: list[tuple[float, Reading]], limits: Limits
) -> None:
    """A rise follows readings that are all beyond, a fall such as are all at ease, for long."""
    pressure, now = Pressure(), 0.0
    seen: list[tuple[float, Reading]] = []
    changed_at = 0.0
    for gap, reading in steps:
        now += gap
        seen.append((now, reading))
        level = pressure.level
        before = pressure.take(limits, reading, now=now)
        assert (before is None) == (pressure.level is level)
        assert (pressure.level is Level.NONE) == (not pressure.causes)
        if before is None:
            continue
        assert before is level
        assert abs(pressure.level - before) == 1
        rose = pressure.level > before
        wait_s = FALL_S if not rose else WORSEN_S if before else RISE_S
        lately = [r for at, r in seen if at >= now - wait_s]
        assert all(passed(limits, r) if rose else at_ease(limits, r) for r in lately)
        if before:
            assert now - changed_at >= min(WORSEN_S, FALL_S)
        changed_at = now
    if limits == Limits():
        assert pressure.level is Level.NONE


LANES = st.lists(st.sampled_from([None, "alert", "telemetry"]), max_size=4)


@given(st.sampled_from(["anomaly", "intent", ""]), LANES)
def test_a_higher_level_pauses_no_less_and_alarms_last(task: str, lanes: list[str | None]) -> None:
    paused = [is_paused(level, task=task, lanes=lanes) for level in Level]
    assert paused == sorted(paused)
    assert not paused[0]
    if task == "anomaly" and "telemetry" not in lanes:
        assert not any(paused)
    if task != "anomaly":
        assert paused[2]
        assert paused[1] == (bool(lanes) and "alert" not in lanes)


def test_caches_shrink_at_the_last_level_alone() -> None:
    sizes = [entries_at(level, 4096) for level in Level]
    assert sizes == [4096, 4096, 4096 // CACHE_SHARE]
