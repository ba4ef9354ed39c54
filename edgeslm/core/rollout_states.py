"""States of a roll-out and of its devices, and what leads from one to the next.

Here are the tables and what goes in and out; `edgeslm.core.rollout` decides by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from edgeslm.core.update import IllegalEventError


class State(Enum):
    """Of a roll-out."""

    MOVING = "moving"
    SOAKING = "soaking"
    PAUSED = "paused"
    TAKING_BACK = "taking_back"
    COMPLETED = "completed"
    ABORTED = "aborted"


class Event(Enum):
    """What can happen to a roll-out; `MEANING` says it in words."""

    WAVE_DECIDED = "wave_decided"
    SOAKED = "soaked"
    ALL_SOAKED = "all_soaked"
    BREACHED = "breached"
    HELD = "held"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    ALL_BACK = "all_back"


class DeviceState(Enum):
    """Of one device in a roll-out."""

    WAITING = "waiting"
    MOVED = "moved"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SILENT = "silent"
    TAKEN_BACK = "taken_back"
    RESTORED = "restored"
    WRITTEN_OFF = "written_off"
    LEFT_OUT = "left_out"


class DeviceEvent(Enum):
    """What can happen to a device in a roll-out."""

    MOVE = "move"
    COMMITTED = "committed"
    REFUSED = "refused"
    DEADLINE = "deadline"
    QUIET = "quiet"
    TAKE_BACK = "take_back"
    BACK = "back"
    GIVE_UP = "give_up"
    LEAVE_OUT = "leave_out"


_S, _E = State, Event
# The whole behaviour. docs/rollouts.md is drawn from these two tables.
TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (_S.MOVING, _E.WAVE_DECIDED): _S.SOAKING,
    (_S.SOAKING, _E.SOAKED): _S.MOVING,
    (_S.SOAKING, _E.ALL_SOAKED): _S.COMPLETED,
    (_S.PAUSED, _E.RESUME): _S.MOVING,
    (_S.TAKING_BACK, _E.ALL_BACK): _S.ABORTED,
    **{(state, _E.PAUSE): _S.PAUSED for state in (_S.MOVING, _S.SOAKING)},
    # Those already moved run the new version while nobody looks: it is judged in a pause as well.
    **{
        (state, event): target
        for state in (_S.MOVING, _S.SOAKING, _S.PAUSED)
        for event, target in (
            (_E.BREACHED, _S.TAKING_BACK),
            (_E.HELD, _S.PAUSED),
            (_E.ABORT, _S.TAKING_BACK),
        )
    },
}
_D, _V = DeviceState, DeviceEvent
DEVICE_TRANSITIONS: Final[dict[tuple[DeviceState, DeviceEvent], DeviceState]] = {
    (_D.WAITING, _V.MOVE): _D.MOVED,
    (_D.WAITING, _V.LEAVE_OUT): _D.LEFT_OUT,
    (_D.MOVED, _V.COMMITTED): _D.SUCCEEDED,
    (_D.MOVED, _V.REFUSED): _D.FAILED,
    (_D.MOVED, _V.DEADLINE): _D.SILENT,
    # Later than it should, and still: its assignment stands.
    (_D.SILENT, _V.COMMITTED): _D.SUCCEEDED,
    (_D.SILENT, _V.REFUSED): _D.FAILED,
    (_D.SILENT, _V.GIVE_UP): _D.WRITTEN_OFF,
    (_D.FAILED, _V.COMMITTED): _D.SUCCEEDED,
    (_D.FAILED, _V.GIVE_UP): _D.WRITTEN_OFF,
    (_D.SUCCEEDED, _V.REFUSED): _D.FAILED,
    (_D.SUCCEEDED, _V.QUIET): _D.SILENT,
    **{
        (state, _V.TAKE_BACK): _D.TAKEN_BACK
        for state in (_D.MOVED, _D.SUCCEEDED, _D.FAILED, _D.SILENT)
    },
    (_D.TAKEN_BACK, _V.BACK): _D.RESTORED,
    (_D.TAKEN_BACK, _V.GIVE_UP): _D.WRITTEN_OFF,
    (_D.WRITTEN_OFF, _V.BACK): _D.RESTORED,
}
ENDED: Final = frozenset({State.COMPLETED, State.ABORTED})
DECIDED: Final = frozenset({_D.SUCCEEDED, _D.FAILED, _D.SILENT})
"""States of devices whose wave need not wait for them any more."""
TOUCHED: Final = frozenset(_D) - {_D.WAITING, _D.LEFT_OUT}
"""States of devices that were given the new version."""
ASSIGNS: Final[dict[tuple[DeviceState, DeviceEvent], Literal["new", "before"]]] = {
    (_D.WAITING, _V.MOVE): "new",
    (_D.SILENT, _V.GIVE_UP): "before",
    (_D.FAILED, _V.GIVE_UP): "before",
    **{(state, _V.TAKE_BACK): "before" for state in (_D.MOVED, _D.SUCCEEDED, _D.FAILED, _D.SILENT)},
}
"""Which version a device is assigned by what happens to it; by all else it is assigned nothing."""

MEANING: Final[dict[Event | DeviceEvent, str]] = {
    Event.WAVE_DECIDED: "Each device of the wave has succeeded, failed, or been silent too long.",
    Event.SOAKED: "The wave has soaked within the limits; there is another one.",
    Event.ALL_SOAKED: "The last wave has.",
    Event.BREACHED: "A limit is exceeded, and the plan says abort.",
    Event.HELD: "A limit is exceeded, and the plan says pause.",
    Event.PAUSE: "An operator says so: no device is moved until it is resumed.",
    Event.RESUME: "An operator says so; the wave soaks anew. Where a limit had stopped it, what "
    "was seen until then is accepted.",
    Event.ABORT: "An operator says so.",
    Event.ALL_BACK: "Each device that was moved is back, or was given up after the deadline.",
    DeviceEvent.MOVE: "Its wave has begun, and its type is proven or it is to prove it: it is "
    "assigned the new version.",
    DeviceEvent.COMMITTED: "Its updater has committed the version, and its agent serves it.",
    DeviceEvent.REFUSED: "It refused it, went back, did not end in time though it had accepted it, "
    "or its agent fails on it.",
    DeviceEvent.DEADLINE: "Nothing was heard of it in time.",
    DeviceEvent.QUIET: "It had succeeded, and has not been heard of for `quiet_s`.",
    DeviceEvent.TAKE_BACK: "A newer assignment names what it ran before.",
    DeviceEvent.BACK: "It runs that again.",
    DeviceEvent.GIVE_UP: "It is waited for no more; its assignment names what it ran before.",
    DeviceEvent.LEAVE_OUT: "The roll-out has ended before its wave, or the fleet no longer has it.",
}


@dataclass(frozen=True, slots=True)
class Health:
    """How a model has answered on one device, as the device says.

    Args:
        answers: given, errors included.
        errors: of them.
        alarms: of them, labelled as anomalies.
        p99_ms: 99th percentile of the newest latencies, ms; None: unknown.
    """

    answers: int = 0
    errors: int = 0
    alarms: int = 0
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """One device in a roll-out.

    Args:
        device: its id.
        type: what it is proven by: its profile.
        wave: in which it moves, from 0.
        state: where it is.
        since: when that began, seconds since 1970.
        seq: of the assignment that moved it, or took it back; 0: none did.
        previous: version that it ran before; None: none.
        reason: why it failed; for people.
        before: how the version before it answered here.
        after: how this one does.
    """

    device: str
    type: str
    wave: int
    state: DeviceState = DeviceState.WAITING
    since: float = 0.0
    seq: int = 0
    previous: int | None = None
    reason: str = ""
    before: Health | None = None
    after: Health | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """What a device has last said of the roll-out's model.

    Args:
        seq: of the assignment that its updater has accepted.
        idle: its updater has nothing to do.
        committed: version that its updater holds for committed.
        error: code of how a change of this assignment failed; None: none did.
        passing: it tries again by itself: no network, no server, a full disk are nobody's fault.
        serving: version that its agent answers with, off trial; None: with none.
        broken: code of why its agent has no model; None: it has one.
        heard_at: when the device was last heard, by any message of its own, seconds since 1970, by
            the service's clock.
    """

    seq: int = 0
    idle: bool = True
    committed: int | None = None
    error: str | None = None
    passing: bool = False
    serving: int | None = None
    broken: str | None = None
    heard_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a roll-out is.

    Args:
        state: of it.
        wave: that moves or soaks, from 0.
        since: when the state began, seconds since 1970.
        reason: which limit stopped it, or who aborted it; for people. Empty in a pause that only
            an operator asked for.
        accepted_at: until when what was seen is not judged any more: an operator has resumed it
            though a limit was exceeded; 0: never.
        soaked_s: for how long the wave had soaked at `soaked_at`, seconds; what comes after is not
            written down yet.
        soaked_at: seconds since 1970; 0: nothing was written down of this soak.
    """

    state: State = State.MOVING
    wave: int = 0
    since: float = 0.0
    reason: str = ""
    accepted_at: float = 0.0
    soaked_s: float = 0.0
    soaked_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one device, and why."""

    device: str
    event: DeviceEvent
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be written down, together.

    Args:
        progress: of the roll-out, afterwards; where it differs, it is written, event or not.
        event: that led there; None: it is in the same state.
        changes: of devices, at most one of each; `ASSIGNS` says which need an assignment.
    """

    progress: Progress
    event: Event | None = None
    changes: Sequence[Change] = field(default_factory=tuple)


def advance(state: State, event: Event) -> State:
    """Return the state that `event` leads to.

    Raises:
        IllegalEventError: no row for this pair in `TRANSITIONS`.
    """
    if (found := TRANSITIONS.get((state, event))) is None:
        msg = f"{event.value!r} is not legal in state {state.value!r}"
        raise IllegalEventError(msg)
    return found


def advance_device(state: DeviceState, event: DeviceEvent) -> DeviceState:
    """Return the state that `event` leads a device to.

    Raises:
        IllegalEventError: no row for this pair in `DEVICE_TRANSITIONS`.
    """
    if (found := DEVICE_TRANSITIONS.get((state, event))) is None:
        msg = f"{event.value!r} is not legal for a device that is {state.value!r}"
        raise IllegalEventError(msg)
    return found
