"""An agent killed, stopped or broken by an input: everything is answered by its next life."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.kit import AgentProcess, Plant, poll
from tests.chaos.flow import ROUTE, Flow

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]


@pytest.fixture
def agent(make_agent: MakeAgent, brittle: Path) -> AgentProcess:
    return make_agent(models={"m": {"bundle": brittle, "workers": 2}}, routes={"r": ROUTE})


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kill_9_in_full_flow_loses_nothing(agent: AgentProcess, plant: Plant, kills: int) -> None:
    rng = random.Random(1)  # noqa: S311 -- when to kill
    agent.start()
    flow = Flow(plant)
    with flow.running():
        for _ in range(kills):
            flow.advance(rng.randint(1, 600))
            agent.kill()
            agent.start()
        flow.advance(100)
    flow.close(agent)


def test_kill_9_while_results_wait_on_disk_loses_nothing(
    make_agent: MakeAgent, brittle: Path, plant: Plant
) -> None:
    """Acknowledgement time out at once, so that results take the way over the disk."""
    agent = make_agent(
        models={"m": {"bundle": brittle}},
        routes={"r": ROUTE},
        outbox={"ack_timeout_s": 0.001},
    )
    agent.start()
    flow = Flow(plant)
    with flow.running(per_s=500):
        for _ in range(2):
            flow.advance(200)
            agent.kill()
            agent.start()
        flow.advance(200)
    flow.close(agent)


def test_an_input_that_kills_its_worker_thrice_is_told_so_and_holds_up_nobody(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    flow = Flow(plant)
    flow.send(50)
    plant.publish("in/bad", '{"text": "kill", "n": "bad"}')
    flow.send(50)
    agent.wait_killed()
    for _ in range(2):
        agent.start(until="input_connected")  # it may not live to be ready
        agent.wait_killed()
    agent.start()
    plant.wait_for(101)
    bad = [r for r in plant.results if "error" in r]
    assert {r["error"]["code"] for r in bad} == {"input.poison"}
    assert {r["topic"] for r in bad} == {"in/bad"}
    assert len({r["id"] for r in bad}) == 1
    plant.results[:] = [r for r in plant.results if "error" not in r]
    flow.close(agent)
    plant.results.clear()
    agent.start()
    flow.sent.clear()
    flow.send(10)
    assert flow.close(agent) == []  # neither is anything answered again: all was acknowledged


def test_sigterm_in_full_flow_ends_in_time_and_the_rest_is_answered_later(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    flow = Flow(plant)
    with flow.running():
        for _ in range(3):
            flow.advance(300)
            assert agent.stop() < 5
            agent.start()
        flow.advance(100)
    flow.close(agent)


def test_sigterm_while_an_input_takes_its_time_ends_in_time(
    agent: AgentProcess, plant: Plant
) -> None:
    agent.start()
    flow = Flow(plant)
    flow.send(5)
    plant.publish("in/slow", '{"text": "sleep 60", "n": "slow"}')
    flow.send(5)
    poll(lambda: flow.answered() >= set(range(5)), "those before it")
    assert agent.stop() < 5
    plant.results.clear()
    flow.sent = flow.sent[5:]
    agent.start()
    plant.publish("in/slow", '{"text": "sleep 0", "n": "after"}')
    assert agent.stop() < 5
    assert plant.results == []  # the slow one is still before them


def test_a_jumping_clock_changes_nothing(
    make_agent: MakeAgent, brittle: Path, plant: Plant
) -> None:
    """Each look at the wall clock finds it elsewhere; only the times in results show it."""
    agent = make_agent(models={"m": {"bundle": brittle}}, routes={"r": ROUTE})
    agent.script = Path(__file__).parent / "with_jumping_clock.py"
    agent.start()
    flow = Flow(plant)
    with flow.running():
        flow.advance(500)
        agent.kill()
        agent.start()
        flow.advance(500)
    flow.close(agent)
    assert all(0 <= r["latency_ms"] < 10_000 for r in plant.results)
    times = [r["time_out"] for r in plant.results]
    assert max(times) - min(times) > 1e9
    moments = [r["time_mono"] for r in plant.results]
    assert 0 < max(moments) - min(moments) < 600
