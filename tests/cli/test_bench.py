"""`edgeslm bench` measures what it says, in this process and in fresh ones, and keeps it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeslm.adapters import process
from edgeslm.cli import bench
from edgeslm.contract.measurement import MEASUREMENT, Measurement
from edgeslm.ports import Answer, Memory, Request
from edgeslm.runtime.batches import TOGETHER
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.model import Model, load_model
from tests.cli.conftest import Run
from tests.runtime import cascades, tiny

PARAMETERS = {
    "labels": tiny.LABELS,
    "threshold": 99.0,
    "reject_share": 0.05,
    "temperature": 1.0,
    "calibration": [0.0, 1.0],
}


@pytest.fixture
def intent(tmp_path: Path) -> Path:
    """A bundle of a task that fresh processes have too."""
    return write_intent(tmp_path / "intent", "pump hot", "valve")


def write_intent(folder: Path, *texts: str, **artifact: Any) -> Path:
    golden = [tiny.golden_line(text, label="red", score=0, confidence=0) for text in texts]
    return tiny.write_bundle(
        folder,
        task="intent",
        artifact=artifact,
        files={
            "parameters.json": json.dumps(PARAMETERS).encode(),
            "golden.jsonl": "\n".join(
                json.dumps({**line, "near_threshold": True}) for line in golden
            ).encode(),
        },
        tolerance={"score": 1e6, "confidence": 1.0, "verified": "none"},
    )


def test_measures_every_figure_and_keeps_them_beside_the_bundle(run: Run, intent: Path) -> None:
    done = run(
        *("bench", intent, "--seconds", "0.05", "--callers", "2", "--json"),
        *("--device", "press 7/a"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(Measurement.__annotations__) - {"handed_over"}, "it is no cascade"
    MEASUREMENT.validate_python(found, strict=True)
    assert [row["tokens"] for row in found["latency"]] == [8, tiny.MAX_TOKENS]
    for row in found["latency"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["bucket"] is None
        assert row["inferences"] >= 10
    assert found["callers"] == 2
    assert min(found[name] for name in ("load_ms", "cached_us", "one_caller_per_s")) > 0
    assert found["cold_start_ms"] > found["load_ms"], "a process starts before it loads"
    assert found["pss_mb"] > 10
    assert found["batched_per_s"] is None, "its rows are not said to be free of their batch"
    assert found["coverage"]["nodes"] == {"cpu": 2}
    kept = intent.parent / f"bench-{found['hash'][:12]}-press-7-a.json"
    assert json.loads(kept.read_bytes()) == found
    assert str(kept).encode() in done.stderr


def test_is_readable_without_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], intent: Path
) -> None:
    monkeypatch.setattr(bench, "_STARTS", 1)
    monkeypatch.setattr(bench, "energy_meter", lambda: Meter([1.0, 5.0]))
    monkeypatch.setattr(bench, "temperature_c", lambda: 41.25)
    assert bench.main([str(intent), "--seconds", "0.05"]) == 0
    shown = capsys.readouterr().out
    for part in ("cold start", "8 tokens", "answers/s", "from cache", "100.0% of the nodes"):
        assert part in shown
    assert "mJ an inference (test rail: " in shown
    assert "41.2 C" in shown


def test_says_so_where_the_folder_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], intent: Path
) -> None:
    monkeypatch.setattr(bench, "_STARTS", 1)
    monkeypatch.setattr(bench, "kept_as", lambda *_, **__: Path("/proc/bench.json"))
    assert bench.main([str(intent), "--seconds", "0.01", "--json"]) == 0
    said = capsys.readouterr()
    assert "/proc/bench.json is not written" in said.err
    json.loads(said.out)


def test_without_linux_memory_is_null_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    intent: Path,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(bench, "_STARTS", 1)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(process, "PROC", tmp_path / "proc")
    assert bench.main([str(intent), "--seconds", "0.01", "--device", "mac"]) == 0
    assert "memory        not told here" in capsys.readouterr().out
    [kept] = tmp_path.glob("bench-*-mac.json")
    found = json.loads(kept.read_bytes())
    MEASUREMENT.validate_python(found, strict=True)
    assert found["pss_mb"] is None
    assert found["cores"] == found["callers"] == os.cpu_count()


def test_batches_are_those_of_the_agents_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sizes = []
    answer_all = Model.answer_all

    def spy(
        model: Model, requests: Sequence[Request], memory: Memory | None = None
    ) -> list[Answer | Exception]:
        sizes.append(len(requests))
        return answer_all(model, requests, memory)

    monkeypatch.setattr(bench, "_STARTS", 1)
    monkeypatch.setattr(Model, "answer_all", spy)
    folder = write_intent(tmp_path / "b", "pump hot", "valve", batch_invariant=True)
    found = bench.measure(folder, profile=None, device="d", callers=2, seconds=0.05)
    assert found["batched_per_s"] is not None
    assert found["batched_per_s"] > 0
    assert set(sizes) == {2, TOGETHER}, "the golden file's two texts, and then full turns"
    assert bench.main([str(folder), "--seconds", "0.01"]) == 0
    assert "answers/s, as many texts at a time" in capsys.readouterr().out


def test_there_are_no_batches_where_this_machine_disproves_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The graph takes the mean over padding too, whatever its manifest says."""
    monkeypatch.setattr(bench, "_STARTS", 1)
    texts = ("pump hot stuck cold", "valve hot stuck cold red")
    folder = write_intent(tmp_path / "b", *texts, batch_invariant=True)
    assert bench.main([str(folder), "--seconds", "0.01"]) == 0
    assert "in batches    never" in capsys.readouterr().out


