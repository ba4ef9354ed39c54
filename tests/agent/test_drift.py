"""An agent whose plant changes: it says so, once, in its state, its events and its metrics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, poll
from tests.runtime import tiny


def wary_bundle(folder: Path) -> Path:
    expect = {"label": "normal", "score": 0, "confidence": 1}
    golden = json.dumps({"request": {"text": "1 a"}, "expect": expect}).encode() + b"\n"
    files = {"golden.jsonl": golden}
    return tiny.write_bundle(folder, files=files, task="wary", name="wary", version=7)


@pytest.mark.broker
def test_a_change_of_regime_is_told_and_so_is_its_end(
    make_agent: Callable[..., AgentProcess], plant: Plant, tmp_path: Path
) -> None:
    agent = make_agent(
        models={"m": {"bundle": wary_bundle(tmp_path / "wary"), "drift_false_rate": 0.01}},
        routes={"all": {"topic": "in/#", "models": ["m"]}},
        state_interval_s=1,
    )
    agent.start()

    def drift() -> Any:
        return plant.last["state"]["models"][0].get("drift", {})

    for _ in range(60):
        plant.publish("in/a", "1 pump ready")
    plant.wait_for(60)
    poll(lambda: drift().get("new_rate") == 0, "it is watched, and all is well")
    assert not drift()["suspected"]
    assert drift()["trained_new_rate"] == 0.05
    for i in range(100):
        plant.publish("in/a", f"0.01 secret {i % 5}")
    told = agent.wait_for("drift_suspected", model="m")
    assert told["channels"] == "text"
    assert told["sources"].startswith("in/a ")
    assert "edgeslm-export wary --version 8" in told["proposal"]
    assert "secret" not in str(told), "texts stay here"
    poll(lambda: drift().get("suspected", False), "the state says so")
    assert drift()["channels"] == ["text"]
    for _ in range(300):
        plant.publish("in/a", "1 pump ready")
    agent.wait_for("drift_over", model="m")
    poll(lambda: not drift()["suspected"], "the state says so")
    events = [one["event"] for one in agent.events()]
    assert (events.count("drift_suspected"), events.count("drift_over")) == (1, 1)
    assert agent.stop() < 5
