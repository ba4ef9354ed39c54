"""Under pressure telemetry waits, then all but alarms; nothing is lost, and all of it is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, brittle_bundle, poll

pytestmark = pytest.mark.broker
COOL = {"temperature_c": 40.0, "memory_available_mb": 500.0, "load_per_core": 0.5}
HOT = {**COOL, "temperature_c": 91.0}
LIMITS = {"temperature_c": 80.0, "memory_available_mb": 50.0}


@pytest.fixture
def gauge(tmp_path: Path) -> Path:
    path = tmp_path / "gauge.json"
    path.write_text(json.dumps(COOL))
    return path


def show(gauge: Path, reading: Mapping[str, float | None]) -> None:
    """Have the device read this, and nothing half."""
    new = gauge.with_suffix(".new")
    new.write_text(json.dumps(reading))
    new.replace(gauge)


@pytest.fixture
def agent(make_agent: Callable[..., AgentProcess], tmp_path: Path, gauge: Path) -> AgentProcess:
    """Two models of a task without alarms, one of them with alerts all the same; not started."""
    made = make_agent(
        models={
            "log": {"bundle": brittle_bundle(tmp_path / "log", name="log"), "workers": 1},
            "orders": {"bundle": brittle_bundle(tmp_path / "orders", name="orders"), "workers": 1},
        },
        routes={
            "log": {"topic": "in/log", "models": ["log"]},
            "orders": {"topic": "in/orders", "models": ["orders"], "lane": "alert"},
        },
        pressure=LIMITS,
        state_interval_s=1.0,
    )
    made.script = Path(__file__).with_name("with_fake_gauge.py")
    made.env["GAUGE"] = str(gauge)
    return made


def state(plant: Plant, **fields: Any) -> dict[str, Any]:
    """Wait for a state whose `pressure` has these fields."""

    def there() -> bool:
        told = plant.last.get("state", {}).get("pressure", {})
        return all(told.get(key) == value for key, value in fields.items()) and bool(told)

    poll(there, f"pressure {fields}")
    return plant.last["state"]


def paused(told: dict[str, Any]) -> set[str]:
    return {model["name"] for model in told["models"] if model.get("paused")}


def test_telemetry_waits_then_all_without_alarms_and_both_come_back(
    agent: AgentProcess, plant: Plant, gauge: Path
) -> None:
    agent.start()
    assert plant.ask("in/log", "one")["score"] == 3
    assert paused(state(plant, level=0, temperature_c=40.0)) == set()
    show(gauge, HOT)
    rose = agent.wait_for("pressure_rose", level=1)
    assert rose["causes"] == "temperature_c"
    assert rose["temperature_c"] == 91.0
    assert paused(state(plant, level=1, causes=["temperature_c"])) == {"log"}
    agent.wait_for("pressure_rose", level=2)
    assert paused(state(plant, level=2)) == {"log", "orders"}
    for i in range(50):
        plant.publish("in/log", f"waits {i}")
    plant.publish("in/orders", "waits too")
    plant.flush()
    poll(lambda: any(m["queue"] >= 20 for m in plant.last["state"]["models"]), "a queue")
    time.sleep(1.5)
    assert plant.answered() == 1
    oldest = max(model.get("oldest_s", 0.0) for model in plant.last["state"]["models"])
    assert oldest > 0.3
    show(gauge, COOL)
    agent.wait_for("pressure_fell", level=1)
    agent.wait_for("pressure_fell", level=0)
    results = plant.wait_for(52)
    assert len(results) == 52
    assert paused(state(plant, level=0, causes=[])) == set()
    scores = [r["score"] for r in results if r["topic"] == "in/log"][1:]
    assert scores == [float(len(f"waits {i}")) for i in range(50)]
    told = [found["event"] for kind, found in list(plant.other.queue) if kind == "events"]
    pressed = [event for event in told if event.startswith("pressure")]
    assert pressed == ["pressure_rose", "pressure_rose", "pressure_fell", "pressure_fell"]
    assert agent.stop() < 5


def test_the_broker_hears_from_a_session_that_waits_and_its_inputs_survive_a_restart(
    agent: AgentProcess, plant: Plant, gauge: Path
) -> None:
    agent.settings["uplink"] |= {"keepalive_s": 5}
    show(gauge, HOT)
    agent.start()
    agent.wait_for("pressure_rose", level=2)
    for i in range(30):
        plant.publish("in/log", f"text {i}")
    plant.flush()
    time.sleep(9)  # the broker gives up a silent session after 7.5 s
    assert not [e for e in agent.events() if e["event"] == "input_disconnected"]
    assert plant.answered() == 0
    assert agent.stop() < 5
    show(gauge, COOL)
    agent.start()
    assert len({r["id"] for r in plant.wait_for(30)}) == 30
    assert agent.stop() < 5


def test_limits_that_are_given_up_let_all_go_on(
    agent: AgentProcess, plant: Plant, gauge: Path
) -> None:
    show(gauge, HOT)
    agent.start()
    agent.wait_for("pressure_rose", level=2)
    plant.publish("in/log", "waits")
    plant.flush()
    agent.configure(pressure={})
    agent.hup()
    agent.wait_for("pressure_fell", level=0)
    plant.wait_for(1)
    poll(lambda: "pressure" not in plant.last["state"], "no word of pressure")
    assert agent.stop() < 5


def test_what_the_device_does_not_read_is_said_once_and_not_judged(
    agent: AgentProcess, plant: Plant, gauge: Path
) -> None:
    show(gauge, {**HOT, "temperature_c": None})
    agent.start()
    why = agent.wait_for("limit_not_judged")
    assert (why["code"], why["message"].split(":")[0]) == ("pressure.not_judged", "temperature_c")
    told = state(plant, level=0, memory_available_mb=500.0)
    assert "temperature_c" not in told["pressure"]
    time.sleep(1.0)
    assert len([e for e in agent.events() if e["event"] == "limit_not_judged"]) == 1
    assert plant.ask("in/log", "one")["score"] == 3
    assert agent.stop() < 5


def test_a_profile_brings_limits_and_settings_override_them(
    agent: AgentProcess, gauge: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "small.toml"
    arch = os.uname().machine
    profile.write_text(
        'name = "small"\ndescription = "x"\nproviders = ["cpu"]\n'
        f'[requires]\narch = "{arch}"\n[cpu.int8]\nreduce_range = true\n'
        "[pressure]\ntemperature_c = 95.0\nmemory_available_mb = 100.0\n"
    )
    agent.settings |= {"profile": str(profile), "pressure": {}}
    show(gauge, {**COOL, "temperature_c": 85.0, "memory_available_mb": 70.0})
    agent.start()
    assert agent.wait_for("pressure_rose", level=1)["causes"] == "memory_available_mb"
    agent.configure(pressure={"memory_available_mb": 50.0})
    agent.hup()
    agent.wait_for("pressure_fell", level=0)
    assert agent.stop() < 5
