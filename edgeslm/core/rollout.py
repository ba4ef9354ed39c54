"""A roll-out: which devices move when, what their reports mean, and when it stops itself.

Without I/O and clock. `decide` looks at all of a roll-out and says what is to change; whoever
carries that out writes it down in one transaction, so that it is decided once.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from edgeslm.contract.rollout import Limits, Plan, share
from edgeslm.core.hours import is_open

CHANCE: Final = 0.01
"""A share that is higher than allowed counts where chance alone would so seldom make it so."""
_EXACT: Final = 2000  # counts up to which the binomial distribution is summed


class IllegalEventError(Exception):
    """A fault of ours: no row for this event in this state."""


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
    **{
        (state, event): target
        for state in (_S.MOVING, _S.SOAKING)
        for event, target in (
            (_E.BREACHED, _S.TAKING_BACK),
            (_E.HELD, _S.PAUSED),
            (_E.PAUSE, _S.PAUSED),
        )
    },
    **{(state, _E.ABORT): _S.TAKING_BACK for state in (_S.MOVING, _S.SOAKING, _S.PAUSED)},
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
    (_D.SUCCEEDED, _V.REFUSED): _D.FAILED,
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

MEANING: Final[dict[Event | DeviceEvent, str]] = {
    Event.WAVE_DECIDED: "Each device of the wave has succeeded, failed, or been silent too long.",
    Event.SOAKED: "The wave has soaked within the limits, and each device type is proven.",
    Event.ALL_SOAKED: "The last wave has.",
    Event.BREACHED: "A limit is exceeded, and the plan says abort.",
    Event.HELD: "A limit is exceeded, and the plan says pause.",
    Event.PAUSE: "An operator says so: no device is moved until it is resumed.",
    Event.RESUME: "An operator says so; the wave soaks anew.",
    Event.ABORT: "An operator says so.",
    Event.ALL_BACK: "Each device that was moved is back, or was given up after the deadline.",
    DeviceEvent.MOVE: "Its wave has begun: it is assigned the new version.",
    DeviceEvent.COMMITTED: "Its updater has committed the version, and its agent serves it.",
    DeviceEvent.REFUSED: "It could not fetch it, refused it, went back, or its agent fails on it.",
    DeviceEvent.DEADLINE: "It has not ended in time.",
    DeviceEvent.TAKE_BACK: "A newer assignment names what it ran before.",
    DeviceEvent.BACK: "It runs that again.",
    DeviceEvent.GIVE_UP: "Nothing was heard of it in time; its assignment names the old one.",
    DeviceEvent.LEAVE_OUT: "The roll-out has ended before its wave, or the fleet no longer has it.",
}


@dataclass(frozen=True, slots=True)
class Health:
    """How a model has answered on one device.

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
        error: code of how its last change failed; None: it did not.
        serving: version that its agent answers with, off trial; None: with none.
        broken: code of why its agent has no model; None: it has one.
        heard_at: when its updater was last heard, seconds since 1970, by the service's clock.
    """

    seq: int = 0
    idle: bool = True
    committed: int | None = None
    error: str | None = None
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
        reason: why it stopped; for people.
    """

    state: State = State.MOVING
    wave: int = 0
    since: float = 0.0
    reason: str = ""


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
        progress: of the roll-out, afterwards.
        event: that led there; None: it stays as it was.
        changes: of devices; `MOVE` needs an assignment of the new version, `TAKE_BACK` and
            `GIVE_UP` of a silent device one of the version before.
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


def waves_of(plan: Plan, devices: Mapping[str, str], *, salt: str) -> dict[str, int]:
    """Return the wave of each device, from 0: every type has its share of each wave.

    Args:
        plan: of the roll-out.
        devices: type by device.
        salt: the roll-out's id: it is not always the same devices that go first.
    """
    by_type: dict[str, list[str]] = defaultdict(list)
    for device in sorted(devices, key=lambda name: _shuffled(salt, name)):
        by_type[devices[device]].append(device)
    ranked = [
        ((rank + 0.5) / len(of_type), device)
        for of_type in by_type.values()
        for rank, device in enumerate(of_type)
    ]
    canaries = [d for of_type in by_type.values() for d in of_type[: plan.canaries_per_type]]
    crowd = [device for _, device in sorted(ranked) if device not in set(canaries)]
    order = canaries + crowd
    reach = [plan.reach(wave, len(order)) for wave in range(len(plan.waves))]
    reach[0] = max(reach[0], len(canaries))
    found: dict[str, int] = {}
    for place, device in enumerate(order):
        found[device] = next(wave for wave, end in enumerate(reach) if place < end)
    return found


