"""When devices had said enough for a roll-out to be stopped: by the rules, without the service.

Listens to the same broker, and asks `core.rollout` after each message. What the service takes
longer than this is its own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.errors import RunFailedError
from edgeslm.contract.rollout import Plan
from edgeslm.contract.topics import DEFAULT_ROOT
from edgeslm.core.counters import Counts, Tally, tally
from edgeslm.core.rollout import (
    DeviceState,
    Health,
    Sight,
    Target,
    advance_device,
    breach,
    observe,
)

_READY_S: Final = 20.0


class Listener:
    """Keeps what devices say, with when it came.

    Args:
        port: of the broker, on this machine.
    """

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[float, str, str, bytes]] = []
        self._up = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_subscribe = lambda *_: self._up.set()
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(f"{DEFAULT_ROOT}/+/{kind}", 1) for kind in ("state", "update")])
        self._client.loop_start()
        if not self._up.wait(_READY_S):
            msg = "the broker does not answer a subscription"
            raise RunFailedError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _hear(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        _, device, kind = message.topic.rsplit("/", 2)
        self.heard.append((time.time(), device, kind, bytes(message.payload)))


class _Device:
    """One of the roll-out's first wave, as it has shown itself so far."""

    def __init__(self, target: Target) -> None:
        self.target = replace(target, state=DeviceState.WAITING, before=None, after=None, reason="")
        self.tally: Tally | None = None
        self.sight = Sight()

    def hear(self, plan: Plan, kind: str, message: dict[str, Any]) -> None:
        """Take a message; the roll-out's own assignment is its first."""
        model: dict[str, Any] = next((m for m in message["models"] if m["name"] == plan.model), {})
        error = message.get("error", {}).get("code")
        if kind == "update":
            seq, idle = message["seq"], message["phase"] == "idle"
            committed = model.get("version")
            self.sight = replace(self.sight, seq=seq, idle=idle, committed=committed, error=error)
        else:
            seen = Counts(model["answered"] + model["errors"], model["errors"], model["alarms"])
            self.tally, _ = tally(self.tally, model.get("version"), seen, model.get("p99_ms"))
            serving = None if model.get("trial") else model.get("version")
            self.sight = replace(self.sight, serving=serving)
        if self.target.state is DeviceState.WAITING and self.sight.seq >= 1:
            before = self._health()
            self.target = replace(self.target, state=DeviceState.MOVED, seq=1, before=before)
        if self.tally is not None and self.tally.version == plan.version:
            self.target = replace(self.target, after=self._health())
        if self.target.state is not DeviceState.WAITING:
            change = observe(plan, self.target, self.sight)
            if change is not None:
                state = advance_device(self.target.state, change.event)
                self.target = replace(self.target, state=state, reason=change.reason)

    def _health(self) -> Health | None:
        if self.tally is None:
            return None
        counts = self.tally.counts
        return Health(counts.answers, counts.errors, counts.alarms, self.tally.p99_ms)


def evidence_at(
    plan: Plan, targets: Sequence[Target], heard: Sequence[tuple[float, str, str, bytes]]
) -> float | None:
    """Return when it was there, seconds since 1970; None: never.

    Args:
        plan: of the roll-out, whose assignments are the devices' first.
        targets: all its devices.
        heard: what they said, in order.
    """
    moved = {t.device: _Device(t) for t in targets if t.wave == 0}
    others = [replace(t, state=DeviceState.WAITING) for t in targets if t.wave > 0]
    for at, device, kind, payload in heard:
        if device not in moved:
            continue
        moved[device].hear(plan, kind, json.loads(payload))
        if breach(plan, [each.target for each in moved.values()] + others) is not None:
            return at
    return None
