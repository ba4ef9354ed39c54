"""One simulated device: its session, its updater and its agent, and what goes wrong with it."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from edgeslm.adapters.dsse import read_envelope
from edgeslm.adapters.mqtt_open import LinkConfig
from edgeslm.adapters.slot_store import MemorySlotStore
from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import ASSIGNMENT, Assignment
from edgeslm.contract.messages import SCHEMA_VERSION, Status, UpdateState, encode
from edgeslm.contract.profile import DeviceProfile, Trial
from edgeslm.contract.slots import ModelSlots, Slot, SlotTable
from edgeslm.contract.topics import Topics
from edgeslm.core.update import State, state_of
from edgeslm.errors import EdgeSLMError, RejectedError
from edgeslm.ports import Letter
from edgeslm.runtime.choose import choose
from edgeslm.runtime.device import Device, platform_of
from edgeslm.simulate.agent import OLD_VERSION, Nature, PlayedAgent
from edgeslm.simulate.pool import Pool, PooledLink
from edgeslm.simulate.report import Assigned, Installed, Record
from edgeslm.simulate.scenario import Group, Scenario
from edgeslm.simulate.stepped import Download, Post, SteppedDriver, SteppedUpdater
from edgeslm.simulate.trust import DeviceTrust, Known
from edgeslm.updater.mailbox import Mailbox
from edgeslm.updater.source import Switch
from edgeslm.updater.voice import Voice

BOOT_S: Final = 1.0  # of a device that went down
USER: Final = "%u"  # as a user's name: the device's id
RECEIVE_MAXIMUM: Final = 16
SLOWER: Final = 10
_WINDOW: Final = 64
_NEVER: Final = float("inf")
_MINUTE_S: Final = 60.0


class SkewedClock:
    """Implements `edgeslm.ports.Clock` for a device whose clock is ahead."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self._ahead_s = ahead_s

    def wall(self) -> float:
        return time.time() + self._ahead_s

    def monotonic(self) -> float:
        return time.monotonic()


@dataclass(frozen=True, slots=True)
class World:
    """What all devices share.

    Args:
        scenario: of the fleet.
        broker: where it is.
        root: topic levels that the fleet's devices share.
        pool: of sessions.
        known: what the fleet's signatures say; None: nothing yet.
    """

    scenario: Scenario
    broker: Broker
    root: str
    pool: Pool
    known: Callable[[], Known | None]