def observe(plan: Plan, target: Target, sight: Sight) -> Change | None:
    """Return what a device's reports mean for it; None: nothing new."""
    if sight.seq < target.seq or not sight.idle:
        return None
    event: DeviceEvent | None = None
    reason = ""
    if target.state in {DeviceState.TAKEN_BACK, DeviceState.WRITTEN_OFF}:
        # Where the model was not there before, it is assigned no more, and may stay.
        if target.previous is None or sight.committed == target.previous:
            event = DeviceEvent.BACK
    elif sight.committed == plan.version and sight.broken is not None:
        event, reason = DeviceEvent.REFUSED, sight.broken
    elif sight.committed == plan.version and sight.serving == plan.version:
        event = DeviceEvent.COMMITTED
    elif sight.committed != plan.version and target.state is DeviceState.SUCCEEDED:
        event, reason = DeviceEvent.REFUSED, sight.error or "it runs another version again"
    elif sight.committed != plan.version and sight.error is not None:
        event, reason = DeviceEvent.REFUSED, sight.error
    if event is None or (target.state, event) not in DEVICE_TRANSITIONS:
        return None
    return Change(target.device, event, reason)


def decide(  # noqa: PLR0913 -- by name
    plan: Plan,
    progress: Progress,
    targets: Collection[Target],
    *,
    now: float,
    minute: int,
    heard: Mapping[str, float] | None = None,
) -> Decision:
    """Return what is to happen now; the same again where nothing is.

    Args:
        plan: of the roll-out.
        progress: where it is.
        targets: all its devices.
        now: seconds since 1970.
        minute: of the day, UTC, 0 to 1439.
        heard: when each device was heard that has accepted its assignment, seconds since 1970.
    """
    heard = heard or {}
    match progress.state:
        case State.MOVING | State.SOAKING:
            return _go_on(plan, progress, targets, now=now, minute=minute, heard=heard)
        case State.PAUSED:
            return Decision(progress, None, _overdue(plan, targets, now, heard))
        case State.TAKING_BACK:
            return _take_back(plan, progress, targets, now)
        case State.COMPLETED if plan.late == "write_off":
            silent = [t for t in targets if t.state is DeviceState.SILENT]
            return Decision(progress, None, [Change(t.device, DeviceEvent.GIVE_UP) for t in silent])
    return Decision(progress)


def breach(plan: Plan, targets: Collection[Target], wave: int) -> str | None:
    """Say which limit is exceeded, and by how much; None where none is."""
    states = Counter(target.state for target in targets)
    moved = sum(states[state] for state in TOUCHED)
    if not moved:
        return None
    limits = plan.limits
    for state, allowed in (
        (DeviceState.FAILED, limits.failed),
        (DeviceState.SILENT, limits.silent),
    ):
        if states[state] > share(allowed) * moved:
            return f"{states[state]} of {moved} devices {state.value}; {allowed} are allowed"
    return _unproven(plan, targets, wave) or _unhealthy(limits, targets)


def beyond_chance(few: tuple[int, int], many: tuple[int, int], ratio: float) -> bool:
    """Whether a count is more than `ratio` times another, beyond chance.

    By the conditional binomial test of two rates (Przyborowski and Wilenski, 1940), one-sided.

    Args:
        few: count and total before.
        many: count and total after.
        ratio: of the two shares that is allowed.
    """
    (before, of_before), (after, of_after) = few, many
    if not of_before or not of_after or after * of_before <= ratio * before * of_after:
        return False
    weight = ratio * of_after
    p = weight / (weight + of_before)
    return _at_least(after, before + after, p) < CHANCE


def _go_on(  # noqa: PLR0911, PLR0913 -- one after the other, as they come
    plan: Plan,
    progress: Progress,
    targets: Collection[Target],
    *,
    now: float,
    minute: int,
    heard: Mapping[str, float],
) -> Decision:
    if overdue := _overdue(plan, targets, now, heard):
        return Decision(progress, None, overdue)
    if why := breach(plan, targets, progress.wave):
        event = Event.BREACHED if plan.on_breach == "abort" else Event.HELD
        after = Progress(advance(progress.state, event), progress.wave, now, why)
        return Decision(after, event)
    begun = [target for target in targets if target.wave <= progress.wave]
    waiting = [target for target in begun if target.state is DeviceState.WAITING]
    if progress.state is State.MOVING and waiting:
        if not is_open(plan.hours, minute):
            return Decision(progress)
        return Decision(progress, None, [Change(t.device, DeviceEvent.MOVE) for t in waiting])
    if any(target.state is DeviceState.MOVED for target in begun):
        return Decision(progress)
    if progress.state is State.MOVING:
        after = Progress(advance(progress.state, Event.WAVE_DECIDED), progress.wave, now)
        return Decision(after, Event.WAVE_DECIDED)
    if now < progress.since + plan.soak_s:
        return Decision(progress)
    last = progress.wave == len(plan.waves) - 1
    event = Event.ALL_SOAKED if last else Event.SOAKED
    wave = progress.wave if last else progress.wave + 1
    return Decision(Progress(advance(progress.state, event), wave, now), event)


