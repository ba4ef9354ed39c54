"""Fleet, broker, agent and updater, all real, each in a process or thread of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeslm.contract.fleet import DeviceConfig
from edgeslm.fleet.served import ServedRepository
from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll
from tests.fleet import kit
from tests.fleet.served import Running
from tests.mosquitto import Mosquitto
from tests.runtime.cascades import CONFIDENCE, TEXTS, seal, write_cascade
from tests.updater.whole import DEVICE, MODEL, Fleet, large_bundle

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]
WITHIN_S = 60.0


class UpdaterProcess(AgentProcess):
    """`edgeslm updater`, on an agent's settings."""

    def __init__(self, agent: AgentProcess) -> None:
        self.folder = agent.folder
        self.config = agent.config
        self.log = agent.folder / "updater.jsonl"
        self.env = dict(os.environ)
        self.script = agent.script
        self.process: subprocess.Popen[bytes] | None = None
        self._seen = 0

    def start(self, *, until: str = "") -> None:
        assert self.process is None
        argv = [sys.executable, str(self.script), "updater", "--config", str(self.config)]
        self._seen = len(self.events())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, env=self.env)
        if until:
            self.wait_for(until)


class System:
    """A fleet with one device."""

    def __init__(self, folder: Path, fleet: Fleet, broker: Mosquitto) -> None:
        self.fleet = fleet
        self.broker = broker
        self._left = contextlib.ExitStack()
        engine = self._left.enter_context(kit.database(fleet.repository))
        self.served = Running(ServedRepository(fleet.repository, engine), broker.port)
        self.agent = AgentProcess(
            folder / "device",
            broker.port,
            device_id=DEVICE,
            profile=fleet.profile,
            models={MODEL: {"bundle": fleet.bundles[1], "workers": 1}},
            routes={"r": {"topic": "plant/+", "models": [MODEL]}},
            update={"root": fleet.root, "dir": folder / "device" / "updater", "load_s": 20.0},
        )
        self.agent.start()
        self.updater = UpdaterProcess(self.agent)
        self.plant = Plant(broker.port, name="watch")
        self.agent.wait_for("input_connected")
        poll(self.answers, "the first answer")

    def answers(self) -> bool:
        """Whether the agent hears its topics already."""
        self.plant.publish("plant/a", "hello")
        time.sleep(0.2)
        return bool(self.plant.results)

    def serves(self) -> int:
        """Version that answers."""
        before = self.plant.answered()
        self.plant.publish("plant/a", "hello")
        found = self.plant.wait_for(before + 1)
        return int(found[-1]["model"]["version"])

    def close(self) -> None:
        self.updater.kill()
        self.agent.kill()
        self.plant.close()
        self.served.stop()
        self._left.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with versions 1 and 2; 3 fails its golden file."""
    folder = tmp_path_factory.mktemp("prepared")
    fleet = Fleet(folder)
    for version in (1, 2):
        fleet.offer(version)
    bad = brittle_bundle(folder / "v3", version=3, label="bad")
    parameters = bad / "parameters.json"
    parameters.write_text(json.dumps({"label": "worse"}))
    manifest = json.loads((bad / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        if artifact["path"] == "parameters.json":
            raw = parameters.read_bytes()
            artifact["size"] = len(raw)
            artifact["sha256"] = hashlib.sha256(raw).hexdigest()
    (bad / "manifest.json").write_text(json.dumps(manifest))
    fleet.offer(3, bad)
    return folder


@pytest.fixture
def system(tmp_path: Path, prepared: Path, mosquitto: Mosquitto) -> Iterator[System]:
    fleet = Fleet.reopened(prepared, tmp_path / "fleet")
    made = System(tmp_path, fleet, mosquitto)
    yield made
    made.close()


def committed(system: System, version: int) -> None:
    system.updater.wait_for("update_committed", version=version)


def test_a_new_version_is_taken_and_every_answer_names_who_gave_it(system: System) -> None:
    system.fleet.assign(2)
    system.updater.start()
    sent = len(system.plant.results)
    first = sent
    while "update_committed" not in {e["event"] for e in system.updater.events()}:
        system.plant.publish("plant/a", f"line {sent}")
        sent += 1
        time.sleep(0.005)
        assert sent < first + WITHIN_S / 0.005
    results = system.plant.wait_for(sent, within_s=WITHIN_S)
    assert len(results) == sent
    assert not [r for r in results if "error" in r]
    assert {r["model"]["version"] for r in results} == {1, 2}
    versions = [r["model"]["version"] for r in results]
    assert versions == sorted(versions), "one swap, between two answers"
    assert system.serves() == 2
    poll(lambda: system.plant.last["update"]["phase"] == "idle", "an idle updater")
    update = system.plant.last["update"]
    assert update["models"][0]["version"] == 2


def test_a_bad_one_is_refused_and_a_newer_assignment_may_name_an_older_one(system: System) -> None:
    system.fleet.assign(2)
    system.updater.start()
    committed(system, 2)
    system.fleet.assign(3)
    failed = system.updater.wait_for("update_failed", version=3)
    assert failed["code"] == "golden.failed"
    assert system.serves() == 2
    system.fleet.assign(1)
    committed(system, 1)
    assert system.serves() == 1


def test_a_cascade_is_tried_and_committed_as_one_model(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    fleet = Fleet(tmp_path / "fleet")
    for version, confidence in ((1, 0.99), (2, CONFIDENCE)):
        both = write_cascade(tmp_path / f"v{version}", confidence=confidence)
        seal(both, name=MODEL, version=version)
        fleet.offer(version, both)
    with contextlib.closing(System(tmp_path, fleet, mosquitto)) as system:
        system.fleet.assign(2)
        system.updater.start()
        committed(system, 2)
        before = system.plant.answered()
        for text in TEXTS:
            system.plant.publish("plant/a", text)
        found = system.plant.wait_for(before + len(TEXTS))[before:]
        assert {(r["model"]["version"], r["stage"]) for r in found} == {(2, "first"), (2, "second")}


def test_an_assignment_that_was_replaced_is_refused(system: System, tmp_path: Path) -> None:
    fleet, updater = system.fleet, system.updater
    fleet.assign(2)
    updater.start()
    committed(system, 2)
    envelope = kit.envelope(fleet.repository, DEVICE)
    assert envelope is not None
    first = tmp_path / "first.json"
    first.write_bytes(envelope)
    fleet.assign(1)
    committed(system, 1)
    topic = f"edgeslm/v1/{DEVICE}/assignment"
    publish = ["mosquitto_pub", "-p", str(system.broker.port), "-t", topic, "-r", "-f", str(first)]
    subprocess.run(publish, check=True)
    refused = updater.wait_for("update_refused")
    assert refused["code"] == "assignment.replayed"
    assert system.serves() == 1


def test_a_configuration_is_tried_and_committed(system: System) -> None:
    route = {"topic": "elsewhere/+", "models": [MODEL]}
    config = DeviceConfig.model_validate_json(json.dumps({"routes": {"new": route}}))
    system.fleet.assign(2, config=config, configures=True)
    system.updater.start()
    system.updater.wait_for("config_committed")
    before = system.plant.answered()
    system.plant.publish("elsewhere/x", "hello")
    assert system.plant.wait_for(before + 1)[-1]["topic"] == "elsewhere/x"
    system.agent.stop()
    system.agent.start()
    system.plant.publish("elsewhere/y", "hello")
    assert system.plant.wait_for(before + 2)[-1]["model"]["version"] == 2


@pytest.mark.parametrize("who", ["agent", "updater", "both"])
def test_a_kill_in_a_trial_comes_up_with_the_old_one(
    system: System, tmp_path: Path, who: str
) -> None:
    profile = tmp_path / "long.toml"
    text = system.fleet.profile.read_text().replace("duration_s = 0.0", "duration_s = 600.0")
    profile.write_text(text.replace('"quick"', '"long"'))
    system.agent.kill()
    system.agent.configure(profile=profile)
    system.agent.start()
    system.fleet.assign(2)
    system.updater.start()
    system.agent.wait_for("trial_begun")
    assert system.serves() == 2
    if who != "agent":
        system.updater.kill()
    if who != "updater":
        system.agent.kill()
        system.agent.start()
        assert system.serves() == 1
    system.agent.configure(profile=system.fleet.profile)
    if who != "agent":
        system.updater.mark()
        system.updater.start()
        committed(system, 2)  # nobody saw the bundle do anything wrong
    else:
        failed = system.updater.wait_for("update_failed")
        assert failed["code"] == "trial.crashed"
        assert system.serves() == 1


def test_a_fetch_goes_on_where_a_killed_updater_left_it(system: System, tmp_path: Path) -> None:
    system.fleet.offer(4, large_bundle(tmp_path / "v4", 4, blocks=64))
    system.agent.configure(update={**system.agent.settings["update"], "rate_kb_s": 1024})
    system.fleet.assign(4)
    system.updater.start()
    server = system.served.server
    # What is flushed to disk, it is each 4 MiB, is what outlives a kill.
    poll(lambda: server.sent_bytes > 5 * 2**20, "5 MiB", WITHIN_S)
    system.updater.kill()
    sent = system.served.server.sent_bytes
    assert system.serves() == 1
    system.agent.configure(update={**system.agent.settings["update"], "rate_kb_s": 1 << 20})
    system.updater.mark()
    system.updater.start()
    committed(system, 4)
    assert system.serves() == 4
    # Of 8 MiB; what the killed one had asked for is sent all the same, a window of 2 MiB at most.
    assert server.sent_bytes - sent < 6.5 * 2**20


CLOCKS = {"1970": -2e9, "a day behind": -86_400.0, "ten years ahead": 3.2e8}


@pytest.mark.parametrize(
    "off", [pytest.param(off, marks=[pytest.mark.slow] if off != "1970" else []) for off in CLOCKS]
)
def test_a_wrong_clock_installs_nothing_stale_and_recovers_when_time_arrives(
    system: System, off: str
) -> None:
    fleet, updater = system.fleet, system.updater
    updater.script = Path(__file__).parent / "with_clock.py"
    updater.env["EDGESLM_TEST_CLOCK_S"] = str(CLOCKS[off])
    fleet.assign(2)
    served = system.served.server
    answers = served._answers  # noqa: SLF001 -- there is no public way to be silent
    silent = type(answers).take
    type(answers).take = lambda *_: None  # type: ignore[method-assign]
    try:
        updater.start(until="update_refused")
        assert updater.wait_for("update_refused")["code"] == "clock.untrusted"
        assert system.serves() == 1
    finally:
        type(answers).take = silent  # type: ignore[method-assign]
    committed(system, 2)
    assert system.serves() == 2


def test_a_second_updater_is_refused(system: System) -> None:
    system.updater.start()
    poll((system.agent.folder / "updater" / "updater.sock").exists, "the first one's door")
    argv = [sys.executable, str(system.agent.script), "updater", "--config"]
    done = subprocess.run(
        [*argv, str(system.agent.config)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 75
    assert "updater.running" in done.stderr


def test_status_and_a_stick_reach_a_running_updater(system: System, tmp_path: Path) -> None:
    system.fleet.assign(2)
    system.updater.start()
    committed(system, 2)
    script, config = str(system.agent.script), str(system.agent.config)
    status = [sys.executable, script, "status", "--config", config, "--json"]
    said = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)
    assert said["running"] is True
    assert said["models"][0]["version"] == 2
    system.fleet.assign(1)
    committed(system, 1)
    system.served.stop()  # else the device hears of the metadata after those of the stick
    system.fleet.assign(2)
    stick = system.fleet.stick("stick")
    shutil.copytree(stick, tmp_path / "usb")
    argv = [sys.executable, script, "update", "--config", config, "--trust-clock", "--from"]
    done = subprocess.run(
        [*argv, str(tmp_path / "usb")], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert system.serves() == 2
    assert system.updater.process is not None
    assert system.updater.process.poll() is None, "it was the updater that took it"
    os.kill(system.updater.process.pid, signal.SIGTERM)
