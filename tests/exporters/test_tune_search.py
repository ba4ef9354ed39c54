"""The search for a recipe: what it tries, how it is timed, and what it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.manifest import Requirements
from edgeslm.contract.profile import DeviceProfile
from edgeslm.runtime.profiles import load_profile
from exporters.cpu_recipe import CpuRecipe
from exporters.stop import Terminated
from exporters.targets.base import Feeds, Plan
from exporters.tune import search
from exporters.tune.cpu import CpuTunable
from exporters.tune.front import Limits, front, limits, ranking, reason
from exporters.tune.space import Choice
from exporters.tune.timing import Runner, Times, callers, compare
from exporters.tune.trial import Harm, Lab, Trial
from tests.exporters.conftest import Stages

LIMITS = Limits(points=0.5, latency_ms=None, size_mb=None)


def choice(name: str) -> Choice:
    return Choice(name, Plan(name, "cpu", "fp32", Requirements()))


def trial(name: str, *, lost: float = 0.0, ratio: float = 1.0, size: int = 10**6) -> Trial:
    times = Times(2 * ratio, 500 / ratio, ratio, 1 / ratio)
    lost_points = {"accuracy": lost}
    return Trial(choice(name), 0.1 + lost, lost_points, 1000, times, 3 * ratio, size)


# --- what is taken ----------------------------------------------------------------------------


def test_the_fastest_within_the_gate_is_taken() -> None:
    fast, slow, lossy = trial("fast", ratio=0.5), trial("slow"), trial("lossy", lost=5, ratio=0.2)
    broken = dataclasses.replace(trial("broken", ratio=0.1), problem="does not load")
    assert ranking([slow, lossy, broken, fast], LIMITS) == [fast, slow, lossy]


def test_of_two_as_fast_the_nearer_to_float32_is_taken() -> None:
    near, far = trial("near", ratio=0.51), trial("far", lost=0.3, ratio=0.5)
    assert ranking([far, near], LIMITS)[0] == near


def test_a_budget_is_kept() -> None:
    small, large = trial("small", ratio=2.0, size=10**6), trial("large", size=9 * 10**6)
    kept = Limits(0.5, None, size_mb=5)
    assert ranking([large, small], kept)[0] == small
    assert "budget of 5 MB" in reason(small, kept, tried=2)
    slow = Limits(0.5, latency_ms=1.0, size_mb=None)
    assert "none of 2" in reason(small, slow, tried=2)


def test_the_budget_is_of_a_text_as_long_as_the_export_s_own_check_takes() -> None:
    """Not of those that recipes are compared on, which are shorter: it would end the export."""
    made = trial("fast")
    assert made.times.latency_ms < 2.5 < made.nominal_ms
    between = Limits(0.5, latency_ms=2.5, size_mb=None)
    assert not between.fits(made)
    assert "budget of 2.5 ms (3.00 ms for 32 tokens)" in reason(made, between, tried=1)
    assert Limits(0.5, latency_ms=3.0, size_mb=None).fits(made)


def test_where_nothing_was_measured_no_number_is_given() -> None:
    assert "inf" not in reason(Trial(choice("own")), LIMITS, tried=1)


def test_times_of_another_machine_are_no_budget() -> None:
    profile = load_profile("generic-x86_64")
    given_budget = profile.budget.model_copy(update={"latency_ms": 1.0, "size_mb": 2.0})
    profile = profile.model_copy(update={"budget": given_budget})
    assert limits(profile, here=True).latency_ms == 1.0
    assert limits(profile, here=False).latency_ms is None
    assert limits(profile, here=False).size_mb == 2.0


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 2.0]), st.floats(0.1, 4.0), st.integers(1, 9)),
        min_size=1,
        max_size=8,
    )
)
def test_the_front_holds_whatever_nothing_beats(made: list[tuple[float, float, int]]) -> None:
    trials = [
        trial(str(i), lost=lost, ratio=ratio, size=size)
        for i, (lost, ratio, size) in enumerate(made)
    ]
    best = front(trials)
    assert best
    measures = [(t.worst, t.times.latency_ratio, t.size_bytes) for t in trials]
    for one, mine in zip(trials, measures, strict=True):
        beaten = any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True))
            for theirs in measures
        )
        assert (one in best) != beaten


# --- how it is timed --------------------------------------------------------------------------


def test_what_slows_both_down_leaves_the_ratio_alone() -> None:
    now = [0.0]
    weather = iter(range(1, 10_000))

    def runner(cost: float) -> Runner:
        def run(_: Feeds) -> None:
            now[0] += cost * (1 + next(weather) // 100)  # the machine gets slower and slower

        return Runner(run, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("exporters.tune.timing.time.perf_counter", lambda: now[0])
        feeds: list[Feeds] = [{} for _ in range(16)]
        own, other = compare([runner(1.0), runner(0.5)], feeds, rounds=3, done=lambda: None)
    assert own.latency_ratio == own.throughput_ratio == 1.0
    assert other.latency_ratio == pytest.approx(0.5, rel=0.1)
    assert other.throughput_ratio == pytest.approx(2.0, rel=0.1)
    assert other.latency_ms == pytest.approx(own.latency_ms * other.latency_ratio)


def test_where_rows_are_independent_what_waits_goes_together() -> None:
    asked: list[tuple[int, ...]] = []

    def runner(*, pads: bool | None) -> Runner:
        def run(feed: Feeds) -> None:
            asked.append(feed["input_ids"].shape)

        return Runner(run, 1, pads)

    feeds: list[Feeds] = [{"input_ids": np.ones((1, 20 + i % 2), np.int64)} for i in range(32)]
    for pads, largest in ((None, (1, 21)), (False, (8, 21)), (True, (8, 21))):
        asked.clear()
        compare([runner(pads=pads)], feeds, rounds=1, done=lambda: None)
        assert max(asked) == largest
        assert (1, 20) in asked  # alone, for its latency


def test_threads_inside_leave_fewer_callers() -> None:
    assert callers(1) >= callers(2) >= callers(1000) == 1


# --- the search -------------------------------------------------------------------------------


class _Lab(Lab):
    """Knows each recipe's outcome; compiles nothing."""

    def __init__(self, profile: DeviceProfile, on_trial: Callable[[], None]) -> None:
        own = CpuTunable().choices(profile)[0]
        super().__init__(None, profile, None, own)  # type: ignore[arg-type]
        self.bench = _Bench()  # type: ignore[assignment]
        self.tried: list[str] = []
        self._on_trial = on_trial

    def trial(self, choice: Choice) -> Trial:
        self._on_trial()
        self.tried.append(choice.name)
        recipe = choice.plan.recipe
        assert isinstance(recipe, CpuRecipe)
        hurts = recipe.precision == "int8-static" and "down.1" not in recipe.exclude
        lost = 3.0 if hurts else 0.0
        ratio = {"int8-static": 0.5, "int8-dynamic": 1.0}.get(recipe.precision, 2.0)
        size = 10**6 * (1 + len(recipe.exclude))
        made = trial(choice.name, lost=lost, ratio=ratio, size=size)
        return dataclasses.replace(made, choice=choice)

    def harm(self, choice: Choice) -> Harm | None:
        recipe = choice.plan.recipe
        assert isinstance(recipe, CpuRecipe)
        if recipe.precision == "int8-dynamic":
            return Harm(0.0, 0.1)
        if recipe.exclude == ("odd",):
            return None
        # `up` moves the outputs further than `down`, but no answer hangs on it.
        error = 3.1 - 2.5 * ("up.0" in recipe.exclude) - 0.5 * ("down.1" in recipe.exclude)
        return Harm(0.0 if "down.1" in recipe.exclude else 3.0, error)

    def time(self, chosen: Any, *, rounds: int, done: Callable[[], None]) -> list[Times]:
        del rounds
        done()
        return [self.trial(choice).times for choice in chosen]