def _overdue(
    plan: Plan, targets: Iterable[Target], now: float, heard: Mapping[str, float]
) -> list[Change]:
    """Return what the deadline means for those who have not ended: silence, or failure."""
    changes = []
    for target in targets:
        if target.state is DeviceState.MOVED and now >= target.since + plan.deadline_s:
            if heard.get(target.device, 0.0) > target.since:
                what = "accepted it, and did not end in time"
                changes.append(Change(target.device, DeviceEvent.REFUSED, what))
            else:
                changes.append(Change(target.device, DeviceEvent.DEADLINE))
    return changes


def _take_back(plan: Plan, progress: Progress, targets: Collection[Target], now: float) -> Decision:
    changes = []
    for target in targets:
        if (target.state, DeviceEvent.TAKE_BACK) in DEVICE_TRANSITIONS:
            changes.append(Change(target.device, DeviceEvent.TAKE_BACK))
        elif target.state is DeviceState.WAITING:
            changes.append(Change(target.device, DeviceEvent.LEAVE_OUT))
        elif target.state is DeviceState.TAKEN_BACK and now >= target.since + plan.deadline_s:
            changes.append(Change(target.device, DeviceEvent.GIVE_UP))
    if changes or any(target.state is DeviceState.TAKEN_BACK for target in targets):
        return Decision(progress, None, changes)
    state = advance(progress.state, Event.ALL_BACK)
    return Decision(Progress(state, progress.wave, now, progress.reason), Event.ALL_BACK)


def _unproven(plan: Plan, targets: Collection[Target], wave: int) -> str | None:
    """Say which type of device none has succeeded of, where all that were to try have ended."""
    if not plan.canaries_per_type:
        return None
    tried: dict[str, Counter[DeviceState]] = defaultdict(Counter)
    for target in targets:
        if target.wave <= wave:
            tried[target.type][target.state] += 1
    for kind, states in sorted(tried.items()):
        ended = sum(states[state] for state in DECIDED)
        if ended and ended == states.total() and not states[DeviceState.SUCCEEDED]:
            return f"no device of type {kind or 'without a profile'} has succeeded, of {ended}"
    return None


def _unhealthy(limits: Limits, targets: Collection[Target]) -> str | None:
    """Say in which way the new version answers worse than the one before it."""
    pairs = [
        (target.type, target.before or Health(), target.after)
        for target in targets
        if target.state is DeviceState.SUCCEEDED and target.after is not None
    ]
    answers = sum(after.answers for _, _, after in pairs)
    before = sum(old.answers for _, old, _ in pairs)
    if answers >= limits.answers:
        errors = sum(after.errors for _, _, after in pairs)
        old = sum(old.errors for _, old, _ in pairs) / before if before else 0.0
        allowed = min(1.0, old + limits.error_share)
        if errors > allowed * answers and _at_least(errors, answers, allowed) < CHANCE:
            return f"{errors} errors in {answers} answers; {allowed:.2%} are allowed"
    if limits.alarm_ratio is not None and min(answers, before) >= limits.answers:
        alarms = sum(after.alarms for _, _, after in pairs)
        used_to = sum(old.alarms for _, old, _ in pairs)
        if beyond_chance((used_to, before), (alarms, answers), limits.alarm_ratio):
            return (
                f"{alarms} alarms in {answers} answers, and {used_to} in {before} before; "
                f"{limits.alarm_ratio:g} times as many are allowed"
            )
    return _slower(limits, pairs)


def _slower(limits: Limits, pairs: Collection[tuple[str, Health, Health]]) -> str | None:
    if limits.latency_ratio is None:
        return None
    by_type: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for kind, old, new in pairs:
        enough = min(old.answers, new.answers) >= limits.answers
        if enough and old.p99_ms is not None and new.p99_ms is not None:
            by_type[kind].append((old.p99_ms, new.p99_ms))
    for kind, both in sorted(by_type.items()):
        was = statistics.median(old for old, _ in both)
        now = statistics.median(new for _, new in both)
        if now > limits.latency_ratio * was:
            return (
                f"{kind or 'without a profile'}: p99 {now:.1f} ms, and {was:.1f} ms before; "
                f"{limits.latency_ratio:g} times as much is allowed"
            )
    return None


def _at_least(count: int, total: int, p: float) -> float:
    """Return the probability of `count` or more of `total`, each with probability `p`."""
    if p <= 0.0:
        return 1.0 if count == 0 else 0.0
    if p >= 1.0:
        return 1.0
    if total > _EXACT:  # normal, with the correction for continuity
        spread = math.sqrt(total * p * (1.0 - p))
        return 0.5 * math.erfc((count - 0.5 - total * p) / (spread * math.sqrt(2.0)))
    log_p, log_q = math.log(p), math.log1p(-p)
    terms = (
        math.lgamma(total + 1)
        - math.lgamma(k + 1)
        - math.lgamma(total - k + 1)
        + k * log_p
        + (total - k) * log_q
        for k in range(count, total + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _shuffled(salt: str, device: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{device}".encode()).digest()
