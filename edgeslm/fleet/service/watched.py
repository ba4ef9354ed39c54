"""A roll-out in memory, as its conductor holds it: what is written down is what is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from edgeslm.contract.rollout import Plan
from edgeslm.core.rollout import (
    ENDED,
    TRANSITIONS,
    Change,
    Decision,
    DeviceEvent,
    DeviceState,
    Event,
    Health,
    Progress,
    Target,
    advance_device,
    asked,
    observe,
)
from edgeslm.fleet.service.sights import Seen

_ASKED: Final = {"pause": Event.PAUSE, "resume": Event.RESUME, "abort": Event.ABORT}
LATE: Final = frozenset({DeviceState.SILENT, DeviceState.FAILED, DeviceState.WRITTEN_OFF})
"""States of devices that may still be heard of after their roll-out has ended."""
GONE: Final = "the fleet does not have it any more"
_NEWS: Final = {
    DeviceEvent.MOVE: "moved",
    DeviceEvent.COMMITTED: "succeeded",
    DeviceEvent.REFUSED: "failed",
    DeviceEvent.DEADLINE: "silent",
    DeviceEvent.QUIET: "silent",
    DeviceEvent.TAKE_BACK: "taken back",
    DeviceEvent.BACK: "back",
    DeviceEvent.GIVE_UP: "written off",
    DeviceEvent.LEAVE_OUT: "left out",
}


@dataclass(slots=True)
class Watched:
    """One roll-out.

    Args:
        id: its number.
        plan: what was asked for.
        progress: where it is.
        targets: its devices, by id.
        heard: when each was heard that has accepted its assignment, seconds since 1970.
    """

    id: int
    plan: Plan
    progress: Progress
    targets: dict[str, Target]
    heard: dict[str, float] = field(default_factory=dict)

    def ended(self) -> bool:
        return self.progress.state in ENDED

    def leave_out(self, devices: Iterable[str] = ()) -> None:
        """Watch these no more, nor, after the end, those that are not late."""
        for device in set(devices) & self.targets.keys():
            del self.targets[device]
        if self.ended():
            self.targets = {d: t for d, t in self.targets.items() if t.state in LATE}

    def moved_on(self, device: str, seq: int) -> bool:
        """Whether a device has been assigned something else since."""
        target = self.targets.get(device)
        return target is not None and target.seq != seq

    def look(self, found: Mapping[str, Seen], asked: Iterable[str]) -> list[Change]:
        """Take what is known of some devices; return what it changes.

        Args:
            found: by device; absent: the fleet does not have it any more.
            asked: the devices of which it was asked.
        """
        changes = []
        for device in asked:
            target = self.targets.get(device)
            if target is None:
                continue
            if (seen := found.get(device)) is None:
                if target.state is DeviceState.WAITING and not self.ended():
                    changes.append(Change(device, DeviceEvent.LEAVE_OUT, GONE))
                continue
            if target.state is not DeviceState.WAITING:
                if seen.version == self.plan.version:
                    self.targets[device] = target = replace(target, after=seen.health)
                if seen.sight.seq >= target.seq:
                    self.heard[device] = seen.sight.heard_at
                if (change := observe(self.plan, target, seen.sight)) is not None:
                    changes.append(change)
        return changes

    def asked(self, what: str, by: str, now: float) -> Decision | None:
        """Return what an operator's order leads to; None: nothing, as things are."""
        event = _ASKED.get(what)
        if event is None or (self.progress.state, event) not in TRANSITIONS:
            return None
        return asked(self.progress, event, now=now, by=by)

    def changed(
        self,
        changes: Sequence[Change],
        now: float,
        *,
        seqs: Mapping[str, int],
        before: Mapping[str, tuple[int | None, Health]],
    ) -> list[Target]:
        """Return the targets as some changes leave them; nothing here changes yet.

        Args:
            changes: at most one of each device.
            now: seconds since 1970.
            seqs: of the new assignments.
            before: what devices that move have run until now, and how it answered.
        """
        targets = []
        for change in changes:
            target = self.targets[change.device]
            state = advance_device(target.state, change.event)
            new = replace(target, state=state, since=now, reason=change.reason or target.reason)
            if change.event is DeviceEvent.COMMITTED:
                new = replace(new, reason="")
            if change.event is DeviceEvent.MOVE:
                previous, health = before[change.device]
                new = replace(new, before=health, previous=previous, after=None)
            targets.append(replace(new, seq=seqs.get(change.device, target.seq)))
        return targets

    def commit(self, progress: Progress, targets: Iterable[Target]) -> None:
        """These were written down."""
        self.progress = progress
        for target in targets:
            if self.targets.get(target.device, target).seq != target.seq:
                self.heard.pop(target.device, None)
            self.targets[target.device] = target

    def news(self, decision: Decision, by: str = "") -> list[str]:
        """Return lines for people on what happens.

        Args:
            decision: what happens.
            by: the operator who has asked for it.
        """
        lines = []
        wave = f"wave {decision.progress.wave + 1} of {len(self.plan.waves)}"
        for event, count in Counter(change.event for change in decision.changes).items():
            lines.append(f"{wave}: {count} {_NEWS[event]}")
        match decision.event:
            case None:
                pass
            case Event.WAVE_DECIDED:
                lines.append(f"{wave}: each device has ended; it soaks for {self.plan.soak_s:g} s")
            case Event.SOAKED:
                lines.append(f"{wave} begins")
            case Event.PAUSE:
                lines.append(f"paused by {by}")
            case Event.RESUME:
                lines.append(f"resumed by {by}: {wave} goes on, and soaks anew")
            case _:
                why = f": {decision.progress.reason}" if decision.progress.reason else ""
                lines.append(f"{decision.progress.state.value}{why}")
        return lines