class _Bench:
    class encoder:  # noqa: N801 -- stands for an attribute
        model = None


class _Grouped(CpuTunable):
    def groups(self, choice: Choice, encoder: Any) -> dict[str, list[str]]:
        del encoder
        recipe = choice.plan.recipe
        assert isinstance(recipe, CpuRecipe)
        if recipe.precision == "int8-dynamic":
            return {"tables": ["words"]}
        if recipe.precision != "int8-static":
            return {}
        return {"up.*": ["up.0", "up.1"], "down.*": ["down.0", "down.1"], "odd": ["odd"]}


def run_search(
    stages: Stages, *, on_trial: Callable[[], None] = lambda: None, until: float = 1.0
) -> tuple[search.Found, _Lab]:
    lab = _Lab(load_profile("generic-x86_64"), on_trial)
    found = search.Search(lab, _Grouped(), LIMITS, until, lambda: 0.0, stages).run()
    return found, lab


def test_what_hurts_is_found_and_left_in_float32(stages: Stages) -> None:
    found, _ = run_search(stages)
    assert found.whole
    best = ranking(found.trials, LIMITS)[0].choice.plan.recipe
    assert isinstance(best, CpuRecipe)
    assert best.precision == "int8-static"
    assert best.exclude == ("down.1",)  # and not its harmless sister
    tried = {t.choice.plan.recipe.exclude for t in found.trials}  # type: ignore[union-attr]
    # What wins points goes first, then what takes a tenth of the error away or more.
    assert {("down.0", "down.1"), ("down.0", "down.1", "up.0", "up.1")} <= tried
    assert ("up.0", "up.1") not in tried
    groups = {s.group: s for s in found.sensitivity}
    down, up = groups["down.*"], groups["up.*"]
    assert (down.won, up.won) == (3.0, 0.0)
    assert up.helps > 0.8
    assert 0.1 < down.helps < 0.2
    assert down.excluded
    assert up.excluded
    assert groups["down.1"].excluded
    assert not groups["down.0"].excluded
    assert "odd" not in groups, "it could not be tried"


def test_every_precision_is_looked_into_the_worst_first(stages: Stages) -> None:
    """Also the one that loses nothing."""
    found, _ = run_search(stages)
    looked = dict.fromkeys(s.choice.plan.precision for s in found.sensitivity)
    assert list(looked) == ["int8-static", "int8-dynamic"]
    [table] = [s for s in found.sensitivity if s.group == "tables"]
    assert table.before == table.after == Harm(0.0, 0.1)
    assert not table.excluded


def test_the_profile_s_own_recipe_is_tried_first(stages: Stages) -> None:
    found, lab = run_search(stages)
    assert found.trials[0].choice == lab.own


def test_out_of_time_it_ends_with_what_it_has(stages: Stages) -> None:
    found, lab = run_search(stages, until=0.0)
    assert not found.whole
    assert found.trials == []
    assert lab.tried  # the last comparison is made all the same


def test_an_interrupt_keeps_what_was_found(stages: Stages) -> None:
    calls = iter(range(100))

    def third_is_interrupted() -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    found, _ = run_search(stages, on_trial=third_is_interrupted)
    assert not found.whole
    assert len(found.trials) == 2
    for name, total in stages.totals.items():
        assert stages.steps[name] == total, name


def test_a_termination_ends_all(stages: Stages) -> None:
    def terminated() -> None:
        raise Terminated

    with pytest.raises(Terminated):
        run_search(stages, on_trial=terminated)
