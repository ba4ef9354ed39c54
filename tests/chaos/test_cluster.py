"""Ten agents on a cluster of brokers, and one of its nodes killed in full traffic."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.contract.brokers import Broker
from edgeslm.ports import Arrived, Confirmed, Down, Letter, Report, Subscribed, Up
from tests.agent.kit import AgentProcess, brittle_bundle, poll
from tests.nats import NODES, Cluster

AGENTS = 10
TEXTS = 2000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster")
    made.start()
    yield made
    made.close()


class Client:
    """Publishes until the cluster has it, and hears what it listens to, whichever node lives."""

    def __init__(self, cluster: Cluster, name: str, *, first: int, listens: str = "") -> None:
        self.heard: list[dict[str, Any]] = []
        self.listening = threading.Event()
        self._lock = threading.Lock()
        self._pending: dict[Letter, None] = {}
        self._epoch = 0
        broker = broker_of(cluster, first)
        config = LinkConfig(name, Broker.model_validate(broker), session_expiry_s=600, window=256)
        self._link: MqttLink[Letter] = MqttLink(config, self._note)
        if listens:
            self._link.subscribe([listens])
        self._link.start()

    def publish(self, topic: str, payload: bytes) -> None:
        letter = Letter(topic, payload)
        with self._lock:
            self._pending[letter] = None
            self._link.publish([letter], epoch=self._epoch)

    def unconfirmed(self) -> int:
        return len(self._pending)

    def close(self) -> None:
        self._link.stop()
        self._link.join(5)

    def _note(self, report: Report) -> None:
        match report:
            case Up():
                with self._lock:
                    self._epoch = report.epoch
                    self._link.publish(list(self._pending), epoch=self._epoch)
            case Down():
                with self._lock:
                    self._epoch = 0
            case Confirmed():
                with self._lock:
                    for letter in report.publications:
                        self._pending.pop(letter, None)
            case Subscribed():
                self.listening.set()
            case Arrived():
                self.heard += [json.loads(m.payload) for m in report.messages]
                self._link.settle(report.messages)


def broker_of(cluster: Cluster, first: int) -> dict[str, Any]:
    """The nodes from `first` on, as settings."""
    ports = [cluster.ports[(first + n) % NODES] for n in range(NODES)]
    others = [f"127.0.0.1:{port}" for port in ports[1:]]
    return {
        "host": "127.0.0.1",
        "port": ports[0],
        "others": others,
        "protocol": "3.1.1",
        "keepalive_s": 5,
    }


@pytest.mark.slow
def test_a_killed_node_loses_no_result_and_duplicates_can_be_told(
    cluster: Cluster, tmp_path: Path
) -> None:
    bundle = brittle_bundle(tmp_path / "bundle")
    agents = [
        AgentProcess(
            tmp_path / f"dev{n}",
            0,
            device_id=f"dev{n}",
            uplink=broker_of(cluster, n % NODES),
            models={"m": {"bundle": bundle, "workers": 1}},
            routes={"r": {"topic": f"in/{n}", "models": ["m"], "text": "/text", "id": "/n"}},
        )
        for n in range(AGENTS)
    ]
    hears = Client(cluster, "hears", first=1, listens="edgeslm/v1/+/results/+")
    says = Client(cluster, "says", first=0)  # to the node that is killed
    try:
        for agent in agents:
            agent.start(until="input_connected")
        assert hears.listening.wait(30)

        def answered() -> set[str]:
            return {str(result["id"]) for result in list(hears.heard)}

        for n in range(AGENTS):  # all listen

            def known(n: int = n) -> bool:
                says.publish(f"in/{n}", json.dumps({"text": "ok", "n": f"warm-{n}"}).encode())
                return f"warm-{n}" in " ".join(answered())

            poll(known, f"dev{n} answers", 60)
        before = len(answered())
        for number in range(TEXTS):
            text = json.dumps({"text": f"reading {number}", "n": str(number)})
            says.publish(f"in/{number % AGENTS}", text.encode())
            if number == TEXTS // 3:
                poll(lambda: len(answered()) > before + TEXTS // 10, "traffic is full", 60)
                cluster.kill(0)
        poll(lambda: not says.unconfirmed(), "the cluster has it all", 120)

        def missing() -> list[int]:
            numbers = {result["id"].rpartition("/")[2] for result in list(hears.heard)}
            return [n for n in range(TEXTS) if str(n) not in numbers]

        poll(lambda: not missing(), f"every text is answered; {missing()[:5]}", 120)
        ids = Counter((result["device"], result["id"]) for result in hears.heard)
        by_number = Counter(
            (device, one.rpartition("/")[2]) for device, one in ids if "warm" not in one
        )
        assert set(by_number.values()) == {1}, (
            "the same text has the same id, however often it came"
        )
    finally:
        says.close()
        hears.close()
        for agent in agents:
            agent.kill()
