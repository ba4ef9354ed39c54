"""`edgeslm bench` measures what it says, in this process and in fresh ones, and keeps it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest

from edgeslm.cli import bench
from edgeslm.contract.measurement import MEASUREMENT, Measurement
from edgeslm.ports import Request
from edgeslm.runtime.bundle import MANIFEST
from edgeslm.runtime.model import load_model
from tests.cli.conftest import Run
from tests.runtime import tiny

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
    golden = [
        tiny.golden_line(text, label="red", score=0, confidence=0) for text in ("pump hot", "valve")
    ]
    return tiny.write_bundle(
        tmp_path / "intent",
        task="intent",
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
    assert set(found) == set(Measurement.__annotations__)
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
    monkeypatch.setattr(bench, "kept_as", lambda *_: Path("/proc/bench.json"))
    assert bench.main([str(intent), "--seconds", "0.01", "--json"]) == 0
    said = capsys.readouterr()
    assert "/proc/bench.json is not written" in said.err
    json.loads(said.out)


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


def test_graphs_of_fixed_length_are_measured_one_by_one(
    monkeypatch: pytest.MonkeyPatch, intent: Path
) -> None:
    monkeypatch.setattr(bench, "_STARTS", 1)
    bucketed(intent, (4, 8))
    found = bench.measure(intent, profile=None, device="d", callers=1, seconds=0.01)
    assert [(row["bucket"], row["tokens"]) for row in found["latency"]] == [(4, 4), (8, 8)]


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
