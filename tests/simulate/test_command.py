"""The command, and brokers that let each device touch its own topics alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.contract.brokers import Broker
from edgeslm.contract.topics import DEFAULT_ROOT
from edgeslm.core.rollout import State
from edgeslm.fleet.broker_config import Access, acl_file
from edgeslm.fleet.repository import Repository
from tests.fleet.service import kit
from tests.mosquitto import Mosquitto
from tests.simulate import play as playing
from tests.simulate.conftest import Play

pytestmark = pytest.mark.broker
SCENARIO = 'model = "press"\nstart_s = 0\n[[group]]\nname = "all"\n'


def command(*args: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "edgeslm", "fleet", "simulate", *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def test_it_plays_for_so_long_and_reports_what_devices_saw(
    service: kit.Running, repository: Repository, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    del service
    scenario, report = tmp_path / "scenario.toml", tmp_path / "report.json"
    scenario.write_text(SCENARIO)
    done = command(
        *("--broker", f"127.0.0.1:{mosquitto.port}", "--repository", repository.folder),
        *("--scenario", scenario, "--devices", "3", "--seconds", "4", "--report", report),
    )
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)
    assert totals["versions"] == {"1": 3}
    found = json.loads(report.read_bytes())
    assert found["totals"] == totals
    assert [device["connections"] for device in found["devices"].values()] == [1, 1, 1]


def test_a_wrong_scenario_or_root_is_told(repository: Repository, tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(SCENARIO + "cuont = 3\n")
    common = ("--broker", "127.0.0.1:1", "--scenario", scenario)
    wrong = command(*common, "--repository", repository.folder)
    assert wrong.returncode == 78
    assert "group.0.cuont: unknown key" in wrong.stderr
    scenario.write_text(SCENARIO)
    without = command(*common, "--repository", tmp_path)
    assert without.returncode == 78
    assert "1.root.json" in without.stderr


def test_each_device_needs_its_own_topics_alone(
    repository: Repository, mosquitto: Mosquitto, play: Play, tmp_path: Path
) -> None:
    mosquitto.stop()
    acl = tmp_path / "acl"
    # Whoever has no name is the service; devices have their ids.
    acl.write_text("topic readwrite #\n\n" + acl_file(Access(DEFAULT_ROOT)))
    mosquitto.configure(f"allow_anonymous true\nacl_file {acl}")
    mosquitto.start()
    running = kit.Running(repository, f"sqlite:///{tmp_path / 'own.db'}", mosquitto.port)
    try:
        named = Broker(host="127.0.0.1", port=mosquitto.port, username="%u")
        played = play(playing.scenario(), 5, broker=named)
        kit.registered(running.engine, 5)
        number = kit.start(running.engine, repository, kit.plan(waves=["100%"]))
        assert kit.ended(running.engine, number) is State.COMPLETED
        assert not any(record.lost for record in played.simulation.records.values())
    finally:
        running.stop()
