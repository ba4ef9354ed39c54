"""`edgeslm bundle verify` and `inspect`: what a device would say of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.runtime import tiny


def test_verify_says_what_it_checked(run: Run, bundle: Path) -> None:
    done = run("bundle", "verify", bundle)
    assert done.returncode == 0
    assert b"5 of" in done.stdout
    assert b"100.0% of its nodes on cpu" in done.stdout
    found = json.loads(run("bundle", "verify", bundle, "--json").stdout)
    assert (found["golden_cases"], found["node_share"], found["files"]) == (1, 1.0, 5)


def test_verify_replays_the_golden_file_every_time(run: Run, tmp_path: Path) -> None:
    line = json.dumps(tiny.golden_line("pump", label="red", score=99, confidence=0.5))
    wrong = tiny.write_bundle(tmp_path / "wrong", files={"golden.jsonl": line.encode()})
    for _ in range(2):
        done = run("bundle", "verify", wrong)
        assert done.returncode == 65
        assert b"1 of 1 golden cases differ" in done.stderr
        assert b"[golden.failed]" in done.stderr


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_what_is_no_bundle_is_refused(command: str, run: Run, tmp_path: Path) -> None:
    done = run("bundle", command, tmp_path)
    assert done.returncode == 65
    assert b"[bundle.missing]" in done.stderr


def test_inspect_shows_the_manifest_and_the_quality_beside_it(run: Run, bundle: Path) -> None:
    (bundle.parent / "quality.json").write_text(json.dumps({"int8": {"accuracy": 0.95}, "n": 3}))
    shown = run("bundle", "inspect", bundle).stdout.decode()
    for part in ("tiny 1: double", "model.onnx.data", "accuracy: 0.95", "on this one  model.onnx"):
        assert part in shown
    found = json.loads(run("bundle", "inspect", bundle, "--json").stdout)
    assert found["manifest"]["name"] == "tiny"
    assert found["quality"]["int8"]["accuracy"] == 0.95
    assert (found["runs_here"], found["why_not"]) == ("model.onnx", None)


@pytest.mark.parametrize(
    ("until", "shown"),
    [
        ("2999-12-31", "  supported    until 2999-12-31\n"),
        ("2020-02-29", "  supported    until 2020-02-29, which is over\n"),
        (None, ""),
    ],
)
def test_inspect_says_until_when_somebody_answers_for_it(
    run: Run, tmp_path: Path, until: str | None, shown: str
) -> None:
    bundle = tiny.write_bundle(tmp_path / "promised", supported_until=until)
    said = run("bundle", "inspect", bundle).stdout.decode()
    assert shown in said
    assert ("supported" in said) == bool(shown)


def test_inspect_says_why_a_bundle_does_not_run_here(run: Run, tmp_path: Path) -> None:
    artifact = {"requires": {"arch": "riscv64"}}
    other = tiny.write_bundle(tmp_path / "other", artifact=artifact)
    done = run("bundle", "inspect", other, "--json")
    assert done.returncode == 0
    assert "needs riscv64" in json.loads(done.stdout)["why_not"]


def test_inspect_shows_no_control_characters(run: Run, tmp_path: Path) -> None:
    source = {"source": "\x1b[2J\rfree", "sha256": "0" * 64}
    hostile = tiny.write_bundle(tmp_path / "hostile", base_model=source)
    (tmp_path / "quality.json").write_text(json.dumps({"a\x1b[1m": [{"b": "\x07"}]}))
    shown = run("bundle", "inspect", hostile).stdout
    assert b"free" in shown
    assert not {0x1B, 0x0D, 0x07} & set(shown)


IDLE = {"provider": "idle", "verified": "static"}  # tests/runtime/providers/idle.py


def test_what_falls_to_the_cpu_is_told_by_every_command(run_idle: Run, tmp_path: Path) -> None:
    idle = tiny.write_bundle(tmp_path / "idle", artifact=IDLE)
    verified = run_idle("bundle", "verify", idle)
    assert verified.returncode == 0
    for part in (b"0 of 2 nodes on idle, in 0 pieces", b"1 Gather: not taken", b"static (checked"):
        assert part in verified.stdout
    found = json.loads(run_idle("bundle", "verify", idle, "--json").stdout)
    assert (found["verified"], found["node_share"]) == ("static", 0)
    assert found["coverage"]["model.onnx"]["nodes"] == 2
    answered = run_idle("infer", idle, stdin=b"pump\n")
    assert answered.returncode == 0
    assert b"note: 0 of 2 nodes on idle" in answered.stderr
    assert len(answered.stdout.splitlines()) == 1


def test_a_bundle_that_asks_for_more_than_the_provider_takes_is_refused(
    run_idle: Run, tmp_path: Path
) -> None:
    asked = {**IDLE, "placement": {"min_coverage": 0.98}}
    done = run_idle("bundle", "verify", tiny.write_bundle(tmp_path / "asked", artifact=asked))
    assert done.returncode == 65
    assert b"98.0% are asked for" in done.stderr
    assert b"[coverage.missed]" in done.stderr


def test_inspect_shows_what_the_exporter_saw(run: Run, tmp_path: Path) -> None:
    fallen = {"operator": "Erf", "count": 3, "why": "not on its list"}
    coverage = {
        "nodes": 10, "nodes_taken": 7, "operations": 2_000_000, "operations_taken": 1_000_000,
        "partitions": 2, "fallen": [fallen],
    }  # fmt: skip
    artifact = {"verified": "emulated", "coverage": coverage}
    shown = run("bundle", "inspect", tiny.write_bundle(tmp_path / "e", artifact=artifact)).stdout
    for part in (
        b"model.onnx: verified emulated (run on its emulator)",
        b"7 of 10 nodes on cpu, in 2 pieces; 50.0% of about 2 M multiply-adds",
        b"3 Erf: not on its list",
    ):
        assert part in shown
