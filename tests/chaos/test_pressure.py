"""More than a model can take: reading pauses, memory stays bounded, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, poll
from tests.chaos.flow import ROUTE, Flow
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
RECEIVE_MAXIMUM = 20
READ_BYTES = 65_536 * 2


def slow_agent(
    make_agent: MakeAgent, mosquitto: Mosquitto, bundle: Path, **broker: Any
) -> AgentProcess:
    return make_agent(
        uplink={"host": "127.0.0.1", "port": mosquitto.port, **broker},
        models={"m": {"bundle": bundle, "workers": 1, "receive_maximum": RECEIVE_MAXIMUM}},
        routes={"r": ROUTE},
        state_interval_s=1,
    )


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_slow_model_holds_back_the_broker(
    make_agent: MakeAgent, mosquitto: Mosquitto, brittle: Path, plant: Plant, protocol: str
) -> None:
    agent = slow_agent(make_agent, mosquitto, brittle, protocol=protocol)
    agent.start()
    flow = Flow(plant, text="sleep 0.003" + " " * 4000)
    flow.send(1000)
    longest = 0

    def answered() -> bool:
        nonlocal longest
        longest = max(
            longest, plant.last.get("state", {"models": [{"queue": 0}]})["models"][0]["queue"]
        )
        return len(flow.answered()) == 1000

    poll(answered, "all answered")
    # Neither 3.1.1 nor mosquitto 2.0 under load keeps to the Receive Maximum: reading stops past
    # it, and what the last reading brought is taken too.
    assert 10 < longest <= RECEIVE_MAXIMUM + READ_BYTES / 4000
    assert flow.close(agent) == []


def test_mqtt_3_1_1_leaves_what_it_cannot_take_with_the_broker(
    make_agent: MakeAgent, mosquitto: Mosquitto, brittle: Path, plant: Plant
) -> None:
    """A model that is busy for longer than the broker would wait for a sign of life."""
    agent = slow_agent(make_agent, mosquitto, brittle, protocol="3.1.1", keepalive_s=5)
    agent.start()
    plant.publish("in/a", '{"text": "sleep 6", "n": "slow"}')
    flow = Flow(plant)
    flow.send(1500)
    left = agent.wait_for("input_disconnected")
    assert "no room" in left["reason"]
    agent.wait_for("input_connected")
    poll(lambda: any(r["key"] == "slow" for r in plant.results), "the slow one")
    plant.results[:] = [r for r in plant.results if r["key"] != "slow"]
    flow.close(agent)


def test_mqtt_3_1_1_keeps_what_an_agent_that_ends_has_not_answered(
    make_agent: MakeAgent, mosquitto: Mosquitto, brittle: Path, plant: Plant
) -> None:
    agent = slow_agent(make_agent, mosquitto, brittle, protocol="3.1.1")
    agent.start()
    flow = Flow(plant)
    with flow.running():
        flow.advance(200)
        agent.kill()
        agent.start()
        flow.advance(200)
        assert agent.stop() < 5
        agent.start()
        flow.advance(200)
    flow.close(agent)
