"""Results that the uplink will not take: on disk, bounded, and caught up in order."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.agent.kit import AgentProcess, Plant, poll
from tests.chaos.flow import ROUTE, Flow
from tests.mosquitto import Mosquitto

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
MAX_RESULTS = 200
RECEIVE_MAXIMUM = 50
LANES = ("SELECT count(*) FROM alert", "SELECT count(*) FROM result")


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    """A second broker, running, where results go."""
    broker = Mosquitto(tmp_path / "upstream")
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def agent(
    make_agent: MakeAgent, brittle: Path, mosquitto: Mosquitto, upstream: Mosquitto
) -> AgentProcess:
    """An agent that reads from one broker and answers to another."""
    return make_agent(
        broker_port=upstream.port,
        input={"host": "127.0.0.1", "port": mosquitto.port},
        models={"m": {"bundle": brittle, "receive_maximum": RECEIVE_MAXIMUM}},
        routes={"r": ROUTE},
        outbox={"max_results": MAX_RESULTS, "thin_share": 1},
        state_interval_s=1,
    )


@pytest.fixture
def listener(upstream: Mosquitto) -> Iterator[Plant]:
    made = Plant(upstream.port, name="listener")
    yield made
    made.close()


def rows(agent: AgentProcess) -> int:
    """Results on its disk."""
    path = agent.folder / "state" / "outbox.sqlite"
    with closing(sqlite3.connect(path)) as db:
        counts = [db.execute(query).fetchone() for query in LANES]
    return sum(count for (count,) in counts)


def rss_mb(agent: AgentProcess) -> float:
    assert agent.process is not None
    return float(psutil.Process(agent.process.pid).memory_info().rss / 2**20)


def test_without_an_uplink_results_go_to_disk_and_inputs_are_acknowledged(
    agent: AgentProcess, plant: Plant, listener: Plant, upstream: Mosquitto
) -> None:
    upstream.stop()
    agent.start()
    flow = Flow(plant, listener)
    flow.send(150)
    poll(lambda: rows(agent) == 150, "all on disk")
    time.sleep(0.5)  # what is on disk is acknowledged next, and nothing here can see it
    agent.kill()
    agent.start()  # the outbox outlives it, and the broker has nothing to send again
    flow.send(10)
    poll(lambda: rows(agent) == 160, "the new ones")
    upstream.start()
    flow.settle()
    poll(lambda: rows(agent) == 0, "the outbox is empty")
    assert flow.close(agent) == []
    assert not any("redelivered" in r for r in listener.results)


def test_an_outbox_full_of_alerts_withholds_acknowledgements_and_catches_up(
    agent: AgentProcess, plant: Plant, listener: Plant, upstream: Mosquitto
) -> None:
    agent.settings["routes"] = {"r": {**ROUTE, "lane": "alert"}}
    agent.start()
    flow = Flow(plant, listener)
    flow.send(10)
    flow.settle()
    upstream.stop()
    flow.send(MAX_RESULTS)
    poll(lambda: rows(agent) == MAX_RESULTS, "the outbox is full")
    before = rss_mb(agent)
    flow.send(3000)
    plant.flush()  # the broker has them all, and the agent takes but as many as it announced
    agent.kill()
    agent.start()
    agent.wait_for("input_connected")
    flow.send(10)
    plant.flush()
    assert rows(agent) == MAX_RESULTS
    # What loading left behind is given back a moment after the start.
    poll(lambda: rss_mb(agent) < before + 20, "no more memory than before")
    upstream.start()
    flow.settle()
    poll(lambda: rows(agent) == 0, "the outbox is empty")
    poll(lambda: listener.last["state"]["outbox"] == 0, "and the state says so")
    assert listener.last["state"]["withheld"] == 0
    assert listener.last["state"]["drops"] == {}
    flow.close(agent)


def test_an_uplink_that_comes_and_goes_in_full_flow_loses_nothing(
    agent: AgentProcess, plant: Plant, listener: Plant, upstream: Mosquitto
) -> None:
    agent.settings["outbox"] = {"max_results": 10_000}
    agent.start()
    flow = Flow(plant, listener)
    with flow.running(per_s=500):
        for _ in range(2):
            flow.advance(200)
            upstream.stop()
            poll(lambda: rows(agent) > 0, "results on disk")
            upstream.start()
        flow.advance(200)
    flow.close(agent)
