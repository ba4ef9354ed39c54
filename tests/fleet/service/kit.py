"""A service of a test's own, and devices that speak to it by a real broker."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine

from edgeslm.adapters.dsse import read_envelope
from edgeslm.adapters.mqtt import MqttLink
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import ASSIGNMENT, Assignment
from edgeslm.contract.rollout import Plan
from edgeslm.contract.topics import DEFAULT_ROOT, Topics
from edgeslm.core.rollout import DeviceState, State, Target
from edgeslm.fleet.database import rollouts
from edgeslm.fleet.database.engine import open_database, reading
from edgeslm.fleet.models import Stated, add
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.service.preview import preview
from edgeslm.fleet.service.service import Service
from edgeslm.fleet.service.shelf import RepositoryShelf
from edgeslm.fleet.service.wiring import make
from edgeslm.ports import Arrived, Letter, Report, Subscribed, Up
from tests.fleet import kit

WAIT_S: Final = 120.0
PROFILE: Final = "generic-x86_64"
MODEL: Final = "press"
FEATURES: Final = ["avx2", "f16c", "fma"]

Behave = Callable[[str, Assignment], str]
"""What a device does with an assignment: good, bad, deaf, or the code of its error."""


def repository_of(folder: Path, versions: int = 3) -> Repository:
    """Make a repository of today with so many versions of a model."""
    repository = kit.make(folder / "repository", kit.Clock(time.time()))
    repository = Repository(repository.folder, kit.passphrases())
    for version in range(1, versions + 1):
        bundle = kit.bundle(folder / f"bundle-{version}", name=MODEL, version=version)
        add(repository, [bundle], Stated())
    return repository


def wait_for(done: Callable[[], Any], what: str = "it", *, within_s: float = WAIT_S) -> Any:
    """Return the first true answer; fail where none comes in time."""
    until = time.monotonic() + within_s
    while not (found := done()):
        if time.monotonic() > until:
            pytest.fail(f"{what}: not within {within_s:g} s")
        time.sleep(0.05)
    return found


@dataclass(slots=True)
class Played:
    """One device."""

    seq: int = 0
    committed: int | None = 1
    serving: int | None = 1
    error: dict[str, str] | None = None
    answered: int = 1000
    errors: int = 0
    alarms: int = 10
    p99_ms: float = 20.0
    online: bool = True
    profile: str = PROFILE
    tags: dict[str, str] = field(default_factory=dict)


class Devices:
    """Many devices over one connection: each says what a real one would, and what a test wants."""

    def __init__(
        self,
        port: int,
        names: Iterable[str],
        behave: Behave = lambda _device, _assignment: "good",
        *,
        client: str = "devices",
    ) -> None:
        self.devices = {name: Played() for name in names}
        self.behave = behave
        self.assigned: dict[str, list[bytes]] = defaultdict(list)
        """Distinct envelopes by device, in the order in which they came."""
        self.known_at: dict[str, float] = {}
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        config = LinkConfig(client, Broker(host="127.0.0.1", port=port), receive_maximum=4096)
        self._link = MqttLink[Letter](config, self._reports.put)
        self._epoch = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=client, daemon=True)
        self._link.subscribe([f"{DEFAULT_ROOT}/+/assignment"])
        self._link.start()
        self._thread.start()
        assert self._ready.wait(WAIT_S)

    def say(self, *names: str) -> None:
        """Have devices retain what they are; all of them without names."""
        letters = []
        for name in names or self.devices:
            letters += self.letters(name)
        self.send(letters)

    def send(self, letters: Sequence[Letter]) -> None:
        for at in range(0, len(letters), 500):
            self._link.publish(letters[at : at + 500], epoch=self._epoch)

    def publish(self, topic: str, message: Any, *, retain: bool = False) -> None:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.send([Letter(topic, payload, retain=retain)])

    def seqs(self, name: str) -> list[int]:
        return [opened(raw).seq for raw in self.assigned[name]]

    def close(self) -> None:
        self._link.stop()
        self._link.join(5)
        self._reports.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        while (report := self._reports.get()) is not None:
            match report:
                case Up():
                    self._epoch = report.epoch
                    if self._ready.is_set():  # as real ones do after a lost connection
                        self.say()
                case Subscribed():
                    self._ready.set()
                case Arrived():
                    for message in report.messages:
                        self._assign(message.topic.split("/")[-2], message.payload)
                    self._link.settle(report.messages)
                case _:
                    pass

    def _assign(self, name: str, payload: bytes) -> None:
        if name not in self.devices or not payload or payload in self.assigned[name]:
            return
        self.assigned[name].append(payload)
        self.known_at[name] = time.monotonic()
        device, assignment = self.devices[name], opened(payload)
        if assignment.seq <= device.seq:
            return
        does = self.behave(name, assignment)
        if does == "deaf":
            return
        device.seq, device.error = assignment.seq, None
        wanted = assignment.models.get(MODEL)
        if does == "good":
            if wanted is not None and wanted.version != device.committed:
                device.committed = device.serving = wanted.version
        elif wanted is not None and wanted.version != device.committed:
            device.error = {"code": does, "message": "as the test wants"}
        self.say(name)

    def letters(self, name: str) -> list[Letter]:
        """Return what a device retains."""
        topics, device, now = Topics(DEFAULT_ROOT, name), self.devices[name], time.time()
        who = {"schema": 1, "device": name, "time": now}
        status = {**who, "online": device.online, "reason": "running"}
        model: dict[str, Any] = {
            "name": MODEL,
            "state": "serving",
            "queue": 0,
            "answered": device.answered,
            "errors": device.errors,
            "alarms": device.alarms,
            "expired": 0,
            "cache_hits": 0,
            "cache_misses": 0,
            "p99_ms": device.p99_ms,
            "version": device.serving,
        }
        state = {
            **who,
            "agent_version": "1",
            "uptime_s": now - 1.7e9,
            "rss_mb": 1.0,
            "outbox": 0,
            "withheld": 0,
            "drops": {},
            "profile": device.profile,
            "tags": device.tags,
            "models": [model] if device.serving is not None else [],
        }
        held: dict[str, Any] = {"name": MODEL}
        if device.committed is not None:
            held["version"] = device.committed
        update = {
            **who,
            "updater_version": "1",
            "phase": "idle",
            "seq": device.seq,
            "config_seq": 0,
            "models": [held],
            "platform": {
                "arch": "x86_64",
                "cpu_features": FEATURES,
                "socs": [],
                "profile": device.profile,
                "providers": ["cpu"],
            },
        }
        if device.error is not None:
            update["error"] = device.error
        return [
            Letter(topics.status, json.dumps(status).encode(), retain=True),
            Letter(topics.state, json.dumps(state).encode(), retain=True),
            Letter(topics.update, json.dumps(update).encode(), retain=True),
        ]


class Running:
    """A service on a thread of a test's."""

    def __init__(
        self, repository: Repository, database: str, port: int, *, lease_s: float = 1.0, **more: Any
    ) -> None:
        self.engine = open_database(database)
        broker = Broker(host="127.0.0.1", port=port)
        self.service: Service = make(repository, self.engine, broker, lease_s=lease_s, **more)
        self.ended: bool | None = None
        self._thread = threading.Thread(target=self._run, name="service")
        self._thread.start()

    def _run(self) -> None:
        self.ended = self.service.run()

    def stop(self) -> None:
        self.service.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.engine.dispose()


