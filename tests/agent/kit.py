"""An agent in a process of its own, and somebody who publishes to it and hears its results."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.contract.feedback import FEEDBACK_REPLY
from edgeslm.contract.messages import ADAPTERS
from tests.runtime import tiny

WAIT_S = 90.0  # a machine that is busy with other things is no failure
_ADAPTERS = {**ADAPTERS, "feedback": FEEDBACK_REPLY}
BASE = "edgeslm/v1/dev1"


def brittle_bundle(folder: Path, *, label: str = "read", **manifest: Any) -> Path:
    """A bundle whose task obeys its texts (tests/agent/tasks/brittle.py)."""
    fields = {"task": "brittle", "name": "brittle", **manifest}
    expect = {"label": label, "score": 2, "confidence": 1}
    files = {
        "golden.jsonl": json.dumps({"request": {"text": "ok"}, "expect": expect}).encode() + b"\n",
        "parameters.json": json.dumps({"label": label}).encode(),
    }
    return tiny.write_bundle(folder, files=files, **fields)


def poll(done: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    """Wait until `done`, or fail."""
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s: {what}")
        time.sleep(0.005)


def toml(value: Any) -> str:
    """One TOML value; tables inline."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(value)


class AgentProcess:
    """`edgeslm run`, with the tests' tasks."""

    def __init__(self, folder: Path, port: int, **settings: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "agent.toml"
        self.log = folder / "log.jsonl"
        self.settings: dict[str, Any] = {
            "device_id": "dev1",
            "state_dir": folder / "state",
            "runtime_dir": folder / "run",
            "uplink": {"host": "127.0.0.1", "port": port},
            **settings,
        }
        self.env = dict(os.environ)
        self.script = Path(__file__).parent / "with_brittle.py"
        self.process: subprocess.Popen[bytes] | None = None
        self._seen = 0

    def configure(self, **settings: Any) -> None:
        """Change settings, for the next start or reload."""
        self.settings.update(settings)
        self.config.write_text("".join(f"{k} = {toml(v)}\n" for k, v in self.settings.items()))

    def start(self, *, until: str = "ready") -> None:
        """Start, and wait for an event in its log."""
        assert self.process is None
        self.configure()
        argv = [sys.executable, str(self.script), "run", "--config", str(self.config)]
        self._seen = len(self.events())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, env=self.env)
        self.wait_for(until)

    def events(self) -> list[dict[str, Any]]:
        """What it logged; a line it is just writing is left out."""
        if not self.log.exists():
            return []
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait until it logs `event` in this life, and return it."""
        hits: list[dict[str, Any]] = []

        def logged() -> bool:
            assert self.process is not None
            hits[:] = [
                e
                for e in self.events()[self._seen :]
                if e["event"] == event and all(e.get(k) == v for k, v in fields.items())
            ]
            if not hits and self.process.poll() is not None:
                pytest.fail(f"the agent ended: {self.log.read_text()[-3000:]}")
            return bool(hits)

        poll(logged, f"{event} {fields} in {self.log}")
        return hits[0]

    def mark(self) -> None:
        """Let `wait_for` look only at what comes from now on."""
        self._seen = len(self.events())

    def hup(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> float:
        """End it as systemd does; return how many seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(15)
        self.process = None
        assert status == 0, self.log.read_text()[-3000:]
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def wait_killed(self) -> None:
        """Wait until it has ended by itself."""
        assert self.process is not None
        self.process.wait(WAIT_S)
        self.process = None


class Plant:
    """Publishes to a broker until it has it, and hears everything under the agent's topics."""

    def __init__(self, port: int, *, name: str = "plant") -> None:
        self.results: list[dict[str, Any]] = []
        self.other: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
        self.last: dict[str, dict[str, Any]] = {}
        self.properties: list[Any] = []
        self._sent = 0
        self._confirmed = 0  # written by paho's thread alone
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.max_inflight_messages_set(100)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        keep = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
        keep.SessionExpiryInterval = 1000
        self._up = threading.Event()
        self._client.connect("127.0.0.1", port, clean_start=False, properties=keep)
        self._client.loop_start()
        assert self._up.wait(WAIT_S)

    def publish(self, topic: str, payload: bytes | str, **fields: Any) -> None:
        """Publish at QoS 1, or as `fields` say; `user` and `properties` are MQTT 5's."""
        qos = fields.pop("qos", 1)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho's
        for key, value in fields.pop("properties", {}).items():
            setattr(properties, key, value)
        raw = payload.encode() if isinstance(payload, str) else payload
        self._client.publish(topic, raw, qos, properties=properties, **fields)
        self._sent += 1

    @property
    def unconfirmed(self) -> int:
        """How many publications the broker has not confirmed yet."""
        return self._sent - self._confirmed

    def flush(self) -> None:
        """Wait until the broker has everything that was published."""
        poll(lambda: not self.unconfirmed, "the broker confirms")

    def wait_for(self, count: int, *, within_s: float = WAIT_S) -> list[dict[str, Any]]:
        """Wait for that many results, duplicates not counted, and return them."""
        poll(lambda: self.answered() >= count, f"{count} results", within_s)
        return self.results

    def answered(self) -> int:
        """Return how many results there are, duplicates not counted."""
        return len(self._by_id())

    def ask(self, topic: str, text: str) -> dict[str, Any]:
        """Publish a text and return its result, whatever is answered again beside it."""
        before = self._by_id()
        self.publish(topic, text)
        self.wait_for(len(before) + 1)
        return next(result for key, result in self._by_id().items() if key not in before)

    def _by_id(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(r["model"]["name"], r["id"]): r for r in list(self.results)}

    def insist(self, topic: str, text: str) -> dict[str, Any]:
        """Publish until it is answered, since a subscription may be under way; return a result."""
        before = self.answered()

        def heard() -> bool:
            self.publish(topic, text)
            time.sleep(0.2)
            return self.answered() > before

        poll(heard, f"an answer to {topic}")
        return self.results[-1]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(f"{BASE}/#", 1)
        self._up.set()

    def _on_message(self, _c: object, _u: object, message: paho.MQTTMessage) -> None:
        topic = message.topic.removeprefix(f"{BASE}/")
        kind = topic.split("/")[0]
        if kind in {"assignment", "fleet"} or topic == "feedback":  # to the device, not from it
            return
        found = json.loads(message.payload)
        _ADAPTERS[kind.removesuffix("s") if kind != "status" else kind].validate_python(found)
        if kind == "results":
            self.properties.append(message.properties)
            self.results.append(found)
        else:
            self.last[kind] = found
            self.other.put((kind, found))

    def _on_publish(self, *_: Any) -> None:
        self._confirmed += 1
