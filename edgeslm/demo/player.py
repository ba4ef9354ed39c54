"""The factory's side of the wire: one MQTT client that publishes texts and takes results."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edgeslm.contract.messages import Result, State
from edgeslm.contract.topics import Topics
from edgeslm.demo.errors import BrokerFailedError
from edgeslm.demo.factory import Message

MACHINES_TOPIC: Final = "factory/machines"
ORDERS_TOPIC: Final = "factory/orders"
_CONNECT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One MQTT message that came, at monotonic second `at`."""

    topic: str
    payload: bytes
    at: float


class Player:
    """Publishes messages as JSON, QoS 1, each with its own id, and queues what the agent says.

    Args:
        port: of the broker on loopback.
        topics: of the agent's device.

    Raises:
        BrokerFailedError: the broker does not take us.
    """

    def __init__(self, port: int, topics: Topics) -> None:
        self._topics = topics
        # Filled by paho's thread, emptied by ours; bounded by the messages we let be under way.
        self._arrived: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="edgeslm-demo", protocol=mqtt.MQTTv5
        )
        self._client.max_inflight_messages_set(1000)
        self._client.on_socket_open = _no_delay
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        try:
            self._client.connect("127.0.0.1", port)
            self._client.loop_start()
            taken = self._subscribed.wait(_CONNECT_S)
        except OSError:
            taken = False
        if not taken:
            self._client.loop_stop()
            msg = f"the broker on port {port} does not take the factory's connection"
            raise BrokerFailedError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, message: Message) -> None:
        """Send `message`; returns at once."""
        kind = MACHINES_TOPIC if message.order is None else ORDERS_TOPIC
        payload = {
            "id": message.id,
            "from": message.source,
            "at": message.time,
            "text": message.text,
        }
        self._client.publish(f"{kind}/{level(message.source)}", json.dumps(payload), qos=1)

    def arrivals(self, wait_s: float) -> Iterator[Arrival]:
        """Yield what has come; waits up to `wait_s` seconds for the first, for no other."""
        try:
            yield self._arrived.get(timeout=wait_s) if wait_s > 0 else self._arrived.get_nowait()
            while True:
                yield self._arrived.get_nowait()
        except queue.Empty:
            return

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: ReasonCode, properties: Any
    ) -> None:
        del userdata, flags, properties
        if not reason.is_failure:
            client.subscribe(f"{self._topics.base}/#", qos=1)

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        del client, userdata
        self._arrived.put(Arrival(message.topic, bytes(message.payload), time.monotonic()))


def level(source: str) -> str:
    """`source` as one topic level: what MQTT gives a meaning to becomes an underscore."""
    return "".join("_" if c in "/+#\0" else c for c in source) or "_"


def parse(arrival: Arrival, topics: Topics) -> tuple[str, Any]:
    """Sort an arrival: ("result", Result), ("state", State), or ("", None) for the rest."""
    if arrival.topic.startswith(topics.results("")):
        result: Result = json.loads(arrival.payload)
        return "result", result
    if arrival.topic == topics.state:
        state: State = json.loads(arrival.payload)
        return "state", state
    return "", None


def _no_delay(client: mqtt.Client, userdata: Any, sock: Any) -> None:
    del client, userdata
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
