"""`python -m benchmarks` as a stranger meets it: without data, with wrong words."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.figures import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
UNAVAILABLE, USAGE, INTERRUPTED = 75, 2, 130


def benchmarks(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EDGESLM_")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *args],
        cwd=ROOT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_list_names_every_figure() -> None:
    done = benchmarks("--list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(BY_NAME)


def test_without_data_it_says_where_data_come_from() -> None:
    done = benchmarks("snips-accuracy", "--json")
    assert (done.returncode, done.stdout) == (UNAVAILABLE, "")
    assert "--data DIR" in done.stderr
    assert "EDGESLM_CASES" in done.stderr
    assert "docs/benchmarks.md" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_folder_that_is_not_there_is_named(by: str) -> None:
    where = "/nowhere/cases"
    if by == "option":
        done = benchmarks("snips-accuracy", "--data", where)
    else:
        done = benchmarks("snips-accuracy", EDGESLM_CASES=where)
    assert done.returncode == UNAVAILABLE
    assert where in done.stderr


@pytest.mark.parametrize("name", ["snips-accuracy", "bgl-f1", "throughput-cold", "latency"])
def test_a_case_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    done = benchmarks(name, "--json", "--data", str(tmp_path))
    assert (done.returncode, done.stdout) == (UNAVAILABLE, "")
    assert str(tmp_path) in done.stderr
    assert ".jsonl: missing" in done.stderr
    assert "[benchmarks.data_missing]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_it_ends_what_it_started(tmp_path: Path, by: signal.Signals) -> None:
    case = tmp_path / "plant-traffic"
    case.mkdir()
    line = json.dumps({"text": "motor temp=72.4 C " * 20}) + "\n"
    (case / "lines.jsonl").write_text(line * 50_000)  # many seconds of splitting
    argv = [sys.executable, "-m", "benchmarks", "split-cost", "--data", str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (children := psutil.Process(process.pid).children(recursive=True)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(by)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == INTERRUPTED
    assert "interrupted" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("no-such-figure",),
        ("latency", "--all"),
        ("latency", "--quick", "--write", "README.md"),
        ("--all", "--quick", "--write", "README.md"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_measured(args: tuple[str, ...]) -> None:
    done = benchmarks(*args)
    assert done.returncode == USAGE
    assert "usage: python -m benchmarks" in done.stderr
