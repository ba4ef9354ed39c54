"""`edgeslm bench` measures what it says, in this process and in fresh ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgeslm.cli import bench
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


def test_measures_every_figure(run: Run, intent: Path) -> None:
    done = run("bench", intent, "--seconds", "0.05", "--callers", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(bench.Measured.__annotations__)
    assert [row["tokens"] for row in found["latency"]] == [8, tiny.MAX_TOKENS]
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in found["latency"])
    assert found["callers"] == 2
    assert min(found[name] for name in ("load_ms", "cached_us", "one_caller_per_s")) > 0
    assert found["cold_start_ms"] > found["load_ms"], "a process starts before it loads"
    assert found["pss_mb"] > 10


def test_is_readable_without_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], intent: Path
) -> None:
    monkeypatch.setattr(bench, "_STARTS", 1)
    assert bench.main([str(intent), "--seconds", "0.05"]) == 0
    shown = capsys.readouterr().out
    for part in ("cold start", "8 tokens", "answers/s", "from cache", "100.0% of the nodes"):
        assert part in shown


def test_a_process_that_does_not_answer_is_an_error(
    monkeypatch: pytest.MonkeyPatch, intent: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(bench.BenchFailedError):
        bench.measure(intent, callers=1, seconds=0.01)