def test_a_text_that_fails_in_a_batch_is_no_throughput(intent: Path) -> None:
    model = load_model(intent, cache_entries=0)

    def fail(requests: Sequence[Request], memory: Memory | None = None) -> list[Answer | Exception]:
        del memory
        return [ValueError("x") for _ in requests]

    model.answer_all = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="x"):
        bench._per_second(model, requests=[Request("a")], callers=2, seconds=0.01, together=2)  # noqa: SLF001


def test_clock_and_temperature_before_are_of_a_machine_at_rest(
    monkeypatch: pytest.MonkeyPatch, intent: Path
) -> None:
    done: list[str] = []

    def look() -> float:
        done.append("look")
        return 40.0

    def load(*args: Any, **kwargs: Any) -> Model:
        done.append("load")
        return load_model(*args, **kwargs)

    monkeypatch.setattr(bench, "_STARTS", 1)
    monkeypatch.setattr(bench, "temperature_c", look)
    monkeypatch.setattr(bench, "load_model", load)
    bench.measure(intent, profile=None, device="d", callers=1, seconds=0.01)
    assert done == ["look", "load", "load", "load", "look"]


def test_of_a_cascade_it_says_who_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its answers take as long as who gives them: a time without that says nothing."""
    monkeypatch.setattr(bench, "_STARTS", 1)
    folder = cascades.write_cascade(tmp_path / "both")
    assert bench.main([str(folder), "--seconds", "0.01", "--device", "d"]) == 0
    [kept] = tmp_path.glob("bench-*-d.json")
    found = MEASUREMENT.validate_python(json.loads(kept.read_bytes()), strict=True)
    model = load_model(folder)
    stages = [model.answer(Request(text)).stage for text in cascades.TEXTS]
    share = stages.count("second") / len(stages)
    assert 0 < share < 1
    assert found["handed_over"] == pytest.approx(share)
    assert {row["stage"] for row in found["latency"]} <= {"first", "second"}
    shown = capsys.readouterr().out
    assert f"handed over   {share:.0%}" in shown
    assert f", by the {found['latency'][0]['stage']} stage" in shown


@pytest.mark.slow
def test_another_variant_is_measured_and_kept_by_itself(run: Run, intent: Path) -> None:
    name_variants(intent, "int8", "fp32")
    assert run("bench", intent, "--seconds", "0.01", "--device", "d").returncode == 0
    words = ("bench", intent, "--seconds", "0.01", "--device", "d", "--json", "--variant", "fp32")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    stem = f"bench-{found['hash'][:12]}-d"
    assert {
        file.name: json.loads(file.read_bytes())["variant"]
        for file in intent.parent.glob("bench-*.json")
    } == {f"{stem}.json": "int8", f"{stem}+fp32.json": "fp32"}


@pytest.mark.parametrize("command", ["bench", "infer"])
def test_an_unknown_variant_is_an_error_that_names_the_others(
    command: str, run: Run, intent: Path
) -> None:
    done = run(command, intent, "--variant", "fp8")
    assert (done.returncode, b"'fp8'; it has one, without a name" in done.stderr) == (65, True)
    name_variants(intent, "int8", "fp32")
    done = run(command, intent, "--variant", "fp8")
    assert (done.returncode, b"no variant 'fp8'; it has int8, fp32" in done.stderr) == (65, True)


@pytest.mark.parametrize(
    ("device", "name"),
    [("press-7", "press-7"), ("../../etc", "etc"), ("..", "local"), ("a" * 99, "a" * 64)],
)
def test_a_device_of_any_name_stays_beside_the_bundle(
    device: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "bundle")
    measured: Any = {"hash": "0123456789abcdef", "device": device}
    kept = bench.kept_as(tmp_path / "link", measured)
    assert kept == tmp_path / f"bench-0123456789ab-{name}.json"
    assert bench.kept_as(tmp_path / "link", measured, variant="v").stem == f"{kept.stem}+v"


def test_graphs_of_fixed_length_are_measured_one_by_one(
    monkeypatch: pytest.MonkeyPatch, intent: Path
) -> None:
    monkeypatch.setattr(bench, "_STARTS", 1)
    bucketed(intent, (4, 8))
    found = bench.measure(intent, profile=None, device="d", callers=1, seconds=0.01)
    assert [(row["bucket"], row["tokens"]) for row in found["latency"]] == [(4, 4), (8, 8)]


def name_variants(bundle: Path, first: str, *others: str) -> None:
    """Give the graph's variant a name, and add others that are like it."""
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    graph = manifest["artifacts"][0]
    graph["variant"] = first
    for name in others:
        path = bundle / f"{name}.onnx"
        path.write_bytes((bundle / graph["path"]).read_bytes())
        manifest["artifacts"].append({**graph, "path": path.name, "variant": name})
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def bucketed(bundle: Path, lengths: Sequence[int]) -> None:
    """Put a graph of each length in the place of that which takes any."""
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    first, *rest = manifest["artifacts"]
    graphs = []
    for length in lengths:
        path = bundle / f"model-{length}.onnx"
        model = onnx.load(bundle / "model.onnx", load_external_data=False)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[1].dim_value = length
        onnx.save(model, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        inputs = [{"name": "input_ids", "dtype": "int64", "shape": ["batch", length]}]
        size = path.stat().st_size
        graphs.append(
            {**first, "path": path.name, "size": size, "sha256": digest, "inputs": inputs}
        )
    (bundle / "model.onnx").unlink()
    manifest["artifacts"] = graphs + rest
    (bundle / MANIFEST).write_text(json.dumps(manifest))


class Meter:
    """Implements `edgeslm.adapters.meters.EnergyMeter`: so many joules a call."""

    name = "test rail"

    def __init__(self, joules: list[float]) -> None:
        self._joules = joules

    def joules(self, work: Callable[[], None]) -> float:
        work()
        if not self._joules:
            raise OSError
        return self._joules.pop(0)


def test_energy_is_what_the_counter_says_or_null(intent: Path) -> None:
    model, requests = load_model(intent, cache_entries=0), [Request("pump")]
    spent = bench.energy(Meter([0.5, 2.0]), model, requests, 0.1)
    assert spent is not None
    assert spent["idle_w"] == pytest.approx(5.0)
    assert 0 < spent["busy_w"] <= 20
    assert spent["mj_per_inference"] * spent["inferences"] == pytest.approx(2000)
    assert bench.energy(None, model, requests, 0.1) is None
    assert bench.energy(Meter([0.5]), model, requests, 0.1) is None, "it fell silent"


def test_a_process_that_does_not_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, intent: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(bench.BenchFailedError):
        bench.measure(intent, profile=None, device="d", callers=1, seconds=0.01)
