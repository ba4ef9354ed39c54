"""A roll-out: which devices move when, what their reports mean, and when it stops itself.

Without I/O and clock. `decide` looks at all of a roll-out and says what is to change; whoever
carries that out writes it down in one transaction, so that it is decided once.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from edgeslm.contract.rollout import Plan
from edgeslm.core.hours import is_open
from edgeslm.core.rollout_health import breach, is_accepted, proven_types
from edgeslm.core.rollout_states import (
    ASSIGNS,
    DECIDED,
    DEVICE_TRANSITIONS,
    ENDED,
    MEANING,
    TOUCHED,
    TRANSITIONS,
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
)
from edgeslm.core.update import IllegalEventError

SETTLE_S: Final = 30.0
"""What devices have said meanwhile is there so long after we began to listen, or nothing is."""
NOTE_S: Final = 60.0
"""How long a wave has soaked is written down so often: a break costs no more of it than that."""


def waves_of(plan: Plan, devices: Mapping[str, str], *, salt: str) -> dict[str, int]:
    """Return the wave of each device, from 0: every type has its share of each wave.

    The first wave has the canaries of each type that has more devices than canaries, even where
    they are more than its share: a type is not moved as a whole to see whether it can be.

    Args:
        plan: of the roll-out.
        devices: type by device.
        salt: the roll-out's id: it is not always the same devices that go first.
    """
    by_type: dict[str, list[str]] = defaultdict(list)
    for device in sorted(devices, key=lambda name: _shuffled(salt, name)):
        by_type[devices[device]].append(device)
    canaries: list[str] = []
    ranked: list[tuple[float, str]] = []
    for of_type in by_type.values():
        first = plan.canaries_per_type if len(of_type) > plan.canaries_per_type else 0
        canaries += of_type[:first]
        places = range(first, len(of_type))
        ranked += [((place + 0.5) / len(of_type), of_type[place]) for place in places]
    order = canaries + [device for _, device in sorted(ranked)]
    reach = [plan.reach(wave, len(order)) for wave in range(len(plan.waves))]
    reach[0] = max(reach[0], len(canaries))
    return {
        device: next(wave for wave, end in enumerate(reach) if place < end)
        for place, device in enumerate(order)
    }


def joins(plan: Plan, progress: Progress, *, now: float) -> int | None:
    """Return the wave of a device that matches only now: the last; None: it comes too late.

    While the last wave moves, devices join it for `deadline_s`: it ends, however many there come.

    Args:
        plan: of the roll-out.
        progress: where it is.
        now: seconds since 1970.
    """
    last = len(plan.waves) - 1
    if plan.targets == "frozen" or progress.state in {State.TAKING_BACK, *ENDED}:
        return None
    if progress.wave == last and progress.state is State.SOAKING:
        return None
    moving = progress.wave == last and progress.state is State.MOVING
    return None if moving and _over(progress.since, plan.deadline_s, now) else last


def asked(progress: Progress, event: Event, *, now: float, by: str) -> Decision:
    """Return what it means that an operator asks for `PAUSE`, `RESUME` or `ABORT`.

    Args:
        progress: where the roll-out is.
        event: what is asked for.
        now: seconds since 1970.
        by: who asks.

    Raises:
        IllegalEventError: it is not in a state in which that can be asked for.
    """
    state = advance(progress.state, event)
    accepted = now if event is Event.RESUME and progress.reason else progress.accepted_at
    reason = f"aborted by {by}" if event is Event.ABORT else ""
    return Decision(Progress(state, progress.wave, now, reason, accepted), event)


def observe(plan: Plan, target: Target, sight: Sight) -> Change | None:
    """Return what a device's reports mean for it; None: nothing new.

    Of a roll-out that has ended, only for devices that no newer assignment has moved elsewhere.
    """
    if sight.seq < target.seq or not sight.idle:
        return None
    if target.state is DeviceState.SILENT and sight.heard_at <= target.since:
        return None  # it has said nothing since
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
    elif sight.committed != plan.version and sight.error is not None and not sight.passing:
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
    listening: float = 0.0,
) -> Decision:
    """Return what is to happen now; the same again where nothing is.

    Args:
        plan: of the roll-out.
        progress: where it is.
        targets: all its devices.
        now: seconds since 1970.
        minute: of the day, UTC, 0 to 1439.
        heard: when each device was heard last that has accepted its assignment, by any message of
            its own, seconds since 1970.
        listening: since when devices could be heard without a break, seconds since 1970: since the
            service, its connection or its computer came back, or its clock jumped. It would be
            nobody's silence but ours, and no time in which a wave has soaked; `now` or later:
            nobody listens, and nobody is moved; 0: always.
    """
    if progress.state in ENDED:
        return Decision(progress)
    # A clock that was put back: what has begun in its future begins now.
    progress = replace(
        progress,
        since=min(progress.since, now),
        accepted_at=min(progress.accepted_at, now),
        soaked_at=min(progress.soaked_at, now),
    )
    if progress.state is State.TAKING_BACK:
        return _take_back(plan, progress, targets, now, listening)
    overdue = _overdue(plan, targets, now, heard or {}, listening)
    targets = _after(targets, overdue, now)
    if why := breach(plan, targets, accepted_at=progress.accepted_at):
        return _stopped(plan, progress, overdue, now, why)
    if overdue or progress.state is State.PAUSED:
        return Decision(progress, None, overdue)
    if listening >= now:
        return Decision(progress)  # nobody would hear how it goes
    return _go_on(plan, progress, targets, now, minute, listening)


def _stopped(
    plan: Plan, progress: Progress, changes: list[Change], now: float, why: str
) -> Decision:
    if plan.on_breach == "pause" and progress.state is State.PAUSED and progress.reason:
        return Decision(progress, None, changes)  # for a reason that still holds
    event = Event.BREACHED if plan.on_breach == "abort" else Event.HELD
    state = advance(progress.state, event)
    after = replace(progress, state=state, since=now, reason=why)
    return Decision(after, event, changes)


def _go_on(  # noqa: PLR0913, PLR0917 -- as `decide` has them
    plan: Plan,
    progress: Progress,
    targets: Collection[Target],
    now: float,
    minute: int,
    listening: float,
) -> Decision:
    begun = [target for target in targets if target.wave <= progress.wave]
    waiting = [target for target in begun if target.state is DeviceState.WAITING]
    if progress.state is State.MOVING:
        if waiting and is_open(plan.hours, minute):
            moves = _to_move(plan, targets, waiting, progress.accepted_at)
            if moves:
                return Decision(progress, None, moves)
        if waiting or any(target.state is DeviceState.MOVED for target in begun):
            return Decision(progress)
        state = advance(progress.state, Event.WAVE_DECIDED)
        after = replace(progress, state=state, since=now, soaked_s=0.0, soaked_at=0.0)
        return Decision(after, Event.WAVE_DECIDED)
    soaked = _soaked(progress, _settled(plan.soak_s, listening), now)
    if soaked.soaked_s < plan.soak_s:
        written = now - max(progress.since, progress.soaked_at)
        return Decision(soaked if written >= NOTE_S else progress)
    later = [t.wave for t in targets if t.state is DeviceState.WAITING and t.wave > progress.wave]
    if later:  # waves that nobody is in need not soak
        state = advance(progress.state, Event.SOAKED)
        after = replace(progress, state=state, wave=min(later), since=now)
        return Decision(after, Event.SOAKED)
    state = advance(progress.state, Event.ALL_SOAKED)
    changes = [Change(target.device, DeviceEvent.LEAVE_OUT) for target in waiting]
    if plan.late == "write_off":
        changes += [
            Change(target.device, DeviceEvent.GIVE_UP)
            for target in targets
            if (target.state, DeviceEvent.GIVE_UP) in DEVICE_TRANSITIONS
        ]
    return Decision(replace(progress, state=state, since=now), Event.ALL_SOAKED, changes)


def _soaked(progress: Progress, listening: float, now: float) -> Progress:
    """Return it with what it has soaked by now.

    A wave soaks while its devices are heard: a break may have hidden all that there was to see.
    """
    begun_at = max(progress.since, progress.soaked_at, listening)
    return replace(progress, soaked_s=progress.soaked_s + max(0.0, now - begun_at), soaked_at=now)


def _to_move(
    plan: Plan, targets: Collection[Target], waiting: Collection[Target], accepted_at: float
) -> list[Change]:
    """Return who of those waiting is moved: of a type that is not proven, a few that prove it.

    Most types are proven by the first wave. Those of which it had none, for their few devices or
    since they came later, are by the first few that are moved.
    """
    proven = proven_types(targets)
    trying = [t for t in targets if t.state in TOUCHED and not is_accepted(t, accepted_at)]
    tried = Counter(target.type for target in trying)
    first = Counter(t.type for t in targets if t.wave == 0 and not is_accepted(t, accepted_at))
    moves = []
    for target in waiting:
        kind = target.type
        few = max(plan.canaries_per_type, first[kind])
        if plan.canaries_per_type and kind not in proven and tried[kind] >= few:
            continue
        tried[kind] += 1
        moves.append(Change(target.device, DeviceEvent.MOVE))
    return moves


def _overdue(
    plan: Plan,
    targets: Collection[Target],
    now: float,
    heard: Mapping[str, float],
    listening: float,
) -> list[Change]:
    """Return what it means that time has passed: silence, or failure."""
    changes = []
    for target in targets:
        last = heard.get(target.device, 0.0)
        if target.state is DeviceState.MOVED and _late(plan, target, now, listening):
            if last > target.since:
                what = "accepted it, and did not end in time"
                changes.append(Change(target.device, DeviceEvent.REFUSED, what))
            else:
                changes.append(Change(target.device, DeviceEvent.DEADLINE, "not heard of in time"))
        elif target.state is DeviceState.SUCCEEDED:
            quiet_since = max(last, target.since, listening)
            if now >= quiet_since + plan.quiet_s:
                what = "not heard of since it succeeded"
                changes.append(Change(target.device, DeviceEvent.QUIET, what))
    return changes


def _take_back(
    plan: Plan, progress: Progress, targets: Collection[Target], now: float, listening: float
) -> Decision:
    changes = []
    for target in targets:
        if (target.state, DeviceEvent.TAKE_BACK) in DEVICE_TRANSITIONS:
            changes.append(Change(target.device, DeviceEvent.TAKE_BACK))
        elif target.state is DeviceState.WAITING:
            changes.append(Change(target.device, DeviceEvent.LEAVE_OUT))
        elif target.state is DeviceState.TAKEN_BACK and _late(plan, target, now, listening):
            changes.append(Change(target.device, DeviceEvent.GIVE_UP))
    after = _after(targets, changes, now)
    if any(target.state is DeviceState.TAKEN_BACK for target in after):
        return Decision(progress, None, changes)
    state = advance(progress.state, Event.ALL_BACK)
    return Decision(replace(progress, state=state, since=now), Event.ALL_BACK, changes)


def _late(plan: Plan, target: Target, now: float, listening: float) -> bool:
    settled = _settled(plan.deadline_s, listening)
    return now >= settled and _over(target.since, plan.deadline_s, now)


def _settled(seconds: float, listening: float) -> float:
    """Return from when on what was said meanwhile is there, for a time of so many seconds."""
    return listening + min(SETTLE_S, seconds)


def _over(since: float, seconds: float, now: float) -> bool:
    """Whether so much time has passed; by a clock put back by more than that, nobody knows."""
    return now >= since + seconds or now < since - seconds


def _after(
    targets: Collection[Target], changes: Collection[Change], now: float
) -> Collection[Target]:
    """Return the targets as they are after changes."""
    if not changes:
        return targets
    events = {change.device: change.event for change in changes}
    return [
        replace(t, state=advance_device(t.state, events[t.device]), since=now)
        if t.device in events
        else t
        for t in targets
    ]


def _shuffled(salt: str, device: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{device}".encode()).digest()


__all__ = [
    "ASSIGNS",
    "DECIDED",
    "DEVICE_TRANSITIONS",
    "ENDED",
    "MEANING",
    "SETTLE_S",
    "TOUCHED",
    "TRANSITIONS",
    "Change",
    "Decision",
    "DeviceEvent",
    "DeviceState",
    "Event",
    "Health",
    "IllegalEventError",
    "Progress",
    "Sight",
    "State",
    "Target",
    "advance",
    "advance_device",
    "asked",
    "breach",
    "decide",
    "joins",
    "observe",
    "waves_of",
]