def opened(envelope: bytes) -> Assignment:
    payload = read_envelope(envelope, kind=ASSIGNMENT).payload
    return Assignment.model_validate_json(payload)


def plan(**more: Any) -> Plan:
    """Return a plan that does not wait."""
    quick = {"model": MODEL, "version": 2, "waves": ["10%", "100%"], "soak_s": 0, "deadline_s": 20}
    return Plan.model_validate_json(json.dumps({**quick, **more}))


def start(engine: Engine, repository: Repository, wanted: Plan) -> int:
    """Begin a roll-out as the command does."""
    now = time.time()
    with engine.begin() as conn:
        targets = preview(conn, RepositoryShelf(repository), wanted, now).targets(now)
        return rollouts.create(conn, wanted, targets, by="test", now=now)


def state_of(engine: Engine, number: int) -> State:
    with reading(engine) as conn:
        return rollouts.rollout(conn, number).progress.state


def targets_of(engine: Engine, number: int) -> dict[str, Target]:
    with reading(engine) as conn:
        return {each.device: each for each in rollouts.targets(conn, number)}


def counted(engine: Engine, number: int) -> dict[DeviceState, int]:
    found: dict[DeviceState, int] = defaultdict(int)
    for target in targets_of(engine, number).values():
        found[target.state] += 1
    return dict(found)


def ended(engine: Engine, number: int, *, within_s: float = WAIT_S) -> State:
    """Wait until a roll-out has ended; return how."""
    ends = {State.COMPLETED, State.ABORTED}
    wait_for(lambda: state_of(engine, number) in ends, "the roll-out's end", within_s=within_s)
    return state_of(engine, number)


def registered(engine: Engine, count: int) -> None:
    """Wait until so many devices have registered with all that they say."""
    from sqlalchemy import func, select  # noqa: PLC0415

    from edgeslm.fleet.database.schema import devices  # noqa: PLC0415

    def all_there() -> bool:
        with reading(engine) as conn:
            both = (devices.c.state_at.is_not(None), devices.c.update_at.is_not(None))
            return bool(
                conn.execute(select(func.count()).select_from(devices).where(*both)).scalar()
                == count
            )

    wait_for(all_there, f"{count} devices")
