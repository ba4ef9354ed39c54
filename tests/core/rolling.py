"""A fleet that is moved by `edgeslm.core.rollout` alone, held to its rules at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import (
    ASSIGNS,
    ENDED,
    TOUCHED,
    Change,
    Decision,
    DeviceEvent,
    DeviceState,
    Event,
    Health,
    Progress,
    Sight,
    State,
    Target,
    advance,
    advance_device,
    asked,
    decide,
    joins,
    observe,
    waves_of,
)

OLD, NEW = 6, 7
WELL = Health(1000, 0, 10, 5.0)
BEGAN = 1_000_000.0

Behaviour = Callable[["Device", "Fleet"], None]


@dataclass
class Device:
    """What a device is in truth, and what it has said.

    Attributes:
        given: version and number of its newest assignment.
        said: what the service knows of it.
        steps: since that assignment.
    """

    name: str
    type: str
    behave: Behaviour
    given: tuple[int | None, int] = (OLD, 0)
    said: Sight = field(default_factory=lambda: Sight(committed=OLD, serving=OLD))
    steps: int = 0

    def say(self, fleet: Fleet, **what: object) -> None:
        self.said = replace(self.said, heard_at=fleet.now, **what)  # type: ignore[arg-type]


@dataclass
class Fleet:
    """Args: the plan, and by device its type and how it behaves."""

    plan: Plan
    devices: dict[str, Device]
    progress: Progress = field(default_factory=lambda: Progress(since=BEGAN))
    targets: dict[str, Target] = field(default_factory=dict)
    now: float = BEGAN
    listening: float = 0.0
    minute: int = 0
    seq: int = 0
    moves: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list)
    after: Health = WELL

    @classmethod
    def of(cls, plan: Plan, of: Mapping[str, tuple[str, Behaviour]]) -> Fleet:
        devices = {name: Device(name, kind, behave) for name, (kind, behave) in of.items()}
        fleet = cls(plan, devices)
        waves = waves_of(plan, {name: kind for name, (kind, _) in of.items()}, salt="1")
        for name, wave in waves.items():
            fleet.targets[name] = fleet.target(name, wave)
        return fleet

    def target(self, name: str, wave: int) -> Target:
        device = self.devices[name]
        return Target(name, device.type, wave, since=self.now, previous=OLD, before=WELL)

    def join(self, name: str, kind: str, behave: Behaviour) -> bool:
        wave = joins(self.plan, self.progress, now=self.now)
        if wave is None or name in self.devices:
            return False
        self.devices[name] = Device(name, kind, behave)
        self.targets[name] = self.target(name, wave)
        return True

    def ask(self, event: Event) -> bool:
        if self.progress.state in ENDED | {State.TAKING_BACK}:
            return False
        if event is (Event.PAUSE if self.progress.state is State.PAUSED else Event.RESUME):
            return False
        self.write(asked(self.progress, event, now=self.now, by="ann"))
        return True

    def tick(self, seconds: float = 1.0) -> Decision:
        """Let time pass, devices speak, and decide once."""
        self.now += seconds
        for device in self.devices.values():
            device.steps += 1
            device.behave(device, self)
        for name, target in self.targets.items():
            change = observe(self.plan, target, self.devices[name].said)
            if change is not None:
                self.change(change)
        decision = self.decided()
        self.write(decision)
        return decision

    def decided(self) -> Decision:
        heard = {
            name: device.said.heard_at
            for name, device in self.devices.items()
            if device.said.seq >= self.targets[name].seq > 0
        }
        return decide(
            self.plan,
            self.progress,
            list(self.targets.values()),
            now=self.now,
            minute=self.minute,
            heard=heard,
            listening=self.listening,
        )

    def write(self, decision: Decision) -> None:
        if decision.event is None:
            assert decision.progress.state is self.progress.state
        else:
            assert decision.progress.state is advance(self.progress.state, decision.event)
            self.events.append(decision.event)
        named = [change.device for change in decision.changes]
        assert len(set(named)) == len(named)
        moved = [c.device for c in decision.changes if c.event is DeviceEvent.MOVE]
        if moved:
            self.check_moves(moved)
        self.progress = decision.progress
        for change in decision.changes:
            self.change(change)

    def check_moves(self, moved: list[str]) -> None:
        assert self.progress.state is State.MOVING
        assert all(self.targets[name].wave <= self.progress.wave for name in moved)
        if not self.plan.canaries_per_type or self.progress.accepted_at:
            return
        proven = {t.type for t in self.targets.values() if t.state is DeviceState.SUCCEEDED}
        first = Counter(t.type for t in self.targets.values() if t.wave == 0)
        touched = Counter(t.type for t in self.targets.values() if t.state in TOUCHED)
        touched.update(self.targets[name].type for name in moved)
        for kind in {self.targets[name].type for name in moved} - proven:
            assert touched[kind] <= max(self.plan.canaries_per_type, first[kind])

    def change(self, change: Change) -> None:
        target = self.targets[change.device]
        device = self.devices[change.device]
        state = advance_device(target.state, change.event)
        self.moves[change.device] += change.event is DeviceEvent.MOVE
        assert self.moves[change.device] <= 1
        version = ASSIGNS.get((target.state, change.event))
        if version is not None:
            self.seq += 1
            device.given = (NEW if version == "new" else target.previous, self.seq)
            device.steps = 0
        self.targets[change.device] = replace(
            target,
            state=state,
            since=self.now,
            seq=self.seq if version is not None else target.seq,
            reason=change.reason,
            after=self.after if state is DeviceState.SUCCEEDED else target.after,
        )

    def run(self, seconds: float = 1.0, ticks: int = 1000) -> None:
        """Go on until it has ended, without an operator."""
        for _ in range(ticks):
            self.tick(seconds)
            if self.progress.state in ENDED | {State.PAUSED}:
                return
        raise AssertionError(self.progress)

    def at(self) -> State:
        return self.progress.state

    def state_of(self, name: str) -> DeviceState:
        return self.targets[name].state

    def states(self) -> Counter[DeviceState]:
        return Counter(target.state for target in self.targets.values())

    def touched(self) -> int:
        return sum(self.moves.values())


def good(device: Device, fleet: Fleet) -> None:
    """Does what it is told, in two steps."""
    version, seq = device.given
    if device.steps < 2:
        device.say(fleet, seq=seq, idle=False)
    else:
        device.say(fleet, seq=seq, idle=True, committed=version, serving=version, error=None)


def bad(device: Device, fleet: Fleet) -> None:
    """Refuses the new version."""
    version, seq = device.given
    error = "trial.golden" if version == NEW else None
    device.say(fleet, seq=seq, idle=True, committed=OLD, serving=OLD, error=error)


def full(device: Device, fleet: Fleet) -> None:
    """Has no room, and tries again for ever."""
    version, seq = device.given
    error = "disk.full" if version == NEW else None
    device.say(fleet, seq=seq, committed=OLD, serving=OLD, error=error, passing=True)


def silent(device: Device, fleet: Fleet) -> None:
    """Says nothing."""


def bricked(device: Device, fleet: Fleet) -> None:
    """Accepts it, and is never heard of again."""
    version, seq = device.given
    if version == NEW and device.said.seq < seq:
        device.say(fleet, seq=seq, idle=False)


def dying(device: Device, fleet: Fleet) -> None:
    """Succeeds, and is never heard of again."""
    if device.steps < 4:
        good(device, fleet)


def flapping(device: Device, fleet: Fleet) -> None:
    """Is there every other time."""
    if device.steps % 2:
        good(device, fleet)


def broken(device: Device, fleet: Fleet) -> None:
    """Commits it, and its agent fails on it a while later."""
    good(device, fleet)
    version, _ = device.given
    if version == NEW and device.steps > 5:
        device.say(fleet, serving=None, broken="model.load")
    else:
        device.say(fleet, broken=None)


def lying(device: Device, fleet: Fleet) -> None:
    """Says that all is well, whatever it was told, and by any number."""
    device.say(fleet, seq=2**53, committed=NEW, serving=NEW)


def raving(device: Device, fleet: Fleet) -> None:
    """Says something else every time."""
    version = (OLD, NEW, None)[device.steps % 3]
    error = "a.b" if device.steps % 5 == 0 else None
    device.say(fleet, seq=device.given[1], committed=version, serving=version, error=error)