class Simulated:
    """One device. Its owner gives it a turn whenever its session has something, or it is due.

    Args:
        world: see there.
        name: its id.
        group: of the scenario.
        profile: of the device.
        woken: called when its session has something for it.
    """

    def __init__(
        self,
        world: World,
        name: str,
        group: Group,
        profile: DeviceProfile,
        *,
        woken: Callable[[], None],
    ) -> None:
        self.name = name
        self.record = Record(group.name, group.fault, group.version or world.scenario.version)
        self._world = world
        self._group = group
        self._topics = Topics(world.root, name)
        self._chance = random.Random(f"{world.scenario.seed} {name}")  # noqa: S311 -- a play
        self._clock = SkewedClock(group.clock_off_s if group.fault == "clock_off" else 0.0)
        self._profile = profile
        self._device = device_like(profile)
        self._woken = woken
        self._store = MemorySlotStore(Path(name))
        self._trust = DeviceTrust(world.known)
        self._deaths = group.deaths if group.fault == "dying" else 0
        self._dies_at: float | None = None
        self._silent = False
        self._epoch = 0
        self._cut_at = _NEVER
        self._state_at = self._result_at = _NEVER
        self._mailbox: Mailbox
        self._link: PooledLink
        self._post: Post
        self._updater: SteppedUpdater
        self.agent: PlayedAgent

    @property
    def at_rest(self) -> bool:
        """Whether its updater waits for news, or it will never say anything again."""
        return self._silent or self._updater.at_rest

    @property
    def connected(self) -> bool:
        return self._mailbox.connected

    def start(self) -> None:
        """Switch it on, with what the scenario says that it has."""
        self._store.write(self._flashed())
        self._mailbox = Mailbox(self._connect)
        self._mailbox.subscribe(frozenset({self._topics.assignment}))
        self._boot(lived_before=True)

    def look_again(self) -> None:
        """The fleet's metadata have changed."""
        self._post.look_again()

    def turn(self) -> float:
        """Do what is to be done now; return when there is more, monotonic seconds."""
        self._post.hear(self._mailbox.wait(0.0))
        self.record.lost = self._mailbox.lost
        now = self._clock.monotonic()
        if self._mailbox.epoch != self._epoch:
            self._epoch = self._mailbox.epoch
            if self._epoch:
                self._connected(now)
        if self._silent:
            return _NEVER
        if self._goes_down(now):
            return _NEVER
        self._updater.turn()
        self._speak(now)
        if now >= self._cut_at:
            self._cut_at = _NEVER
            self._link.cut(again_s=self._group.down_s * self._chance.uniform(0.5, 1.5))
        moments = [self._updater.again_at, self._cut_at, self._dies_at or _NEVER]
        if self._epoch:
            moments += [self._state_at, self._result_at, self.agent.due_at]
        return min(moments)

    def leave(self) -> None:
        """Say goodbye, and disconnect."""
        said: list[Letter] = []
        if not self._silent:
            self.agent.send = lambda topic, payload, retain: said.append(
                Letter(topic, payload, retain)
            )
            self.agent.status("stopped")
        self._link.stop(said[0] if said else None)

    # How it is made.

    def _connect(self, sink: Callable[[Any], None]) -> PooledLink:
        def heard(report: Any) -> None:
            sink(report)
            self._woken()

        broker = self._world.broker
        if broker.username == USER:
            broker = broker.model_copy(update={"username": self.name})
        will: Status = {
            "schema": SCHEMA_VERSION,
            "device": self.name,
            "online": False,
            "reason": "lost",
        }
        config = LinkConfig(
            self.name,
            broker,
            receive_maximum=RECEIVE_MAXIMUM,
            window=_WINDOW,
            will=(self._topics.status, encode(will)),
        )
        self._link = PooledLink(self._world.pool, config, heard)
        return self._link

    def _flashed(self) -> SlotTable:
        """Return the slots of a device that runs the version that it begins with."""
        scenario, version = self._world.scenario, self.record.version
        bundle = secrets.token_hex(32)  # of a version that the repository does not have
        if (known := self._world.known()) is not None:
            with suppress(RejectedError):
                bundle = choose(
                    known.offers.get(scenario.model, ()),
                    model=scenario.model,
                    version=version,
                    profile=self._profile,
                    device=self._device,
                ).bundle.bundle
        held = ModelSlots(active="a", a=Slot(bundle=bundle, version=version, whole=True))
        return SlotTable(models={scenario.model: held})

    def _boot(self, *, lived_before: bool = False) -> None:
        """Make updater and agent, as after a start of the device."""
        group, scenario, boot = self._group, self._world.scenario, secrets.token_hex(16)
        self._post = Post(self._mailbox, self._trust, self._topics.assignment, self._assigned)
        send = self._send
        old = group.fault == "old"
        platform = None if old else platform_of(self._device, self._profile)
        voice = Voice(
            self._topics,
            self._clock,
            send,
            self._store.read,
            platform=platform,
            seq=self._trust.accepted,
        )
        self.agent = PlayedAgent(
            self._topics,
            self._clock,
            Nature(
                scenario.model,
                partial(scenario.behaviour, group),
                self._profile.name,
                self._profile.providers[0],
                group.tags,
                lying=group.fault == "lying",
                old=old,
                installed=self._served,
            ),
            self._store.read,
            send,
            self._chance,
        )
        slower = SLOWER if group.fault == "slow" else 1
        driver = SteppedDriver(
            store=self._store,
            control=self.agent,
            voice=voice,
            clock=self._clock,
            trial=Trial(**{**dict(self._profile.trial), "duration_s": group.trial_s}),
            load_s=_MINUTE_S,
            keep_free=0,
            boot=boot,
        )
        driver.download = Download(
            group.download_s * slower * self._chance.uniform(0.5, 1.5),
            room=group.fault != "disk_full",
            size=self._size,
        )
        switch = Switch()
        self._updater = SteppedUpdater(
            device_id=self.name,
            device=self._device,
            profile=self._profile,
            store=self._store,
            trust=self._trust,
            driver=driver,
            voice=voice,
            clock=self._clock,
            broker=self._post,
            switch=switch,
            idle_exit_s=None,
        )
        driver.check = self._post.check = self._updater.check
        switch.source = self._post
        self.agent.begin(lived_before=lived_before)
        self._updater.begin()

    # What it says.

    def _send(self, topic: str, payload: bytes, retain: bool) -> None:  # noqa: FBT001 -- as `Send`
        if topic == self._topics.update:
            state = self._updater.voice.state
            self._note(state)
            if self._group.fault == "old":
                payload = encode({**state, "updater_version": OLD_VERSION})
        self._mailbox.send(topic, payload, retain=retain)

    def _connected(self, now: float) -> None:
        self.record.connections += 1
        if self._silent:
            return
        self.agent.status("running")
        self._say_state(now)
        self._updater.voice.tell()
        self._post.look_again()
        if self._group.fault == "silent":
            self._silent = True
        if self._group.fault == "flapping":
            self._cut_at = now + self._group.up_s * self._chance.uniform(0.5, 1.5)
        if self._world.scenario.results_per_minute:
            self._result_at = now + self._pause_s()

    def _say_state(self, now: float) -> None:
        self._state_at = now + self._world.scenario.state_interval_s
        self.agent.say()

    def _speak(self, now: float) -> None:
        if self._epoch:
            self.agent.say_if_changed(now)
            if now >= self._state_at:
                self._say_state(now)
            while now >= self._result_at:
                self._result_at += self._pause_s()
                self.agent.result()

    def _pause_s(self) -> float:
        return self._chance.expovariate(self._world.scenario.results_per_minute / _MINUTE_S)

    # What goes wrong.

    def _goes_down(self, now: float) -> bool:
        """Whether it goes down now: in the middle of a trial, as often as the scenario says."""
        if not self._deaths:
            return False
        if state_of(self._store.read().operation) is not State.TRIAL:
            self._dies_at = None
            return False
        if self._dies_at is None:
            self._dies_at = now + self._group.trial_s / 2
        if now < self._dies_at:
            return False
        self._deaths -= 1
        self._dies_at = None
        self._link.cut(again_s=BOOT_S)
        self._boot()
        return True

    # What is noted of it.

    def _size(self, version: int) -> int | None:
        size_mb = self._world.scenario.behaviour(self._group, version).size_mb
        return int(size_mb * 1e6) if size_mb is not None else None

    def _assigned(self, envelope: bytes, at: float) -> None:
        try:
            payload = read_envelope(envelope, kind=ASSIGNMENT).payload
            found = Assignment.model_validate_json(payload)
        except (ValueError, ValidationError, EdgeSLMError):  # told by its updater
            return
        if any(each.seq == found.seq for each in self.record.assignments):
            return
        models = {model: each.version for model, each in found.models.items()}
        waited_s = time.monotonic() - at  # for a turn, which a device of its own would not
        self.record.assignments.append(Assigned(found.seq, time.time() - waited_s, models))

    def _served(self, version: int, trial: bool) -> None:  # noqa: FBT001 -- see `Nature`
        if trial:
            seq = self._trust.accepted
            self.record.tried.append(Installed(version, seq, time.time()))

    def _note(self, state: UpdateState) -> None:
        record, now = self.record, time.time()
        model: Mapping[str, Any] = next(iter(state["models"]), {})
        version = model.get("version", record.version)
        if version != record.version:
            record.version = version
            record.installs.append(Installed(version, self._trust.accepted, now))
        if "error" in state:
            code = state["error"]["code"]
            if not record.refusals or record.refusals[-1][0] != code:
                record.refusals.append((code, now))


def device_like(profile: DeviceProfile) -> Device:
    """Return a machine that has what a profile requires, and no more."""
    requires = profile.requires
    features = {*requires.cpu_features, *requires.cpu_features_any[:1]}
    socs = {requires.soc} if requires.soc is not None else set()
    return Device(requires.arch or "x86_64", "", frozenset(features), frozenset(socs))
