"""Who takes part in a race over MQTT: the agent and its rivals, each a process of its own."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.broker import Broker
from benchmarks.errors import RunFailedError
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.demo.processes import Child

MODEL: Final = "measured"
NODE_SERVICE: Final = "service.js"
TOPIC: Final = "plant/lines"
"""What everybody reads; to the agent it is also the source that the plant's bundle knows."""
_START_S: Final = 120.0
_SETTLE_S: Final = 30.0
_numbers: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that has given its first result.

    Args:
        child: its process.
        out: topic it answers on.
        first_s: seconds from the start of the process to its first result.
    """

    child: Child
    out: str
    first_s: float


Enter = Callable[[Broker, Path], tuple[list[str], str]]
"""(broker, folder of its own, named uniquely) -> (what to run, topic of its results)."""


def script(bundle: Path, *, cache: int = 0) -> Enter:
    """Enter the straightforward script, with an `lru_cache` of that size on the text."""

    def enter(broker: Broker, folder: Path) -> tuple[list[str], str]:
        out = f"answers/{folder.name}"
        model = ("--bundle", str(bundle), "--cache", str(cache))
        return [*_rival("script", broker, out), *model], out

    return enter


def echo() -> Enter:
    """Enter the echo, which runs no model."""

    def enter(broker: Broker, folder: Path) -> tuple[list[str], str]:
        out = f"answers/{folder.name}"
        return _rival("echo", broker, out), out

    return enter


def node(folder: Path, bundle: Path) -> Enter:
    """Enter the service in Node.js, installed in `folder`; see benchmarks/rivals/node/."""

    def enter(broker: Broker, own: Path) -> tuple[list[str], str]:
        out = f"answers/{own.name}"
        at = ("--port", str(broker.port), "--into", TOPIC, "--out", out)
        return ["node", str(folder / NODE_SERVICE), *at, "--bundle", str(bundle)], out

    return enter


def agent(
    bundle: Path, *, verdicts: Path | None = None, updates: tuple[Path, Path] | None = None
) -> Enter:
    """Enter `edgeslm run` with one model and one route of plain texts.

    Args:
        bundle: what it serves.
        verdicts: a state folder that outlives this start, as on a device; by default a new one.
        updates: an updater's directory, and a runtime folder in which it finds the agent.
    """

    def enter(broker: Broker, folder: Path) -> tuple[list[str], str]:
        device = folder.name
        config = folder / "edgeslm.toml"
        # The first text is a retained message, which an agent answers once: forget that it has.
        for answered in (verdicts or folder).glob("retained-*.json"):
            answered.unlink()
        lines = [
            f"device_id = {_toml(device)}",
            f"state_dir = {_toml(verdicts or folder / 'state')}",
            f"runtime_dir = {_toml(updates[1] if updates else folder / 'runtime')}",
            "state_interval_s = 1",
            "[uplink]",
            'host = "127.0.0.1"',
            f"port = {broker.port}",
            # Its session ends with it: what the next contestant is sent must not queue up here.
            "session_expiry_s = 0",
            f"[models.{MODEL}]",
            f"bundle = {_toml(bundle)}",
            "[routes.texts]",
            f"topic = {_toml(TOPIC)}",
            f"models = [{_toml(MODEL)}]",
        ]
        if updates:
            lines += ["[update]", f"dir = {_toml(updates[0])}"]
        config.write_text("\n".join((*lines, "")), "utf-8")
        argv = [sys.executable, "-m", "edgeslm", "run", "--config", str(config)]
        return argv, Topics(DEFAULT_ROOT, device).results(MODEL)

    return enter


@contextmanager
def running(enter: Enter, broker: Broker, work: Path, *, probe: str) -> Iterator[Running]:
    """Start a contestant and wait for its first result.

    The first text lies on the input topic as a retained message before the process starts, so
    that it is answered as soon as anybody can answer it.

    Args:
        enter: who.
        broker: where.
        work: its folder is made in here.
        probe: the first text.

    Raises:
        RunFailedError: it ended, or gave no result in time.
    """
    number = next(_numbers)
    folder = work / f"contestant-{number}"
    for name in ("state", "runtime"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    argv, out = enter(broker, folder)
    with listening(broker, out) as (client, arrivals):
        client.publish(TOPIC, probe, qos=1, retain=True).wait_for_publish(_START_S)
        begun = time.perf_counter()
        with Child(argv[1], argv, log=folder / "log") as child:
            while not arrivals:
                if child.status is not None or time.perf_counter() - begun > _START_S:
                    msg = f"{' '.join(argv[1:4])}: no first result: {child.last_words()}"
                    raise RunFailedError(msg)
                time.sleep(0.001)
            first_s = arrivals[0] - begun
            client.disconnect()
            yield Running(child, out, first_s)


@contextmanager
def listening(broker: Broker, topic: str) -> Iterator[tuple[paho.Client, list[float]]]:
    """Subscribe to `topic`; yield the client and the times its messages arrived, perf_counter."""
    arrivals: list[float] = []
    ready = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2)
    # Else what we publish may wait 40 ms for the acknowledgement of what went before.
    client.on_socket_open = _without_delay
    client.on_connect = lambda c, *_: c.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda *_: arrivals.append(time.perf_counter())
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        if not ready.wait(_SETTLE_S):
            msg = "the broker does not answer a subscription"
            raise RunFailedError(msg)
        yield client, arrivals
    finally:
        client.disconnect()
        client.loop_stop()


def settled(broker: Broker, agent_topic: str, *, answered: int) -> dict[str, Any]:
    """Wait until the agent's retained state counts `answered` answers; return that model's state.

    Args:
        broker: where.
        agent_topic: of its results.
        answered: how many it must have given, the first one included.

    Raises:
        RunFailedError: it does not come to that, or some answers are errors.
    """
    device = agent_topic.split("/")[-3]
    latest: dict[str, Any] = {}
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda c, *_: c.subscribe(Topics(DEFAULT_ROOT, device).state, qos=1)
    client.on_message = lambda _c, _u, m: latest.update(json.loads(m.payload)["models"][0])
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        deadline = time.monotonic() + _SETTLE_S
        while latest.get("answered", 0) < answered and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        client.disconnect()
        client.loop_stop()
    counts = latest.get("answered"), latest.get("errors")
    if counts != (answered, 0):
        msg = f"the agent counts {counts[0]} of {answered} answers and {counts[1]} errors"
        raise RunFailedError(msg)
    return latest


def _without_delay(_client: paho.Client, _userdata: Any, connection: Any) -> None:
    """Set the option on what is a socket: our brokers speak neither TLS nor WebSockets."""
    connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)


def _rival(name: str, broker: Broker, out: str) -> list[str]:
    at = ("--port", str(broker.port), "--into", TOPIC, "--out", out)
    return [sys.executable, "-m", f"benchmarks.rivals.{name}", *at]


def _toml(value: object) -> str:
    """A TOML string: JSON's escapes are a part of TOML's."""
    return json.dumps(str(value))
