"""Brokers that are absent, restarted, killed or refuse: nothing that reached the agent is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.agent.kit import AgentProcess, Plant, poll
from tests.chaos.flow import OWN_IDS, ROUTE, Flow
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
SECRET = "s3cret-never-logged"  # noqa: S105 -- a test's


def test_an_agent_that_started_before_its_broker_connects_when_it_comes(
    make_agent: MakeAgent, mosquitto: Mosquitto, brittle: Path
) -> None:
    mosquitto.stop()
    agent = make_agent(models={"m": {"bundle": brittle}}, routes={"r": ROUTE})
    agent.start()
    mosquitto.start()
    agent.wait_for("input_connected")
    agent.wait_for("uplink_connected")
    plant = Plant(mosquitto.port)
    flow = Flow(plant)
    flow.send(20)
    assert flow.close(agent) == []
    plant.close()


def test_a_broker_restarted_in_full_flow_loses_nothing(
    make_agent: MakeAgent, mosquitto: Mosquitto, plant: Plant, brittle: Path
) -> None:
    agent = make_agent(models={"m": {"bundle": brittle}}, routes={"r": ROUTE})
    agent.start()
    flow = Flow(plant)
    with flow.running():
        for _ in range(2):
            flow.advance(500)
            mosquitto.stop()
            mosquitto.start()
        flow.advance(500)
    flow.close(agent, republished=True)


def test_a_killed_broker_loses_nothing_of_a_source_that_publishes_again(
    make_agent: MakeAgent, mosquitto: Mosquitto, plant: Plant, brittle: Path
) -> None:
    agent = make_agent(models={"m": {"bundle": brittle}}, routes={"r": OWN_IDS})
    agent.start()
    flow = Flow(plant)
    with flow.running():
        for _ in range(2):
            flow.advance(500)
            mosquitto.kill()
            mosquitto.start()
        flow.advance(500)

    def nothing_left() -> bool:
        before = len(flow.answered())
        missing = sorted(set(flow.sent) - flow.answered())
        flow.send_again(missing)
        plant.flush()
        poll(lambda: not missing or len(flow.answered()) > before, "progress")
        return not missing

    poll(nothing_left, "every message is answered", 60)
    flow.close(agent, republished=True)


def test_a_real_model_outlives_its_broker_and_its_own_end(
    make_agent: MakeAgent, mosquitto: Mosquitto, plant: Plant, anomaly_bundle: Path
) -> None:
    agent = make_agent(models={"m": {"bundle": anomaly_bundle}}, routes={"r": ROUTE})
    agent.start()
    flow = Flow(plant, text="filler 3 temp=71.9 C count {}")
    with flow.running(per_s=200):
        poll(lambda: len(flow.answered("plant")) > 100, "results")
        mosquitto.stop()
        mosquitto.start()
        poll(lambda: len(flow.answered("plant")) > 200, "results")
        agent.kill()
        agent.start()
        poll(lambda: len(flow.answered("plant")) > 300, "results")
    flow.close(agent, "plant", republished=True)


def test_a_refused_password_is_told_without_it_and_tried_ever_more_rarely(
    make_agent: MakeAgent, mosquitto: Mosquitto, brittle: Path, tmp_path: Path
) -> None:
    known, ours = tmp_path / "passwords", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(known), "dev", SECRET], check=True)
    ours.write_text(SECRET + "-but-wrong\n")
    mosquitto.stop()
    mosquitto.configure(f"allow_anonymous true\npassword_file {known}")
    mosquitto.start()
    uplink = {
        "host": "127.0.0.1",
        "port": mosquitto.port,
        "username": "dev",
        "password_file": ours,
    }
    agent = make_agent(models={"m": {"bundle": brittle}}, routes={"r": ROUTE}, uplink=uplink)
    agent.start()
    assert agent.process is not None
    process = psutil.Process(agent.process.pid)

    def refusals() -> int:
        """Attempts of both sessions, as the broker counts them."""
        return (mosquitto.folder / "broker.log").read_text().count("not authorised")

    for name in ("input_disconnected", "uplink_disconnected"):
        assert "not authori" in agent.wait_for(name)["reason"].lower()
    began, cpu = time.monotonic(), process.cpu_times()
    poll(lambda: refusals() >= 6 and time.monotonic() > began + 2, "refused, and tried again")
    spent_s, now = time.monotonic() - began, process.cpu_times()
    assert now.user + now.system - cpu.user - cpu.system < 0.2 * spent_s
    assert refusals() <= 40
    plant = Plant(mosquitto.port)
    flow = Flow(plant)
    ours.write_text(SECRET + "\n")
    agent.wait_for("input_connected")
    agent.wait_for("uplink_connected")
    assert SECRET not in agent.log.read_text()
    flow.send(20)
    assert flow.close(agent) == []
    plant.close()
