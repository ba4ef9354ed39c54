"""Exports with --tune: lock files, budgets, and that what was chosen can be had again."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgeslm
from edgeslm.contract.manifest import SessionSettings
from edgeslm.ports import Request, SessionOptions
from edgeslm.providers import cpu, openvino
from edgeslm.runtime.bundle import open_bundle
from edgeslm.runtime.model import Model, load_model
from edgeslm.runtime.profiles import detect_profile, load_profile
from exporters.budget import OverBudgetError
from exporters.cpu_recipe import CpuRecipe, apply
from exporters.export import Job, export
from exporters.openvino_recipe import OpenVinoRecipe
from exporters.targets.base import Feeds
from exporters.tune import trial
from exporters.tune.lock import Lock, LockError, check_same, read_lock
from exporters.tune.openvino import OpenVinoTunable
from exporters.tune.table import render
from exporters.tune.trial import Lab
from tests.exporters.attention import attention_graph
from tests.exporters.conftest import WORDS, Stages

pytestmark = pytest.mark.usefixtures("own_cache")

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
        tune_minutes=0.1,
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


def test_what_was_tried_is_tried_again_where_the_runtime_has_changed() -> None:
    """Answers and batches are its."""
    runtime = Path(edgeslm.__file__).parent / "runtime" / "batches.py"
    assert {runtime.read_bytes(), Path(trial.__file__).read_bytes()} <= set(trial.code())


@pytest.mark.slow
def test_a_search_tells_what_int8_costs_and_tries_nothing_twice(job: Job) -> None:
    job = dataclasses.replace(job, tune_minutes=2.0)  # enough for all there is to try
    export(job, Stages())
    [found] = json.loads((job.out / "tune.json").read_bytes())["searches"]
    assert found["whole"]
    precision = {one["name"]: one["precision"] for one in found["trials"]}
    looked = {precision[one["recipe"]] for one in found["sensitivity"]}
    assert looked == {"int8-dynamic", "int8-static"}
    for one in found["sensitivity"]:
        assert {"points_with", "points_without", "error_with", "error_without"} <= one.keys()
        assert min(one["points_with"], one["points_without"]) >= 0
    assert "What int8 costs" in (job.out / "report.html").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "_measure", lambda *_: pytest.fail("tried twice"))
        patch.setattr(Lab, "_judge", lambda *_: pytest.fail("looked into twice"))
        report = export(job, Stages())
    assert report["tuned"]


_PROFILE = """\
name = "small"
description = "a test's"
providers = ["{provider}"]
max_tokens = 16
[requires]
[gate]
accuracy_drop_max = 100.0
{more}
"""


def profile(job: Job, provider: str, more: str) -> Job:
    file = job.out.parent.parent / f"{provider}.toml"
    file.write_text(_PROFILE.format(provider=provider, more=more))
    return dataclasses.replace(job, profile=str(file))


@pytest.fixture
def five_ms(job: Job) -> Job:
    """For a device that has budget for 5 ms, which any text of the toy's takes less than."""
    return profile(job, "cpu", "[cpu.int8]\nreduce_range = false\n[budget]\nlatency_ms = 5.0")


