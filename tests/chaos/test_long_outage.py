"""An uplink that is away for long: alerts whole, telemetry summed up, a way back at its pace."""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgeslm.core.pace import BURST_S
from tests.agent.kit import AgentProcess, Plant, poll
from tests.mosquitto import Mosquitto
from tests.proxy import Proxy

pytestmark = pytest.mark.broker
MakeAgent = Callable[..., AgentProcess]
SOURCES = ("a", "b", "c")
MAX_RESULTS = 3000
CATCH_UP = 150
ROUTE: dict[str, Any] = {"models": ["m"], "text": "/text", "key": "/n", "id": "/n"}


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    """A second broker, running, where results go."""
    broker = Mosquitto(tmp_path / "upstream")
    broker.start()
    yield broker
    broker.kill()


class Uplink(Proxy):
    """The network to the second broker, which is there or not."""

    away = False

    def leave(self) -> None:
        self.away = True
        self.cut()

    def come_back(self) -> None:
        self.away = False

    def admitted(self, client: socket.socket) -> socket.socket:
        if self.away:
            raise ConnectionRefusedError
        return client


@pytest.fixture
def uplink(upstream: Mosquitto) -> Iterator[Uplink]:
    made = Uplink(upstream.port)
    yield made
    made.close()


@pytest.fixture
def agent(
    make_agent: MakeAgent, brittle: Path, mosquitto: Mosquitto, uplink: Uplink
) -> AgentProcess:
    return make_agent(
        broker_port=uplink.port,
        input={"host": "127.0.0.1", "port": mosquitto.port},
        models={"m": {"bundle": brittle, "workers": 2}},
        routes={
            "alarms": {"topic": "alarm/+", "lane": "alert", **ROUTE},
            "rest": {"topic": "in/+", **ROUTE},
        },
        outbox={"max_results": MAX_RESULTS, "catch_up_per_s": CATCH_UP, "summary_s": 86_400},
        state_interval_s=1,
    )


@pytest.fixture
def listener(upstream: Mosquitto) -> Iterator[Plant]:
    made = Plant(upstream.port, name="listener")
    yield made
    made.close()


class Sent:
    """Numbered texts to both lanes from several sources, as they were published."""

    def __init__(self, plant: Plant) -> None:
        self.by: defaultdict[str, list[int]] = defaultdict(list)
        self._plant = plant
        self._next = 0

    def send(self, count: int, kind: str = "in") -> None:
        for _ in range(count):
            n, self._next = self._next, self._next + 1
            topic = f"{kind}/{SOURCES[n % len(SOURCES)]}"
            self.by[topic].append(n)
            self._plant.publish(topic, json.dumps({"text": f"reading {n}", "n": str(n)}))


def on_disk(agent: AgentProcess) -> dict[str, int]:
    """Rows by lane, and results that the telemetry stands for."""
    query = "SELECT (SELECT count(*) FROM alert), count(*), coalesce(sum(results), 0) FROM result"
    with closing(sqlite3.connect(agent.folder / "state" / "outbox.sqlite")) as db:
        alerts, rows, results = db.execute(query).fetchone()
    return {"alerts": alerts, "rows": rows, "results": results}


def counted(results: list[dict[str, Any]]) -> int:
    """How many texts there are results of; what came twice under one id is one."""
    by_id = {one["id"]: one for one in results}
    return sum(one["summary"]["count"] if "summary" in one else 1 for one in by_id.values())


def account(results: list[dict[str, Any]], sent: Sent) -> int:
    """See that each text is in one message, in order of its source; return how many summaries.

    A result may come twice under one id, and a summary too.
    """
    by: defaultdict[str, dict[str, tuple[int, int, int]]] = defaultdict(dict)
    for one in results:
        summary = one.get("summary")
        first, last, count = (
            (int(summary["first_id"]), int(summary["last_id"]), summary["count"])
            if summary
            else (int(one["id"]), int(one["id"]), 1)
        )
        by[one["topic"]][one["id"]] = (first, last, count)
    summaries = 0
    assert by.keys() == sent.by.keys()
    for topic, found in by.items():
        numbers = iter(sent.by[topic])
        for first, last, count in found.values():
            part = [next(numbers) for _ in range(count)]
            assert (part[0], part[-1]) == (first, last), topic
            summaries += count > 1
        assert next(numbers, None) is None, topic
        assert topic.startswith("in/") or len(found) == len(sent.by[topic])
    return summaries


