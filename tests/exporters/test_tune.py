"""The search for a recipe: what it tries, what it takes, and that its choice can be had again."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.contract.manifest import Requirements, SessionSettings
from edgeslm.contract.profile import DeviceProfile
from edgeslm.ports import Request
from edgeslm.providers import cpu
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import load_model
from edgeslm.runtime.profiles import detect_profile, load_profile
from exporters.cpu_recipe import CpuRecipe
from exporters.export import Job, export
from exporters.stop import Terminated
from exporters.targets.base import Feeds, Plan
from exporters.tune import search
from exporters.tune.cpu import CpuTunable
from exporters.tune.front import Limits, front, limits, ranking, reason
from exporters.tune.lock import Lock, LockError, check_same, read_lock
from exporters.tune.space import Choice
from exporters.tune.table import render
from exporters.tune.timing import Runner, Times, callers, compare
from exporters.tune.trial import Lab, Trial
from tests.exporters.conftest import Stages

pytestmark = pytest.mark.usefixtures("own_cache")
LIMITS = Limits(points=0.5, latency_ms=None, size_mb=None)


def choice(name: str) -> Choice:
    return Choice(name, Plan(name, "cpu", "fp32", Requirements()))


def trial(name: str, *, lost: float = 0.0, ratio: float = 1.0, size: int = 10**6) -> Trial:
    times = Times(2 * ratio, 500 / ratio, ratio, 1 / ratio)
    return Trial(choice(name), 0.1 + lost, {"accuracy": lost}, 1000, times, size)


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

    def error(self, choice: Choice) -> float:
        recipe = choice.plan.recipe
        assert isinstance(recipe, CpuRecipe)
        return 0.1 if "down.1" in recipe.exclude else 3.1

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
        if recipe.precision != "int8-static":
            return {}
        return {"up.*": ["up.0", "up.1"], "down.*": ["down.0", "down.1"]}


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
    helped = {s.group: s for s in found.sensitivity}
    assert helped["down.*"].helps > 0.9
    assert helped["down.*"].excluded
    assert not helped["up.*"].excluded
    assert [s.group for s in found.sensitivity if s.excluded] == ["down.*", "down.1"]


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


# --- lock files -------------------------------------------------------------------------------


@pytest.fixture
def lock() -> Lock:
    return Lock(
        exporter="1", pins={"onnx": "1"}, cpu="c", seed=0, task="intent", share=0.05, max_tokens=16,
        model="0" * 64, data="1" * 64, evaluation=None, profile="p", profile_sha256="2" * 64,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"data": "3" * 64}, "data"),
        ({"pins": {"onnx": "2"}}, "pins.onnx"),
        ({"pins": {}}, "pins.onnx"),
        ({"profile_sha256": "3" * 64}, "profile_sha256"),
        ({"evaluation": "3" * 64}, "evaluation"),
    ],
)
def test_a_lock_of_another_export_is_refused(
    lock: Lock, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(LockError, match=f"--lock: {named} was"):
        check_same(lock, lock.model_copy(update=change))


def test_what_was_chosen_is_no_difference(lock: Lock) -> None:
    check_same(lock, lock)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_lock_or_an_error(tmp_path_factory: Any, raw: bytes) -> None:
    file = tmp_path_factory.mktemp("lock") / "lock.json"
    file.write_bytes(raw)
    with pytest.raises(LockError):
        read_lock(file)


def test_a_lock_file_that_is_none_is_refused(tmp_path: Path, lock: Lock) -> None:
    file = tmp_path / "lock.json"
    with pytest.raises(LockError, match="No such file"):
        read_lock(file)
    file.write_bytes(lock.to_bytes().replace(b'"seed"', b'"sead"'))
    with pytest.raises(LockError, match="seed"):
        read_lock(file)
    file.write_bytes(lock.to_bytes())
    assert read_lock(file) == lock
    with pytest.raises(LockError):
        read_lock(tmp_path)
    with pytest.raises(LockError):
        read_lock(Path("a\0b"))


# --- all of it, on the toy --------------------------------------------------------------------


@pytest.fixture
def job(toy_model: Path, orders: Path, tmp_path: Path) -> Job:
    return Job(
        task="intent",
        model=str(toy_model),
        data=orders,
        profile=detect_profile().name,
        name="toy",
        version=3,
        out=tmp_path / "made" / "export",
        share=0.05,
        allow_drop=True,
        tune_minutes=0.2,
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_tuned_export_can_be_had_again_from_its_lock(
    job: Job, stages: Stages, tmp_path: Path
) -> None:
    report = export(job, stages)
    tuned = json.loads((job.out / "tune.json").read_bytes())
    assert tuned["bundle"] == report["bundle"]
    [found] = tuned["searches"]
    names = [one["name"] for one in found["trials"]]
    assert found["picked"] in names
    assert found["why"] == report["tuned"]["cpu"]
    assert found["picked"] in found["why"]
    measured = [one for one in found["trials"] if one["problem"] is None]
    assert any(one["front"] for one in measured)
    table = render(found)
    assert any(line.startswith("*") and found["picked"] in line for line in table.splitlines())
    assert {"latency_ms", "messages_per_s", "size_bytes", "lost_points"} <= measured[0].keys()
    model = load_model(job.out / "bundle")
    assert model.answer(Request("please stop the pump")).label == "stop"
    for name, total in stages.totals.items():
        assert total is None or stages.steps[name] == total, name

    kept = tmp_path / "kept.json"
    kept.write_bytes((job.out / "lock.json").read_bytes())
    again = dataclasses.replace(job, out=tmp_path / "again", tune_minutes=None, lock=kept)
    export(again, Stages())
    assert bytes_of(again.out / "bundle") == bytes_of(job.out / "bundle")
    assert (again.out / "lock.json").read_bytes() == kept.read_bytes()
    assert not (again.out / "tune.json").exists()

    other = dataclasses.replace(again, seed=1)
    with pytest.raises(LockError, match="seed was 0, and is 1"):
        export(other, Stages())
    damaged = json.loads(kept.read_bytes())
    damaged["chosen"]["cpu"]["recipe"]["precision"] = "int3"
    kept.write_text(json.dumps(damaged))
    with pytest.raises(LockError, match=r"recipe\.precision"):
        export(again, Stages())


def test_what_was_tried_once_is_known(job: Job) -> None:
    export(job, Stages())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "_measure", lambda *_: pytest.fail("tried twice"))
        report = export(dataclasses.replace(job, seed=0), Stages())
    assert report["tuned"]


@pytest.mark.slow  # a process that imports all of the exporter
def test_ctrl_c_ends_the_search_and_not_the_export(job: Job, tmp_path: Path) -> None:
    argv = [
        *(sys.executable, "-m", "exporters.cli", "intent", "--model", job.model),
        *("--data", str(job.data), "--profile", job.profile, "--name", "toy", "--version", "1"),
        *("--out", str(job.out), "--allow-drop", "--tune"),
    ]
    trials = tmp_path / "cache" / "trials"
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not [*trials.glob("[0-9a-f]*/result.json")]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    [found] = json.loads((job.out / "tune.json").read_bytes())["searches"]
    assert not found["whole"]
    assert found["trials"]
    assert json.loads(out)["tuned"]["cpu"] in err.decode()


# --- what a device makes of it ----------------------------------------------------------------


def test_a_manifest_says_how_a_graph_is_opened(job: Job) -> None:
    export(dataclasses.replace(job, tune_minutes=None), Stages())
    bundle = open_bundle(job.out / "bundle")
    graph = bundle.of(bundle.manifest.variants()[0]).artifacts("graph")[0]
    assert cpu.options(graph).threads == 1
    settings = SessionSettings(threads=2, spinning=False, flush_denormals=True)
    options = cpu.options(graph.model_copy(update={"session": settings}))
    assert options.threads == 2
    assert options.config == {
        "session.intra_op.allow_spinning": "0",
        "session.set_denormal_as_zero": "1",
    }
