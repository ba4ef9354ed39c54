"""A race over a real broker counts what arrives, and says so when it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import contestants
from benchmarks.broker import Broker
from benchmarks.errors import MissingToolError, RunFailedError
from edgeslm.demo.broker import find_mosquitto

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed"),
]
LINES = 300


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path / "broker") as started:
        yield started


@pytest.fixture
def load(tmp_path: Path) -> Path:
    path = tmp_path / "load.txt"
    path.write_text("".join(f"motor temp={n} \N{DEGREE SIGN}C\n" for n in range(LINES)), "utf-8")
    return path


def test_every_line_is_answered_and_counted(broker: Broker, load: Path, tmp_path: Path) -> None:
    with contestants.running(contestants.echo(), broker, tmp_path, probe="hello") as run:
        assert run.first_s > 0
        for _ in range(2):
            taken = broker.flow(load, into=contestants.TOPIC, out=run.out, count=LINES, within_s=30)
            assert 0 < taken < 30


def test_results_that_do_not_come_are_missed(broker: Broker, load: Path) -> None:
    with pytest.raises(RunFailedError, match=f"0 of {LINES} results"):
        broker.flow(load, into="a", out="b", count=LINES, within_s=0.3)


def test_a_contestant_that_ends_is_quoted(broker: Broker, tmp_path: Path) -> None:
    broken = [sys.executable, "-c", "raise SystemExit('no model here')"]
    with (
        pytest.raises(RunFailedError, match="no model here"),
        contestants.running(lambda _b, f: (broken, f.name), broker, tmp_path, probe="hello"),
    ):
        pass


def test_without_mosquitto_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.broker.find_mosquitto", lambda: None)
    with pytest.raises(MissingToolError, match="make mosquitto"):
        Broker(tmp_path / "broker")


@pytest.mark.parametrize("group", ["throughput", "footprint"])
def test_what_weighs_loads_nothing_that_it_weighs(group: str) -> None:
    """Pages shared with the weighed process would be counted by halves."""
    heavy = "{'numpy', 'onnxruntime', 'tokenizers', 'sklearn', 'torch'}"
    code = f"import sys, benchmarks.groups.{group}; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
