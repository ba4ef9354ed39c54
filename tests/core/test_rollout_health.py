"""A roll-out stops itself where it should, and not by chance, by one device or by one that lies."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import DeviceState, Health, Target, breach
from edgeslm.core.rollout_health import CHANCE, at_least, beyond_chance

PLAN = Plan(model="press", version=7)


def plan(**limits: object) -> Plan:
    return Plan.model_validate({"model": "press", "version": 7, "limits": limits})


def done(before: Health, after: Health, *, kind: str = "pi", device: str = "d") -> Target:
    state = DeviceState.SUCCEEDED
    return Target(device, kind, 0, state, since=10.0, seq=1, before=before, after=after)


def of(state: DeviceState, count: int, kind: str = "pi") -> list[Target]:
    return [Target(f"{state.value}{n}", kind, 0, state, since=10.0, seq=1) for n in range(count)]


# Statistics, against scipy.


@given(data=st.data(), total=st.integers(1, 5000), p=st.floats(1e-6, 1 - 1e-6))
def test_a_binomial_tail_is_right(data: st.DataObject, total: int, p: float) -> None:
    count = data.draw(st.integers(0, total + 1))
    expected = stats.binom.sf(count - 1, total, p)
    assert at_least(count, total, p) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("count", "total", "p"),
    [(10, 10, 0.5), (0, 10, 0.3), (11, 10, 0.3), (1, 10, 0.0), (0, 10, 0.0), (3, 10, 1.0)],
)
def test_a_binomial_tail_at_its_ends(count: int, total: int, p: float) -> None:
    assert at_least(count, total, p) == pytest.approx(stats.binom.sf(count - 1, total, p))


@pytest.mark.parametrize(
    ("total", "p"), [(10**7, 0.3), (10**9, 0.3), (10**15, 0.3), (10**9, 1e-4), (10**12, 1e-9)]
)
@pytest.mark.parametrize("z", [-3.0, 0.0, 2.0, 2.5, 4.0])
def test_a_binomial_tail_of_very_many_is_nearly_right_and_quick(
    total: int, p: float, z: float
) -> None:
    count = int(total * p + z * (total * p * (1 - p)) ** 0.5)
    began = time.thread_time()
    found = at_least(count, total, p)
    assert time.thread_time() - began < 0.1
    assert found == pytest.approx(stats.binom.sf(count - 1, total, p), rel=0.02)


@given(
    before=st.integers(0, 300),
    after=st.integers(0, 300),
    of_before=st.integers(300, 5000),
    of_after=st.integers(300, 5000),
    ratio=st.sampled_from([1.0, 1.5, 3.0]),
)
def test_two_rates_are_compared_as_scipy_does(
    before: int, after: int, of_before: int, of_after: int, ratio: float
) -> None:
    found = beyond_chance((before, of_before), (after, of_after), ratio)
    if before + after == 0:
        assert not found
        return
    p = ratio * of_after / (ratio * of_after + of_before)
    value = stats.binomtest(after, before + after, p, alternative="greater").pvalue
    assert found == (value < CHANCE and after / of_after > ratio * before / of_before)


def test_a_rate_that_is_as_allowed_seldom_counts_as_more() -> None:
    rng = random.Random(7)  # noqa: S311
    found = 0
    for _ in range(400):
        before = sum(rng.random() < 0.02 for _ in range(1000))
        after = sum(rng.random() < 0.03 for _ in range(1000))
        found += beyond_chance((before, 1000), (after, 1000), 1.5)
    assert found / 400 <= 3 * CHANCE


# Shares of devices.


@pytest.mark.parametrize(
    ("failed", "silent", "well", "why"),
    [
        (0, 0, 0, None),
        (0, 0, 1, None),
        (1, 0, 0, "1 of 1 devices failed"),
        (1, 0, 18, "1 of 19 devices failed"),
        (1, 0, 19, None),
        (2, 0, 18, "2 of 20 devices failed"),
        (0, 1, 4, None),
        (0, 1, 3, "1 of 4 devices silent"),
        (1, 4, 15, None),
    ],
)
def test_more_than_a_share_of_those_moved_stops_it(
    failed: int, silent: int, well: int, why: str | None
) -> None:
    targets = of(DeviceState.FAILED, failed) + of(DeviceState.SILENT, silent)
    targets += of(DeviceState.SUCCEEDED, well) + of(DeviceState.WAITING, 100, kind="x")
    found = breach(PLAN, targets)
    assert (found is None) == (why is None)
    assert found is None or (why is not None and found.startswith(why))


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_share_is_exact(percent: int) -> None:
    targets = of(DeviceState.FAILED, percent) + of(DeviceState.SUCCEEDED, 100 - percent)
    assert breach(plan(failed=f"{percent}%"), targets) is None
    targets = of(DeviceState.FAILED, percent + 1) + of(DeviceState.SUCCEEDED, 99 - percent)
    assert breach(plan(failed=f"{percent}%"), targets) is not None


def test_what_was_accepted_is_not_judged_again() -> None:
    targets = of(DeviceState.FAILED, 5) + of(DeviceState.SUCCEEDED, 5)
    assert breach(PLAN, targets, accepted_at=9.0) is not None
    assert breach(PLAN, targets, accepted_at=10.0) is None
    later = [replace(target, since=11.0, device=f"{target.device}-") for target in targets[:1]]
    assert breach(PLAN, targets + later, accepted_at=10.0) is not None


# Answers.

BEFORE = Health(1000, 5, 20, 10.0)


def alike(count: int, after: Health, kind: str = "pi") -> list[Target]:
    return [done(BEFORE, after, kind=kind, device=f"{kind}{n}") for n in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 20])
@pytest.mark.parametrize(
    ("after", "why"),
    [
        (BEFORE, None),
        (Health(1000, 14, 20, 10.0), None),
        (Health(1000, 40, 20, 10.0), "errors in"),
        (Health(1000, 5, 29, 10.0), None),
        (Health(1000, 5, 60, 10.0), "alarms in"),
        (Health(1000, 5, 20, 20.0), None),
        (Health(1000, 5, 20, 20.1), "p99 20.1 ms, and 10.0 ms before"),
        (Health(0, 0, 0, None), None),
    ],
)
def test_a_version_that_answers_worse_stops_it(count: int, after: Health, why: str | None) -> None:
    found = breach(PLAN, alike(count, after))
    assert (found is None) == (why is None)
    assert found is None or (why is not None and why in found)


def test_a_few_answers_say_nothing_unless_several_devices_give_them() -> None:
    assert breach(PLAN, alike(1, Health(99, 99, 99, 99.0))) is None
    assert breach(PLAN, alike(2, Health(99, 99, 99, 99.0))) is not None


def test_a_limit_that_is_off_stops_nothing() -> None:
    off = plan(latency_ratio=None, alarm_ratio=None, error_share=1.0)
    assert breach(off, alike(20, Health(1000, 1000, 1000, 999.0))) is None


def test_errors_that_the_old_version_had_as_well_are_not_the_new_ones() -> None:
    bad = Health(1000, 300, 0, None)
    assert breach(PLAN, [done(bad, bad, device=f"d{n}") for n in range(20)]) is None
    # A few answers before say nothing of how many errors it had.
    few = Health(3, 1, 0, None)
    assert breach(PLAN, [done(few, bad, device=f"d{n}") for n in range(20)]) is not None


def test_a_model_that_was_not_there_before_is_judged_by_its_errors() -> None:
    none = Health()
    assert breach(PLAN, [done(none, Health(1000, 0, 900, 900.0))]) is None
    assert breach(PLAN, [done(none, Health(1000, 100, 0, 1.0))]) is not None


def test_one_type_that_answers_worse_is_not_hidden_by_the_others() -> None:
    targets = alike(50, BEFORE) + alike(1, Health(1000, 200, 20, 10.0), kind="npu")
    found = breach(PLAN, targets)
    assert found is not None
    assert found.startswith("devices of type npu: 200 errors in 1000 answers")


def test_types_of_which_none_has_enough_are_judged_together() -> None:
    targets = [
        done(Health(60, 0, 0), Health(60, 20, 0), kind=f"t{n}", device=f"d{n}") for n in range(4)
    ]
    found = breach(PLAN, targets)
    assert found is not None
    assert found.startswith("all types: ")


@pytest.mark.parametrize(
    "mad",
    [
        Health(1000, 0, 1000, 10.0),
        Health(1000, 1000, 0, 10.0),
        Health(10**9, 0, 10**9, 10.0),
        Health(2**53, 2**53, 2**53, 1e300),
        Health(10, 10**15, 10**15, 0.0),
        Health(-5, -5, -5, -5.0),
    ],
)
def test_one_device_alone_stops_nothing(mad: Health) -> None:
    targets = [*alike(19, Health(1000, 5, 20, 10.0)), done(BEFORE, mad)]
    assert breach(PLAN, targets) is None


@pytest.mark.parametrize("boast", [Health(2**53, 0, 0, 0.001), Health(10**6, 0, 0, 0.0)])
@pytest.mark.parametrize(
    "after", [Health(1000, 5, 60, 10.0), Health(1000, 60, 20, 10.0), Health(1000, 5, 20, 30.0)]
)
def test_one_device_that_boasts_hides_nothing(boast: Health, after: Health) -> None:
    assert breach(PLAN, [*alike(19, after), done(BEFORE, boast)]) is not None


health = st.builds(
    Health,
    st.integers(-(2**53), 2**53),
    st.integers(-(2**53), 2**53),
    st.integers(-(2**53), 2**53),
    st.none() | st.floats(0, 1e300),
)


@given(
    st.lists(
        st.builds(
            Target,
            device=st.text(max_size=3),
            type=st.sampled_from(["", "a", "b"]),
            wave=st.integers(0, 2),
            state=st.sampled_from(DeviceState),
            since=st.floats(0, 1e12),
            before=st.none() | health,
            after=st.none() | health,
        ),
        max_size=20,
    )
)
@settings(deadline=1000)
def test_whatever_devices_say_it_is_judged(targets: list[Target]) -> None:
    found = breach(PLAN, targets)
    assert found is None or found


@pytest.mark.parametrize("worse", [Health(1000, 60, 20, 10.0), Health(1000, 5, 20, 30.0)])
def test_how_a_version_answers_can_be_accepted(worse: Health) -> None:
    targets = alike(5, worse)
    assert breach(PLAN, targets, accepted_at=9.0) is not None
    assert breach(PLAN, targets, accepted_at=10.0) is None
    later = [replace(target, since=11.0, device=f"{target.device}-") for target in targets]
    assert breach(PLAN, targets + later, accepted_at=10.0) is not None


def test_nobody_counts_more_than_it_has_answered() -> None:
    absurd = done(BEFORE, Health(10, 10**15, 10**15, None))
    assert breach(PLAN, [*alike(1, BEFORE), absurd]) is None


def test_a_latency_of_nothing_is_none_to_compare_with() -> None:
    assert breach(PLAN, [done(replace(BEFORE, p99_ms=0.0), BEFORE)]) is None
