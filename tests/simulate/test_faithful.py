"""A simulated device says what a real one says, in the same order, in the same story."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgeslm.contract.messages import ADAPTERS
from edgeslm.fleet.director import Wish
from tests.agent.kit import brittle_bundle, poll
from tests.fleet import kit
from tests.mosquitto import Mosquitto
from tests.simulate import play as playing
from tests.updater.test_system import System
from tests.updater.whole import DEVICE, MODEL, Fleet

pytestmark = [pytest.mark.broker, pytest.mark.timeout(240)]
BAD: Final = 3  # fails its golden file
ERRING: Final = 4  # passes it, and answers with errors
PLAYED: Final = "sim-00001"
REST_S: Final = 12.0
TRIAL_S: Final = 3.0
WITHIN_S: Final = 60.0
QUIET_S: Final = 1.5  # without a message: all has been said
# What a real one also says, of a graph that a played one does not have.
MAYBE: Final = {"clock", "written_mb", "rss_mb_per_h"}  # where the system can say it
UNPLAYED: Final = {"coverage", "passed_over", "variant", "p50_ms", "p99_ms"}


class Ear:
    """Hears what devices say."""

    def __init__(self, port: int) -> None:
        self.said: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="ear")
        self._client.on_message = self._hear
        self._up = threading.Event()
        self._client.on_subscribe = lambda *_: self._up.set()
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(f"edgeslm/v1/+/{kind}", 1) for kind in ("state", "update")])
        self._client.subscribe("edgeslm/v1/+/events", 1)
        self._client.loop_start()
        assert self._up.wait(10)

    def _hear(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        _, _, device, kind = message.topic.split("/")
        found = json.loads(message.payload)
        ADAPTERS[kind.removesuffix("s")].validate_python(found)
        self.said[device, kind].append(found)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def update_of(message: dict[str, Any]) -> Any:
    """What an `update` says, without times, bytes and what it waits for."""
    models = [
        (m["name"], m.get("version"), m.get("bundle"), m.get("spare_version"), m.get("bad"))
        for m in message["models"]
    ]
    error = message.get("error", {}).get("code")
    kept = (message.get(key) for key in ("phase", "seq", "config_seq", "model", "version"))
    return *kept, models, error


def state_of(message: dict[str, Any]) -> Any:
    return [
        tuple(model.get(key) for key in ("name", "state", "version", "hash", "slot", "trial"))
        for model in message["models"]
    ]


def event_of(message: dict[str, Any]) -> Any:
    error = message.get("error", {}).get("code")
    return message["event"], message.get("model"), message.get("detail"), error


READ: Final = {"update": update_of, "state": state_of, "events": event_of}


class Two:
    """A real device and a simulated one, of one fleet."""

    def __init__(self, system: System, port: int) -> None:
        self.system = system
        self.ear = Ear(port)
        self.played: playing.Played | None = None

    def begin(self, port: int, folder: Path) -> None:
        """Have both run version 1, by an assignment."""
        system = self.system
        versions = {
            str(BAD): {"golden": False},
            str(ERRING): {"answers_per_minute": 6000.0, "errors": 0.9},
        }
        profile = str(system.fleet.profile)
        group = {"name": "one", "profiles": [profile], "download_s": 0.2, "trial_s": TRIAL_S}
        scenario = playing.scenario(
            model=MODEL, group=[group], versions=versions, state_interval_s=600
        )
        system.updater.start()
        self.assign(1, DEVICE)  # it was flashed with it, and has it in no slot
        self.played = playing.Played(system.fleet.repository, port, scenario, 1, folder)
        self.assign(1, PLAYED)

    def assign(self, version: int, *devices: str) -> None:
        for device in devices:
            wish = Wish(models={MODEL: version})
            seq = kit.assign(self.system.fleet.repository, device, wish).seq

            def done(device: str = device, seq: int = seq) -> bool:
                last = next(iter(self.ear.said[device, "update"][-1:]), None)
                if last is None or (last["phase"], last["seq"]) != ("idle", seq):
                    return False
                return "error" in last or version in [m.get("version") for m in last["models"]]

            poll(done, f"{device} has {version}", WITHIN_S)
        self._let_finish()

    def _let_finish(self) -> None:
        """Wait until nobody says more: on a busy machine what is last comes late."""
        until = time.monotonic() + WITHIN_S
        count = -1
        while count != (count := sum(map(len, self.ear.said.values()))):
            assert time.monotonic() < until
            time.sleep(QUIET_S)

    def both(self, version: int) -> dict[str, tuple[list[Any], list[Any]]]:
        """Assign a version to both; return what each has said since, by topic."""
        devices = (DEVICE, PLAYED)
        before = {key: len(said) for key, said in self.ear.said.items()}
        for device in devices:
            self.assign(version, device)
        return {
            kind: (
                self._new(DEVICE, kind, before),
                self._new(PLAYED, kind, before),
            )
            for kind in READ
        }

    def _new(self, device: str, kind: str, before: dict[tuple[str, str], int]) -> list[Any]:
        read, begin = READ[kind], before.get((device, kind), 0)
        said = [read(message) for message in self.ear.said[device, kind]]
        # Of messages that differ in what is not read, the one before may be the same.
        news = itertools.dropwhile(lambda each: said[:begin][-1:] == [each], said[begin:])
        found = [key for key, _ in itertools.groupby(news)]
        if kind == "events":  # agent's and updater's come by connections of their own
            found.sort(key=lambda each: each[0].startswith("update_"))
        return found

    def close(self) -> None:
        if self.played is not None:
            self.played.stop()
        self.ear.close()
        self.system.close()


@pytest.fixture
def two(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Two]:
    fleet = Fleet(tmp_path / "fleet")
    text = fleet.profile.read_text()
    fleet.profile.write_text(text.replace("duration_s = 0.0", f"duration_s = {TRIAL_S}"))
    for version in (1, 2, 3, 4):
        bundle = brittle_bundle(tmp_path / f"v{version}", version=version, label="ok")
        if version == BAD:
            golden = bundle / "golden.jsonl"
            spoil(bundle, golden, golden.read_bytes().replace(b'"label": "ok"', b'"label": "no"'))
        fleet.offer(version, bundle)
    made = Two(System(tmp_path, fleet, mosquitto), mosquitto.port)
    try:
        made.begin(mosquitto.port, tmp_path / "played")
        yield made
    finally:
        made.close()


def agree(kind: str, one: list[Any], other: list[Any]) -> bool:
    """Whether both tell the same, in the same order.

    A state says what is, not what was: of two changes at once, whoever is busy tells the second.
    """
    if kind != "state":
        return one == other
    fewer, more = sorted((one, other), key=len)
    rest = iter(more)
    return all(each in rest for each in fewer) and one[-1:] == other[-1:]


def spoil(bundle: Path, file: Path, raw: bytes) -> None:
    """Write a file of a bundle anew, with its row of the manifest."""
    import hashlib  # noqa: PLC0415 -- here alone

    file.write_bytes(raw)
    manifest = json.loads((bundle / "manifest.json").read_text())
    for artifact in manifest["artifacts"]:
        if artifact["path"] == file.name:
            artifact["size"] = len(raw)
            artifact["sha256"] = hashlib.sha256(raw).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def busy(two: Two) -> Iterator[Two]:
    """Its real device is given texts, of which version `ERRING` is given such as fail."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            state = two.ear.said[DEVICE, "state"]
            fails = state and state[-1]["models"][0].get("version") == ERRING
            two.system.plant.publish("plant/a", "raise it" if fails else "hello")

    worker = threading.Thread(target=work)
    worker.start()
    yield two
    stop.set()
    worker.join()


@pytest.mark.slow  # what is said when, of two processes: a busy machine upsets it
def test_a_simulated_device_says_what_a_real_one_says(busy: Two) -> None:
    # It passes; its golden file fails; it errs in its trial, and is taken back.
    for version in (2, BAD, ERRING):
        for kind, (real, played) in busy.both(version).items():
            assert agree(kind, played, real), f"{kind} of version {version}: {played}, {real}"
    for kind in ("state", "update"):
        mine, theirs = (busy.ear.said[device, kind][-1] for device in (PLAYED, DEVICE))
        assert mine.keys() | MAYBE == theirs.keys() | MAYBE
        assert set(mine["models"][0]) - UNPLAYED == set(theirs["models"][0]) - UNPLAYED


@pytest.mark.slow
def test_it_takes_an_older_version_and_nothing_twice(busy: Two) -> None:
    for version in (2, BAD, 1, 1, BAD):
        time.sleep(REST_S)  # an agent says so many changes a minute
        for kind, (real, played) in busy.both(version).items():
            assert agree(kind, played, real), f"{kind} of version {version}: {played}, {real}"
