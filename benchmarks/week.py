"""Who speaks and who hears in a week of outages, and the account of what came of each text."""

from __future__ import annotations

import json
import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.errors import RunFailedError
from edgeslm.contract.topics import DEFAULT_ROOT, Topics

ALERTS: Final = "alarm"
TELEMETRY: Final = "in"
SOURCES: Final = ("a", "b", "c")
EVERY: Final = 40  # texts, of which one is an alert
_SESSION_S: Final = 100_000
_UP_S: Final = 30.0
_PACKETS: Final = 65_535  # ids of MQTT packets, from 1


class Client:
    """A client whose session the broker keeps, and who comes back for as long as it is not closed.

    Args:
        port: of the broker.
        name: its id.
    """

    def __init__(self, port: int, name: str) -> None:
        self._up = threading.Event()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        keep = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call] # paho's
        keep.SessionExpiryInterval = _SESSION_S
        self._client.connect("127.0.0.1", port, clean_start=False, properties=keep)
        self._client.loop_start()
        if not self._up.wait(_UP_S):
            msg = f"{name}: the broker does not answer"
            raise RunFailedError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, _client: paho.Client, *_: Any) -> None:
        self._up.set()

    def _on_disconnect(self, *_: Any) -> None:
        """Nothing: it comes back."""

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        """Nothing is heard."""


class Source(Client):
    """Publishes numbered texts in order, each again and again until the broker has it.

    After a break none is published before all of those under way are acknowledged: the client
    would send it among them.

    Attributes:
        sent: topic of each text, by its number.
        again: numbers of texts that were under way when a connection broke: they are published
            once more, and nobody can say whether the broker has them already.
    """

    def __init__(self, port: int, texts: Sequence[str]) -> None:
        self.sent: list[str] = []
        self.again: set[int] = set()
        self._texts = texts
        self._pending: dict[int, int] = {}  # number by packet id
        self._connected = False
        self._in_order = threading.Event()
        super().__init__(port, "source")
        self._client.on_publish = self._on_publish

    def send(self) -> None:
        """Publish the next one, as soon as that keeps the order.

        Raises:
            RunFailedError: the client does not count as we do, or the broker stays away.
        """
        if not self._in_order.wait(_UP_S):
            msg = "the source's broker does not come back"
            raise RunFailedError(msg)
        number = len(self.sent)
        kind = ALERTS if number % EVERY == 0 else TELEMETRY
        topic = f"{kind}/{SOURCES[number % len(SOURCES)]}"
        payload = json.dumps({"text": self._texts[number % len(self._texts)], "n": str(number)})
        packet = number % _PACKETS + 1  # known before, since it may be acknowledged at once
        self.sent.append(topic)
        self._pending[packet] = number
        if self._client.publish(topic, payload, qos=1).mid != packet:
            msg = "the source's client counts packets in a way of its own"
            raise RunFailedError(msg)

    def unacknowledged(self) -> int:
        """Return how many texts the broker has not acknowledged."""
        return len(self._pending)

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        self._connected = True
        self._see_order()
        super()._on_connect(client)

    def _on_publish(self, _client: object, _data: object, packet: int, *_: Any) -> None:
        self._pending.pop(packet, None)
        self._see_order()

    def _on_disconnect(self, *_: Any) -> None:
        self._connected = False
        self._in_order.clear()
        self.again |= set(self._pending.copy().values())

    def _see_order(self) -> None:
        if self._connected and not self._pending:
            self._in_order.set()


class Listener(Client):
    """Hears all that a device says.

    Attributes:
        results: in order.
        state: the newest.
        given_up: results of telemetry that the device counted as given up, over all its lives.
    """

    def __init__(self, port: int, device: str) -> None:
        self.results: list[dict[str, Any]] = []
        self.state: dict[str, Any] = {}
        self.given_up = 0
        self._topics = Topics(DEFAULT_ROOT, device)
        super().__init__(port, "listener")

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(self._topics.results("+"), qos=1)
        client.subscribe(self._topics.state, qos=1)
        self._up.set()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        found = json.loads(message.payload)
        if message.topic != self._topics.state:
            self.results.append(found)
            return
        before, now = _gone(self.state), _gone(found)
        self.given_up += now - before if now >= before else now  # less: another life counts
        self.state = found