@pytest.mark.slow
def test_a_long_outage_with_kills_loses_no_alert_and_counts_every_result(
    agent: AgentProcess, plant: Plant, listener: Plant, uplink: Uplink
) -> None:
    agent.start()
    sent = Sent(plant)
    sent.send(30)
    sent.send(6, "alarm")
    poll(lambda: len(listener.results) == 36, "the first results")
    uplink.leave()
    rng = random.Random(3)  # noqa: S311 -- when to kill
    for part in range(1, 6):
        for _ in range(20):
            sent.send(100)
            sent.send(3, "alarm")
        plant.flush()
        time.sleep(rng.random())
        agent.kill()  # whatever is on its way to disk, or there and not acknowledged
        agent.start(until="input_connected")
        poll(lambda: on_disk(agent)["results"] == part * 2000, "each once", 60)  # noqa: B023
        poll(lambda: on_disk(agent)["alerts"] == part * 60, "and the alerts")  # noqa: B023
    held = on_disk(agent)
    assert held["alerts"] == 300
    assert held["rows"] + held["alerts"] < MAX_RESULTS
    told = {e["event"]: e.get("code") for e in agent.events()}
    assert told["telemetry_thinned"] == "outbox.thinned"

    arrived: list[tuple[float, int]] = []
    began = time.monotonic()
    uplink.come_back()
    while on_disk(agent) != {"alerts": 0, "rows": 0, "results": 0}:
        arrived.append((time.monotonic(), len(listener.results)))
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    lately = [r["topic"] for r in listener.results[36:]]
    alarms = [i for i, topic in enumerate(lately) if topic.startswith("alarm/")]
    assert max(alarms) < 400, "alerts first"
    for at, count in arrived:
        for then, before in [pair for pair in arrived if pair[0] <= at - 2.0][-1:]:
            most = CATCH_UP * (at - then + BURST_S)
            assert count - before <= 1.1 * most + 20, "no flood"
    assert account(listener.results, sent) >= len(SOURCES)
    poll(lambda: listener.last["state"]["outbox"] == 0, "and the state says so")
    assert set(listener.last["state"]["drops"]) <= {"telemetry_thinned"}
    assert agent.stop() < 5


@pytest.mark.slow
def test_kills_while_the_uplink_comes_and_goes_lose_nothing_and_count_nothing_twice(
    agent: AgentProcess, plant: Plant, listener: Plant, uplink: Uplink
) -> None:
    agent.settings["outbox"] |= {"catch_up_per_s": 1000}
    rng = random.Random(5)  # noqa: S311 -- when to kill, and when there is an uplink
    uplink.leave()
    agent.start()
    sent = Sent(plant)
    sent.send(3000)
    for _ in range(15):
        for _ in range(5):
            sent.send(100)
            sent.send(2, "alarm")
            time.sleep(0.1 * rng.random())
        if rng.random() < 0.6:
            uplink.come_back()
            time.sleep(rng.random())
        if rng.random() < 0.5:
            uplink.leave()
        if rng.random() < 0.6:
            agent.kill()
            agent.start(until="input_connected")
    uplink.come_back()
    total = sum(len(numbers) for numbers in sent.by.values())
    poll(lambda: counted(listener.results) >= total, "all of it", 60)
    poll(lambda: on_disk(agent) == {"alerts": 0, "rows": 0, "results": 0}, "no more")
    assert counted(listener.results) == total
    assert account(listener.results, sent) >= len(SOURCES)
    assert agent.stop() < 5


@pytest.mark.slow
def test_new_results_flow_while_the_disk_empties_slowly(
    agent: AgentProcess, plant: Plant, listener: Plant, uplink: Uplink
) -> None:
    """What comes in meanwhile is not held to the pace, and an alert overtakes all of it."""
    uplink.leave()
    agent.settings["outbox"] |= {"thin_share": 1, "catch_up_per_s": 15}
    agent.start()
    sent = Sent(plant)
    sent.send(300)
    poll(lambda: on_disk(agent)["rows"] == 300, "all on disk")
    uplink.come_back()
    agent.wait_for("uplink_connected")
    began = time.monotonic()
    sent.send(600)
    sent.send(1, "alarm")
    poll(lambda: len(listener.results) == 901, "all")
    assert 5 < time.monotonic() - began < 25, "300 rows at 15 a second, however much comes in"
    topics = [r["topic"] for r in listener.results]
    assert topics.index("alarm/a") < 890, "before telemetry that is older"
    assert account(listener.results, sent) == 0
    assert agent.stop() < 5
