"""Networks that break, or fall silent without a word; disks that are full or damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.kit import AgentProcess, Plant, poll
from tests.chaos.flow import ROUTE, SOURCES, Flow
from tests.mosquitto import Mosquitto
from tests.proxy import Proxy

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
LANES = ("SELECT count(*) FROM alert", "SELECT count(*) FROM result")  # of the outbox
ALERTS = {**ROUTE, "lane": "alert"}  # never given up: a full outbox holds their inputs back


@pytest.fixture
def network(mosquitto: Mosquitto) -> Iterator[Proxy]:
    """What lies between one of the agent's links and the broker."""
    made = Proxy(mosquitto.port)
    yield made
    made.close()


@pytest.fixture
def far(
    make_agent: MakeAgent, mosquitto: Mosquitto, network: Proxy, brittle: Path
) -> Callable[..., AgentProcess]:
    """Make an agent whose inputs come straight and whose results go by the network."""

    def make(*, model: dict[str, Any] | None = None, **settings: Any) -> AgentProcess:
        return make_agent(
            models={"m": {"bundle": brittle, "workers": 2, **(model or {})}},
            routes={"r": ROUTE},
            input={"host": "127.0.0.1", "port": mosquitto.port},
            uplink={"host": "127.0.0.1", "port": network.port, "keepalive_s": 5},
            state_interval_s=1,
            **settings,
        )

    return make


def on_disk(agent: AgentProcess) -> int:
    """Results in the agent's outbox."""
    db = sqlite3.connect(agent.folder / "state" / "outbox.sqlite")
    counts = [db.execute(query).fetchone() for query in LANES]
    db.close()
    return sum(count for (count,) in counts)


def in_first_order(plant: Plant) -> bool:
    """Whether each source's inputs were answered in order, duplicates not counted."""
    firsts = list(dict.fromkeys(int(r["key"]) for r in plant.results))
    return all(
        mine == sorted(mine)
        for mine in ([n for n in firsts if n % len(SOURCES) == i] for i in range(len(SOURCES)))
    )


@pytest.mark.slow
def test_an_uplink_cut_again_and_again_loses_nothing_and_keeps_order(
    far: Callable[..., AgentProcess], plant: Plant, network: Proxy
) -> None:
    agent = far(outbox={"catch_up_per_s": 10_000})  # what it lags behind is not waited for
    agent.start()
    flow = Flow(plant)
    with flow.running():
        for _ in range(10):
            flow.advance(60)
            network.cut()
    flow.settle()
    assert in_first_order(plant)
    poll(lambda: on_disk(agent) == 0, "the outbox is empty again")
    flow.close(agent)


def test_an_uplink_that_fell_silent_holds_up_no_input(
    far: Callable[..., AgentProcess], plant: Plant, network: Proxy
) -> None:
    """Nobody says that the cable is out: results go to disk, inputs are acknowledged."""
    agent = far(outbox={"ack_timeout_s": 1.0}, model={"receive_maximum": 20})
    agent.start()
    agent.wait_for("uplink_connected")
    network.silence(silent=True)
    flow = Flow(plant)
    flow.send(100)
    poll(lambda: on_disk(agent) == 100, "all on disk")
    assert not plant.results
    network.silence(silent=False)
    flow.settle()
    poll(lambda: on_disk(agent) == 0, "the disk is free again")
    assert in_first_order(plant)
    flow.close(agent)


def test_a_full_outbox_withholds_acknowledgements_and_catches_up(
    far: Callable[..., AgentProcess], plant: Plant, network: Proxy
) -> None:
    agent = far(outbox={"max_results": 100}, model={"receive_maximum": 50})
    agent.settings["routes"] = {"r": ALERTS}
    agent.start()
    agent.wait_for("uplink_connected")
    network.silence(silent=True)
    network.cut()
    flow = Flow(plant)
    flow.send(1000)
    plant.flush()
    assert agent.wait_for("outbox_blocked")["code"] == "outbox.full"
    assert on_disk(agent) == 100
    agent.kill()  # what is withheld is not lost with the process either
    agent.start(until="input_connected")
    assert on_disk(agent) == 100
    network.silence(silent=False)
    flow.settle()
    assert in_first_order(plant)
    poll(lambda: on_disk(agent) == 0, "the outbox is empty")
    flow.close(agent)


def test_a_damaged_outbox_is_set_aside_and_told(agent: AgentProcess, plant: Plant) -> None:
    state = agent.folder / "state"
    state.mkdir()
    (state / "outbox.sqlite").write_bytes(b"no database" * 1000)
    agent.start()
    agent.wait_for("outbox_set_aside")
    plant.publish("in/a", "hello")
    plant.wait_for(1)
    assert len(list(state.glob("outbox.sqlite.damaged-*"))) == 1
    poll(lambda: "events" in plant.last, "told")


def test_an_input_link_cut_again_and_again_loses_nothing(
    make_agent: MakeAgent, brittle: Path, plant: Plant, mosquitto: Mosquitto, network: Proxy
) -> None:
    """What is being answered when the link goes is not answered again when it comes back."""
    agent = make_agent(
        models={"m": {"bundle": brittle, "workers": 2}},
        routes={"r": ROUTE},
        input={"host": "127.0.0.1", "port": network.port},
        uplink={"host": "127.0.0.1", "port": mosquitto.port},
    )
    agent.start()
    flow = Flow(plant)
    with flow.running():
        for _ in range(10):
            flow.advance(60)
            network.cut()
    again = flow.close(agent)
    assert all(r["redelivered"] for r in again)
    assert in_first_order(plant)


def test_inputs_are_not_taken_without_bound_when_nothing_can_be_settled(
    far: Callable[..., AgentProcess], plant: Plant, network: Proxy
) -> None:
    """On 3.1.1 nothing tells the broker our bound: reading pauses, then the link leaves."""
    agent = far(outbox={"max_results": 1}, model={"receive_maximum": 10})
    agent.settings["input"] |= {"protocol": "3.1.1", "keepalive_s": 5}
    agent.settings["routes"] = {"r": ALERTS}
    agent.start()
    agent.wait_for("uplink_connected")
    network.silence(silent=True)
    network.cut()
    flow = Flow(plant)
    flow.send(1500)
    plant.flush()
    agent.wait_for("input_disconnected")
    network.silence(silent=False)
    flow.settle()
    flow.close(agent)