@pytest.mark.slow
def test_a_search_keeps_the_budget_as_the_export_will_measure_it(
    five_ms: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def took(model: Model, requests: list[Request]) -> float:
        assert len(requests) > 5
        return 9.0 if model.variant == "cpu-int8-dynamic" else 1.0

    for module in ("tune.trial", "variant"):
        monkeypatch.setattr(f"exporters.{module}.latency_ms", took)
    export(five_ms, Stages())
    [found] = json.loads((five_ms.out / "tune.json").read_bytes())["searches"]
    fits = {one["name"]: one["fits"] for one in found["trials"]}
    dynamic = [one for one in found["trials"] if one["precision"] == "int8-dynamic"]
    for one in dynamic:
        assert one["latency_ms"] < 5.0 < one["nominal_latency_ms"]
        assert not one["fits"]
    assert dynamic
    assert fits[found["picked"]]


@pytest.mark.slow
def test_a_pick_that_the_export_finds_too_slow_gives_way(
    five_ms: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([9.0])
    monkeypatch.setattr("exporters.variant.latency_ms", lambda *_: next(times, 1.0))
    export(five_ms, Stages())
    monkeypatch.setattr("exporters.variant.latency_ms", lambda *_: 9.0)
    with pytest.raises(OverBudgetError, match="9 ms"):
        export(five_ms, Stages())


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


# --- recipes of their own ---------------------------------------------------------------------


def test_sixteen_bits_are_for_what_leads_out_of_gelu_alone() -> None:
    random = np.random.default_rng(0)
    ones = np.ones((1, 8), np.int64)
    texts: list[Feeds] = [
        {"input_ids": random.integers(0, len(WORDS), (1, 8)), "attention_mask": ones}
        for _ in range(16)
    ]
    recipe = CpuRecipe(precision="int8-static", gelu_bits=16)
    made = apply(recipe, attention_graph(len(WORDS)), lambda n: texts[:n])
    wide = [t.name for t in made.graph.initializer if t.data_type == onnx.TensorProto.UINT16]
    assert wide == ["gelu_zero_point"]
    assert any(t.data_type == onnx.TensorProto.UINT8 for t in made.graph.initializer)


@pytest.mark.slow
def test_openvino_s_recipes_are_searched_where_it_runs(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONNX Runtime's own kernels stand in for the plug-in, which takes Intel's devices alone."""
    found_here = SessionOptions("openvino", "CPUExecutionProvider")
    monkeypatch.setattr(openvino, "problem", lambda: None)
    monkeypatch.setattr(openvino, "runtime", lambda: "1")
    monkeypatch.setattr(openvino, "on", lambda _: found_here)
    model = tmp_path / "attention.onnx"
    onnx.save(attention_graph(len(WORDS) + 1), model)
    tokenizer = Path(job.model).parent / "tokenizer.json"
    job = dataclasses.replace(job, model=str(model), tokenizer=tokenizer, tune_minutes=2.0)
    job = profile(job, "openvino", '[openvino]\ndevice = "CPU"')
    report = export(job, Stages())
    [found] = json.loads((job.out / "tune.json").read_bytes())["searches"]
    assert found["whole"]
    assert found["why"] == report["tuned"]["openvino"]
    assert [one["problem"] for one in found["trials"]] == [None] * len(found["trials"])
    recipes = [OpenVinoRecipe.model_validate(t["recipe"], strict=False) for t in found["trials"]]
    assert recipes[0] == OpenVinoRecipe(reduce_range=True), "the profile's own"
    assert {(r.gelu, r.symmetric) for r in recipes} == {
        (gelu, symmetric) for gelu in (False, True) for symmetric in (False, True)
    }
    assert all(recipe.reduce_range for recipe in recipes), "sums of 8 bits saturate without VNNI"
    assert {one["group"] for one in found["sensitivity"]} >= {"vectors", "q_flat", "wide"}
    kept = tmp_path / "kept.json"
    kept.write_bytes((job.out / "lock.json").read_bytes())
    again = dataclasses.replace(job, out=tmp_path / "again", tune_minutes=None, lock=kept)
    export(again, Stages())
    assert bytes_of(again.out / "bundle") == bytes_of(job.out / "bundle")


@pytest.mark.parametrize(
    ("name", "bits"), [("generic-openvino", {7}), ("intel-core-ultra", {7, 8})]
)
def test_eight_bits_are_tried_where_no_sum_saturates(name: str, bits: set[int]) -> None:
    choices = OpenVinoTunable().choices(load_profile(name))
    recipes = [choice.plan.recipe for choice in choices]
    assert len({choice.name for choice in choices}) == len(choices) == 4 * len(bits)
    assert {7 if r.reduce_range else 8 for r in recipes if isinstance(r, OpenVinoRecipe)} == bits
    assert choices[0].plan.lengths == ((16, 32, 64, 128) if name == "intel-core-ultra" else ())


def test_where_openvino_does_not_run_nothing_is_searched(job: Job, tmp_path: Path) -> None:
    model = tmp_path / "attention.onnx"
    onnx.save(attention_graph(len(WORDS) + 1), model)
    tokenizer = Path(job.model).parent / "tokenizer.json"
    job = dataclasses.replace(job, model=str(model), tokenizer=tokenizer)
    job = profile(job, "openvino", '[openvino]\ndevice = "NPU"\nbuckets = [16]')
    cautions = export(job, Stages())["cautions"]
    assert "nothing to search for openvino: it cannot run here" in cautions


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
