"""What one worker of the fleet's service takes in: the rates that its sizing table is made of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from benchmarks.figures import Measured
from benchmarks.groups.fleet_page import said
from benchmarks.setup import Setup
from benchmarks.stats import repeated
from edgeslm.contract.messages import encode
from edgeslm.fleet.database.engine import open_database
from edgeslm.fleet.service.inbound import read
from edgeslm.fleet.service.ingest import MAX_BATCH
from edgeslm.fleet.service.store import Store

_ROOT: Final = "edgeslm/v1"
_DEVICES: Final = 2000
_Message = tuple[str, bytes]


def fleet_rates(setup: Setup) -> dict[str, Measured]:
    """States of 2,000 devices, and their results, one in fifty an alarm; beside bare JSON."""
    store = Store(open_database(f"sqlite:///{setup.work / 'fleet.db'}"))
    rounds: dict[str, tuple[list[float], list[float]]] = {
        "fleet-states": ([], []),
        "fleet-results": ([], []),
    }
    for number in range(setup.rounds):
        for name, make in (("fleet-states", _states), ("fleet-results", _results)):
            setup.tell(f"round {number + 1} of {setup.rounds}: {name}")
            messages = make(number)
            ours, theirs = rounds[name]
            ours.append(_rate(messages, lambda batch: _take(store, batch)))
            theirs.append(_rate(messages, lambda batch: [json.loads(raw) for _, raw in batch]))
    return {name: repeated(ours, theirs) for name, (ours, theirs) in rounds.items()}


def _take(store: Store, batch: Sequence[_Message]) -> None:
    store.keep([read(_ROOT, topic, raw) for topic, raw in batch], time.time())


def _rate(messages: Sequence[_Message], take: Callable[[Sequence[_Message]], object]) -> float:
    """Return messages a second of processor time, in batches as the service makes them."""
    began = time.process_time()
    for first in range(0, len(messages), MAX_BATCH):
        take(messages[first : first + MAX_BATCH])
    return len(messages) / (time.process_time() - began)


def _states(number: int) -> list[_Message]:
    now = time.time() + number
    found: list[_Message] = []
    for device in range(_DEVICES):
        heard = said(device, now)[0]
        state: Any = {
            **heard.message,
            "schema": 1,
            "device": heard.device,
            "outbox": 0,
            "withheld": 0,
            "drops": {},
        }
        state["models"] = [
            {**m, "expired": 0, "cache_hits": 9, "cache_misses": 1} for m in state["models"]
        ]
        found.append((f"{_ROOT}/{heard.device}/state", encode(state)))
    return found


def _results(number: int) -> list[_Message]:
    now = time.time()
    found: list[_Message] = []
    for device in range(_DEVICES):
        name = f"press-{device:04d}"
        for count in range(5):
            alarm = (device + count) % 50 == 0
            result: Any = {
                "schema": 1,
                "id": f"{name}/{number}/{count}",
                "device": name,
                "topic": "plant/a",
                "source": "a",
                "time_in": now,
                "time_out": now,
                "latency_ms": 9.0,
                "task": "anomaly",
                "model": {"name": "press", "version": 4, "hash": "ab" * 32},
                "label": "anomaly" if alarm else "normal",
                "confidence": 0.9,
                "score": 0.9 if alarm else 0.1,
                "p_value": 0.001 if alarm else 0.5,
            }
            found.append((f"{_ROOT}/{name}/results/press", encode(result)))
    return found