def _gone(state: Mapping[str, Any]) -> int:
    drops = state.get("drops", {})
    return sum(drops.get(why, 0) for why in ("telemetry_evicted", "telemetry_expired"))


@dataclass(slots=True)
class Account:
    """What became of the texts.

    Args:
        alerts: how many there were.
        alerts_lost: those without an answer.
        telemetry: how many there were.
        summarised: how many of them are in summaries alone.
        missing: telemetry that is neither answered nor summarised.
        repeated: answers that came again, and say so by their id.
        unclear: answers that came again and do not: another id for the same text, one id for two
            texts, or a summary that counts more than its texts and what it marks as redelivered.
    """

    alerts: int = 0
    alerts_lost: int = 0
    telemetry: int = 0
    summarised: int = 0
    missing: int = 0
    repeated: int = 0
    unclear: int = 0


@dataclass(slots=True)
class _Topic:
    """What came of one source's texts."""

    single: dict[str, int] = field(default_factory=dict)  # number by id
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)


def account(sent: Sequence[str], again: set[int], results: Sequence[Mapping[str, Any]]) -> Account:
    """Settle it.

    Args:
        sent: topic of each text, by its number.
        again: numbers that their source has published more than once.
        results: all that came; one that is an error answers nothing. Their key is the number.
    """
    found = Account()
    topics: defaultdict[str, _Topic] = defaultdict(_Topic)
    for one in results:
        if "error" in one:
            continue
        topic = topics[str(one["topic"])]
        if "summary" in one:
            found.repeated += one["id"] in topic.summaries
            found.unclear += topic.summaries.setdefault(one["id"], one["summary"]) != one["summary"]
            continue
        number = int(one["key"])
        found.repeated += one["id"] in topic.single
        found.unclear += topic.single.setdefault(one["id"], number) != number
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(sent):
        numbers[name].append(number)
    for name, mine in numbers.items():
        answered = set(topics[name].single.values())
        found.unclear += len(topics[name].single) - len(answered)
        if name.startswith(f"{ALERTS}/"):
            found.alerts += len(mine)
            found.alerts_lost += len(set(mine) - answered)
            continue
        found.telemetry += len(mine)
        summed, missing, unclear = _summed(mine, again, answered, topics[name].summaries)
        found.summarised += summed
        found.missing += missing
        found.unclear += unclear
    return found


def _summed(
    mine: Sequence[int],
    again: set[int],
    answered: set[int],
    summaries: Mapping[str, Mapping[str, Any]],
) -> tuple[int, int, int]:
    """Return how many texts are in summaries alone, in nothing, and counted twice without a mark.

    Summaries whose numbers overlap are looked at as one: which text is in which is not said.
    """
    spans: list[list[int]] = []  # first, last, counted, marked
    for each in sorted(summaries.values(), key=lambda s: min(_ends(s))):
        first, last = min(_ends(each)), max(_ends(each))
        if spans and first <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], last)
            spans[-1][2] += each["count"]
            spans[-1][3] += each["redelivered"]
        else:
            spans.append([first, last, each["count"], each["redelivered"]])
    summed = unclear = 0
    missing = len(set(mine) - answered)
    for first, last, counted, marked in spans:
        inside = mine[bisect_left(mine, first) : bisect_right(mine, last)]
        alone = sum(number not in answered for number in inside)
        summed += min(alone, counted)
        missing -= min(alone, counted)
        unmarked = marked + sum(number in again for number in inside)
        unclear += max(0, counted - alone - unmarked)
    return summed, missing, unclear


def _ends(summary: Mapping[str, Any]) -> tuple[int, int]:
    return int(summary["first_id"]), int(summary["last_id"])
