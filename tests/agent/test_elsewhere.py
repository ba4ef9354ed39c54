"""What serves on Linux serves on macOS: every command, without what Linux alone has."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.conftest import MakeAgent
from tests.agent.kit import Plant, poll
from tests.runtime import tiny

ELSEWHERE = Path(__file__).parent / "elsewhere.py"


@pytest.mark.broker
def test_the_agent_serves(
    make_agent: MakeAgent, plant: Plant, brittle: Path, tmp_path: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
        state_interval_s=1,
    )
    agent.script = ELSEWHERE
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        agent.env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        agent.start()
        assert manager.recv(100).startswith(b"READY=1")
    plant.publish("in/a", "four")
    assert plant.wait_for(1)[0]["score"] == 4
    poll(lambda: plant.last["state"]["models"][0]["answered"] == 1, "counted")
    assert plant.last["state"]["rss_mb"] > 10
    agent.stop()


@pytest.mark.parametrize("words", [("infer", "bundle"), ("doctor", "--json")], ids=lambda w: w[0])
def test_commands_answer(words: tuple[str, str], tmp_path: Path) -> None:
    tiny.write_bundle(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, ELSEWHERE, *words],
        input=b"pump hot\n",
        capture_output=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
