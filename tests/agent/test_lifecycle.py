"""Starting, reloading and stopping, with whatever is missing or wrong at the time."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll
from tests.mosquitto import Mosquitto
from tests.runtime import tiny

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


def test_the_broker_may_come_after_the_agent(agent: AgentProcess, mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    agent.start()
    mosquitto.start()
    agent.wait_for("uplink_connected")
    plant = Plant(mosquitto.port)
    agent.wait_for("input_connected")
    plant.publish("in/a", "hello")
    assert plant.wait_for(1)[0]["score"] == 5
    plant.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_wrong_password_is_told_and_a_right_one_taken_without_a_restart(
    make_agent: MakeAgent, brittle: Path, tmp_path: Path, protocol: str
) -> None:
    (tmp_path / "acl").write_text("user agent\ntopic readwrite #\ntopic readwrite in/#\n")
    broker = Mosquitto(tmp_path / "closed")
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    os.system(f"mosquitto_passwd -b {passwords} agent right")  # noqa: S605 -- a test's own words
    broker.configure(f"allow_anonymous false\npassword_file {passwords}")
    broker.start()
    secret = tmp_path / "secret"
    secret.write_text("wrong-guess\n")
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
    )
    agent.settings["uplink"] = {
        "host": "127.0.0.1",
        "port": broker.port,
        "protocol": protocol,
        "username": "agent",
        "password_file": str(secret),
    }
    agent.start(until="uplink_disconnected")
    assert "refused" in agent.wait_for("uplink_disconnected")["reason"]
    agent.wait_for("ready")
    secret.write_text("right\n")
    agent.wait_for("uplink_connected")
    assert "wrong-guess" not in agent.log.read_text()
    assert "right" not in agent.log.read_text().replace("rights", "")
    assert agent.stop() < 5
    broker.kill()


@pytest.mark.parametrize("damage", ["missing", "truncated", "tampered", "foreign task"])
def test_a_model_that_cannot_be_loaded_leaves_the_others_serving_and_its_inputs_waiting(
    make_agent: MakeAgent, plant: Plant, brittle: Path, tmp_path: Path, damage: str
) -> None:
    bad = tmp_path / "bad"
    if damage == "foreign task":
        brittle_bundle(bad, task="unheard_of")
    elif damage != "missing":
        brittle_bundle(bad)
        data = (bad / "model.onnx").read_bytes()
        (bad / "model.onnx").write_bytes(data[:-9] if damage == "truncated" else data[:-1] + b"\0")
    agent = make_agent(
        models={"good": {"bundle": brittle}, "bad": {"bundle": bad}},
        routes={"all": {"topic": "in/#", "models": ["good", "bad"]}},
    )
    agent.start()
    agent.wait_for("model_failed", model="bad")
    plant.publish("in/a", "hello")
    assert plant.wait_for(1)[0]["model"]["name"] == "brittle"
    poll(lambda: len(plant.last["state"]["models"]) == 2, "state")
    failed = plant.last["state"]["models"][1]
    assert failed["state"] == "failed"
    assert failed["error"]["code"]
    shutil.rmtree(bad, ignore_errors=True)
    brittle_bundle(bad, name="mended")
    agent.hup()
    names = {r["model"]["name"] for r in plant.wait_for(2)}
    assert names == {"brittle", "mended"}
    assert agent.stop() < 5


def test_reloading_routes_and_models_in_full_flow_loses_nothing(
    make_agent: MakeAgent, plant: Plant, brittle: Path, tmp_path: Path
) -> None:
    """A route comes, a model is exchanged, a model comes, a model goes; each input is answered."""
    second = tiny.write_bundle(tmp_path / "second", name="second")
    newer = brittle_bundle(tmp_path / "newer", version=2)
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"a": {"topic": "in/a", "models": ["m"]}},
    )
    agent.start()
    stop = threading.Event()
    sent = 0

    def flow() -> None:
        nonlocal sent
        while not stop.is_set():
            plant.publish("in/a", "x" * (sent % 50 + 1))
            sent += 1
            time.sleep(0.001)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        steps: list[dict[str, Any]] = [
            {"routes": {"a": {"topic": "in/+", "models": ["m"]}}},
            {"models": {"m": {"bundle": newer}}},
            {
                "models": {"m": {"bundle": newer}, "n": {"bundle": second}},
                "routes": {
                    "a": {"topic": "in/+", "models": ["m"]},
                    "b": {"topic": "other", "models": ["n"]},
                },
            },
            {
                "models": {"m": {"bundle": newer, "workers": 3}},
                "routes": {"a": {"topic": "in/a", "models": ["m"]}},
            },
        ]
        for step in steps:
            agent.configure(**step)
            agent.mark()
            agent.hup()
            agent.wait_for("reloaded")
            if "n" in step.get("models", {}):
                agent.wait_for("model_loaded", model="n")
                plant.publish("other", "red")
                poll(lambda: any(r["topic"] == "other" for r in list(plant.results)), "second")
            if step is steps[-1]:
                agent.wait_for("model_removed", model="n")
            before = len(plant.results)
            poll(lambda: len(plant.results) > before + 50, "the flow goes on")  # noqa: B023
    finally:
        stop.set()
        thread.join()
    mine: list[dict[str, Any]] = []

    def scores() -> list[float]:
        """Of `in/a`, in order; a broker may deliver one twice while two filters match it."""
        mine[:] = [r for r in list(plant.results) if r["topic"] == "in/a"]
        return [score for score, _ in groupby(r["score"] for r in mine)]

    poll(lambda: len(scores()) == sent, "all answered")
    assert scores() == [i % 50 + 1.0 for i in range(sent)]
    assert len({r["id"] for r in mine}) == len(mine)
    assert len(mine) - sent < 20, "only while the filters change hands"
    versions = [r["model"]["version"] for r in mine]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    assert agent.stop() < 5


def test_settings_that_cannot_be_used_change_nothing(agent: AgentProcess, plant: Plant) -> None:
    agent.start()
    agent.config.write_text("device_id = [")
    agent.hup()
    assert "TOML" in agent.wait_for("reload_failed")["message"]
    plant.publish("in/a", "hello")
    plant.wait_for(1)
    poll(lambda: plant.last.get("events", {}).get("event") == "reload_failed", "told")


def test_what_cannot_change_without_a_restart_is_named(agent: AgentProcess, plant: Plant) -> None:
    agent.start()
    agent.configure(device_id="dev2")
    agent.hup()
    assert agent.wait_for("reloaded")["restart_needed"] == "device_id"
    plant.publish("in/a", "hello")
    assert plant.wait_for(1)[0]["device"] == "dev1"


def test_a_second_agent_on_the_same_folders_is_refused(
    agent: AgentProcess, make_agent: MakeAgent
) -> None:
    agent.start()
    second = make_agent(**{k: v for k, v in agent.settings.items() if k != "uplink"})
    with pytest.raises(pytest.fail.Exception, match=r"agent\.running"):
        second.start()
    assert second.process is not None
    assert second.process.wait() == 75
    second.process = None


def test_systemd_hears_ready_watchdog_and_stopping_also_while_a_model_loads(
    make_agent: MakeAgent, tmp_path: Path
) -> None:
    """The golden file of this bundle takes two seconds."""
    slow = tiny.write_bundle(
        tmp_path / "slow",
        task="brittle",
        files={
            "golden.jsonl": b'{"request": {"text": "sleep 2.0"}, '
            b'"expect": {"label": "read", "score": 9, "confidence": 1}}\n'
        },
    )
    address = tmp_path / "notify"
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(20)
        agent = make_agent(
            models={"m": {"bundle": slow}}, routes={"all": {"topic": "in/#", "models": ["m"]}}
        )
        agent.env |= {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "600000"}
        agent.start(until="uplink_connected")
        while not any(m.startswith("READY=1") for m in heard):
            heard.append(listener.recv(1000).decode())
        fed = heard.count("WATCHDOG=1")
        assert fed >= 4, heard  # about ten times in two seconds
        assert agent.stop() < 5
        while heard[-1] != "STOPPING=1":
            heard.append(listener.recv(1000).decode())


def test_stopping_in_full_flow_takes_less_than_five_seconds_and_loses_nothing(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    for i in range(3000):
        plant.publish("in/a", "sleep 0.01" if i % 3 == 0 else "x" * (i % 60 + 1))
    plant.wait_for(100)
    assert agent.stop() < 5
    agent.start()
    results = plant.wait_for(3000, within_s=60)
    repeated = [r for r in results if r.get("redelivered")]
    assert len({r["id"] for r in results}) == 3000
    assert len(results) - 3000 <= len(repeated)


def test_a_model_whose_session_cannot_be_made_fails_alone(
    agent: AgentProcess, plant: Plant, brittle: Path
) -> None:
    ring = agent.folder / "run" / "ids-n.ring"
    ring.mkdir(parents=True)
    two = {"m": {"bundle": brittle}, "n": {"bundle": brittle}}
    agent.configure(models=two)
    agent.start()
    agent.wait_for("model_failed", model="n", code="runtime_dir.unavailable")
    plant.publish("in/a", "hello")
    plant.wait_for(1)
    ring.rmdir()
    agent.hup()
    agent.wait_for("model_loaded", model="n")
    assert agent.stop() < 5


def test_a_model_removed_without_ever_having_served_tells_its_inputs(
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    agent = make_agent(
        models={"bad": {"bundle": tmp_path / "nowhere"}},
        routes={"all": {"topic": "in/#", "models": ["bad"]}},
    )
    agent.start()
    agent.wait_for("input_connected")
    plant.publish("in/a", "hello")
    plant.flush()
    agent.configure(models={}, routes={})
    agent.hup()
    assert plant.wait_for(1)[0]["error"]["code"] == "model.unavailable"
    agent.wait_for("model_removed", model="bad")
    assert agent.stop() < 5


def test_a_model_removed_while_the_agent_was_stopped_leaves_no_session(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    agent.wait_for("input_connected")
    plant.publish("in/a", "hello")
    plant.wait_for(1)
    agent.stop()
    agent.settings.update(models={}, routes={})
    agent.start()
    agent.wait_for("model_removed", model="m")
    agent.stop()
    assert b'"m"' not in (agent.folder / "state" / "filters.json").read_bytes()


def test_an_orderly_stop_convicts_no_input_and_loses_none(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    for i in range(4):  # two for each worker
        plant.publish("in/a", f"sleep 3.{i}")
    plant.flush()
    assert agent.stop() < 5
    agent.start()
    agent.wait_for("input_connected")
    results = plant.wait_for(4, within_s=60)
    assert len({r["topic"] + str(r["score"]) + r["id"] for r in results}) == 4
    assert not [e for e in agent.events() if e["event"] == "suspect_answered"]
    assert agent.stop() < 5


def test_a_key_that_waits_for_a_restart_is_named_each_time(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    agent.configure(device_id="other", log_level="debug")
    for _ in range(2):
        agent.mark()
        agent.hup()
        assert agent.wait_for("reloaded")["restart_needed"] == "device_id, log_level"
    plant.publish("in/a", "hello")
    assert plant.wait_for(1)[0]["device"] == "dev1"


def test_a_bundle_that_comes_late_is_found(
    make_agent: MakeAgent, plant: Plant, tmp_path: Path
) -> None:
    late = tmp_path / "late"
    agent = make_agent(
        models={"m": {"bundle": late}}, routes={"all": {"topic": "in/#", "models": ["m"]}}
    )
    agent.start()
    agent.wait_for("model_failed", model="m")
    agent.wait_for("input_connected")
    plant.publish("in/a", "early")
    brittle_bundle(late)
    assert len(plant.wait_for(1)) == 1
    failed = [e for e in agent.events() if e["event"] == "model_failed"]
    assert len(failed) == 1, "the same failure is told once"
