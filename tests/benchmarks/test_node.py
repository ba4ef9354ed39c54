"""The rival in Node.js: pinned, installed once, skipped with a reason, and as right as we are."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks import __main__ as main
from benchmarks import contestants, isolation
from benchmarks.broker import Broker
from benchmarks.errors import MissingToolError
from benchmarks.groups import node
from benchmarks.machine import ROOT
from benchmarks.rivals.bare import Bare
from benchmarks.setup import Setup
from edgeslm.demo.broker import find_mosquitto

RIVAL = ROOT / "benchmarks" / "rivals" / "node"
KEPT = ROOT / ".cache" / "benchmarks"


def setup_in(folder: Path, cache: Path) -> Setup:
    return Setup(folder, folder, cache, frozenset({"node-plant"}), quick=True, tell=lambda _: None)


def test_every_package_is_pinned_to_the_byte() -> None:
    package = json.loads((RIVAL / "package.json").read_text())
    lock = json.loads((RIVAL / "package-lock.json").read_text())["packages"]
    wanted = package["dependencies"]
    assert wanted == lock[""]["dependencies"]
    for name, version in wanted.items():
        assert lock[f"node_modules/{name}"]["version"] == version  # no range
    assert all(entry.get("integrity") for path, entry in lock.items() if path)


def test_without_node_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingToolError, match=r"Node\.js 20"):
        node.installed(setup_in(tmp_path, tmp_path))


def test_without_a_registry_nothing_half_installed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(argv: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 1, "", "npm error network down\nsee a log\n")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(MissingToolError, match="npm error network down"):
        node.installed(setup_in(tmp_path, tmp_path / "cache"))
    assert list((tmp_path / "cache" / "node").iterdir()) == []


def test_a_missing_tool_skips_its_figures_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        msg = "needs Node.js"
        raise isolation.GroupFailedError(msg, MissingToolError.code, 75)

    monkeypatch.setattr(isolation, "measure", missing)
    assert main.main(["node-plant", "--data", str(tmp_path)]) == 75
    out, err = capsys.readouterr()
    assert out == ""
    assert "node: skipped: needs Node.js [benchmarks.tool_missing]" in err


@pytest.mark.broker
@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
@pytest.mark.skipif(
    not any((KEPT / "node").glob("*/node_modules")), reason="the rival is not installed yet"
)
def test_it_answers_as_the_model_does(intent_bundle: Path, tmp_path: Path) -> None:
    service = node.installed(setup_in(tmp_path, KEPT))
    texts = ["please start press 4", "Wann geht's weiter? \N{DEGREE SIGN}C", "long " * 200]
    bare = Bare(intent_bundle, threads=1)
    results: list[dict[str, float]] = []
    with Broker(tmp_path / "broker") as broker:
        rival = contestants.node(service, intent_bundle)
        with contestants.running(rival, broker, tmp_path, probe="hello") as run:
            client = paho.Client(CallbackAPIVersion.VERSION2)
            client.on_message = lambda _c, _u, m: results.append(json.loads(m.payload))
            client.connect("127.0.0.1", broker.port)
            client.subscribe(run.out, qos=1)
            client.loop_start()
            for text in texts:
                client.publish(contestants.TOPIC, text, qos=1)
            deadline = time.monotonic() + 30
            while len(results) < len(texts) and time.monotonic() < deadline:
                time.sleep(0.01)
            client.disconnect()
            client.loop_stop()
    expected = [bare.answer(text) for text in texts]
    assert [r["label"] for r in results] == [e["label"] for e in expected]
    for found, wanted in zip(results, expected, strict=True):
        assert found["confidence"] == pytest.approx(wanted["confidence"], abs=0.02)
