"""A model stays if it is no worse than its profile allows beside the one before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.control import ServingModel
from edgeslm.contract.fleet import DeviceConfig
from edgeslm.contract.profile import Trial
from edgeslm.contract.routes import Route
from edgeslm.core.trial import (
    ENOUGH,
    QUIET_FACTOR,
    ConfigUnservedError,
    Sample,
    TrialErrorsError,
    TrialQuietError,
    TrialSlowError,
    Verdict,
    judge,
    served,
)
from edgeslm.errors import EdgeSLMError

TRIAL = Trial(duration_s=60, error_share_max=0.01, latency_ratio_max=2)
OLD = Sample(0.0, answered=9_900, errors=100, p99_ms=10.0)  # one in a hundred
BEGUN = Sample(0.0, answered=9_900, errors=100)


def after(
    at_s: float, answered: int = 1_000, errors: int = 0, p99_ms: float | None = 10.0
) -> Sample:
    """What the agent reports of the new one: it counts on from the old one."""
    return Sample(at_s, BEGUN.answered + answered, BEGUN.errors + errors, p99_ms)


def said(verdict: Verdict) -> str:
    return verdict if isinstance(verdict, str) else verdict.code


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (after(59.9), "wait"),
        (after(60.0), "keep"),
        (after(60.0, answered=0), "keep"),
        # As many errors as the old one, and a hundredth more.
        (after(60.0, answered=980, errors=20), "keep"),
        (after(60.0, answered=979, errors=21), "trial.errors"),
        # At once, where there are answers enough, and not before.
        (after(1.0, answered=ENOUGH - 3, errors=3), "trial.errors"),
        (after(1.0, answered=ENOUGH - 4, errors=3), "wait"),
        (after(60.0, answered=ENOUGH - 4, errors=3), "trial.errors"),
        # One odd input does not condemn it.
        (after(60.0, answered=4, errors=1), "keep"),
        (after(60.0, answered=3, errors=2), "trial.errors"),
        (after(60.0, p99_ms=20.0), "keep"),
        (after(60.0, p99_ms=20.1), "trial.slow"),
        (after(59.0, p99_ms=99.0), "wait"),
        (after(60.0, answered=ENOUGH - 1, p99_ms=99.0), "keep"),
        (after(60.0, p99_ms=None), "keep"),
    ],
)
def test_after_an_old_model_that_answered_well(now: Sample, expected: str) -> None:
    assert said(judge(TRIAL, before=OLD, begun=BEGUN, now=now)) == expected


def test_the_first_model_of_a_device_has_nobody_beside_it() -> None:
    none = Sample(0.0)
    slow = Sample(60.0, 990, 10, p99_ms=5_000.0)
    assert judge(TRIAL, before=none, begun=none, now=slow) == "keep"
    worse = Sample(60.0, 989, 11)
    assert said(judge(TRIAL, before=none, begun=none, now=worse)) == "trial.errors"


def test_where_no_error_is_allowed_one_is_too_many() -> None:
    strict, good = Trial(error_share_max=0), Sample(0.0, 1_000, 0)
    one = Sample(60.0, 1_999, 1)
    verdict = judge(strict, before=good, begun=good, now=one)
    assert isinstance(verdict, TrialErrorsError)
    assert "1 errors in 1000 answers; 0.00%" in str(verdict)


def test_a_model_is_not_held_to_a_latency_taken_from_few_answers() -> None:
    few = Sample(0.0, ENOUGH - 1, 0, p99_ms=1.0)
    assert judge(TRIAL, before=few, begun=few, now=Sample(60.0, 1_000, 0, p99_ms=9.0)) == "keep"
    enough = Sample(0.0, ENOUGH, 0, p99_ms=1.0)
    verdict = judge(TRIAL, before=enough, begun=enough, now=Sample(60.0, 1_000, 0, p99_ms=9.0))
    assert isinstance(verdict, TrialSlowError)


@pytest.mark.parametrize(
    ("at_s", "answered", "expected"),
    [
        (60.0, 50, "keep"),
        (60.0, 49, "wait"),
        (599.9, 49, "wait"),
        (599.9, 50, "keep"),
        (600.0, 49, "trial.quiet"),
    ],
)
def test_a_quiet_device_has_ten_times_as_long(at_s: float, answered: int, expected: str) -> None:
    asks = Trial(duration_s=60, answers_min=50)
    assert said(judge(asks, before=OLD, begun=BEGUN, now=after(at_s, answered))) == expected


def test_a_report_is_read_as_it_is() -> None:
    model = ServingModel(model="m", state="serving", answered=3, errors=1, p99_ms=2.5)
    assert Sample.of(model, 7.0) == Sample(7.0, 3, 1, 2.5)


counts = st.integers(0, 10_000)
latencies = st.none() | st.floats(0, 1e6)
samples = st.builds(Sample, st.just(0.0), counts, counts, latencies)
trials = st.builds(
    Trial,
    duration_s=st.floats(0, 86_400),
    error_share_max=st.floats(0, 1),
    latency_ratio_max=st.floats(1, 100),
    answers_min=counts,
)


@given(trials, samples, samples, counts, counts, latencies, st.floats(0, 1e6))
def test_every_trial_comes_to_an_end(  # noqa: PLR0913, PLR0917 -- hypothesis gives them
    trial: Trial,
    before: Sample,
    begun: Sample,
    answered: int,
    errors: int,
    p99_ms: float | None,
    later_s: float,
) -> None:
    def at(elapsed_s: float) -> Verdict:
        now = Sample(elapsed_s, begun.answered + answered, begun.errors + errors, p99_ms)
        return judge(trial, before=before, begun=begun, now=now)

    assert at(trial.duration_s * QUIET_FACTOR + later_s) != "wait"
    verdict = at(later_s)
    if verdict == "keep":
        assert later_s >= trial.duration_s
        assert answered + errors >= trial.answers_min
        old = before.errors / before.total if before.total else 0
        assert errors <= (old + trial.error_share_max) * (answered + errors) + 1
    elif verdict != "wait":
        assert isinstance(verdict, EdgeSLMError)
        assert str(verdict)
        assert verdict.code.startswith("trial.")
        assert isinstance(verdict, TrialQuietError) is (verdict.code == "trial.quiet")


def routed(*models: str) -> DeviceConfig:
    return DeviceConfig(routes={"r": Route(topic="plant/#", models=models)})


def test_a_configuration_waits_for_a_model_that_loads_and_not_for_ever() -> None:
    loading = [ServingModel(model="m", state="loading"), ServingModel(model="n", state="serving")]
    assert not served(routed("n", "m"), loading)
    assert served(routed("n"), loading)
    assert served(routed("n", "m"), loading, awaited={"m"}, late=True)
    with pytest.raises(ConfigUnservedError, match="route r: no bundle serves m"):
        served(routed("n", "m"), loading, late=True)
    assert served(DeviceConfig(state_interval_s=5.0), [])
