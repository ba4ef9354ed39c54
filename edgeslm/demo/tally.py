"""Who was asked what, what came back, and what it adds up to; pure, counted by ids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from edgeslm.contract.messages import Result
from edgeslm.demo.factory import Message
from edgeslm.demo.orders import OUT_OF_SCOPE

Verdict = Literal["quiet", "caught", "missed", "false alarm", "alarm", "understood", "wrong"]
MIN_CAUGHT: Final = 0.95
MAX_FALSE: Final = 0.015
JUDGED: Final = 5000
"""Normal messages from which on their false alarms are held against that: these come in runs, as
long as a window is, so that a run of seconds says little."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One message with its answer.

    Args:
        message: what was sent.
        result: what came back.
        verdict: the one against the other; `alarm` where no truth is known (a replay).
        latency_s: publish called -> result received, seconds.
    """

    message: Message
    result: Result
    verdict: Verdict
    latency_s: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What `edgeslm demo --json` prints; latencies in milliseconds, None where none was seen."""

    sent: int
    answered: int
    duplicates: int
    lost: int
    errors: int
    normal_messages: int
    faults_injected: int
    faults_caught: int
    false_alarms: int | None
    alarms: int
    intents: int
    intents_right: int
    p50_ms: float | None
    p99_ms: float | None
    messages_per_s: float
    pss_mb: float | None
    caught_by_kind: Mapping[str, tuple[int, int]]

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "shortfalls": self.shortfalls}

    @property
    def shortfalls(self) -> list[str]:
        """Which of the demo's promises this run broke, in words; empty where none."""
        found = []
        if self.lost:
            found.append(f"{self.lost} messages were not answered")
        if self.faults_caught < MIN_CAUGHT * self.faults_injected:
            found.append(f"fewer than {MIN_CAUGHT:.0%} of the faults were caught")
        normal = self.normal_messages
        if normal >= JUDGED and (self.false_alarms or 0) > MAX_FALSE * normal:
            found.append(f"more than {MAX_FALSE:.1%} of normal messages raised an alarm")
        return found


@dataclass(slots=True)
class Tally:
    """The books of one run.

    Args:
        truth_known: whether a message without a fault is known to be normal; a replay's is not.
    """

    truth_known: bool = True
    sent: int = 0
    answered: int = 0
    duplicates: int = 0
    unasked: int = 0
    errors: int = 0
    false_alarms: int = 0
    alarms: int = 0
    intents: int = 0
    intents_right: int = 0
    latencies_s: list[float] = field(default_factory=list)
    by_kind: dict[str, list[int]] = field(default_factory=dict)  # kind: [caught, answered]
    _waiting: dict[str, tuple[Message, float]] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _faults: int = 0
    _normal: int = 0
    _first_at: float | None = None
    _last_at: float = 0.0

    @property
    def waiting(self) -> int:
        """Messages sent and not answered yet."""
        return len(self._waiting)

    @property
    def faults_caught(self) -> int:
        return sum(caught for caught, _ in self.by_kind.values())

    @property
    def faults_missed(self) -> int:
        return sum(answered - caught for caught, answered in self.by_kind.values())

    @property
    def normal(self) -> int:
        """Machines' messages sent without a fault."""
        return self._normal

    def sending(self, message: Message, now: float) -> None:
        """Book `message` as sent at `now`, monotonic seconds; before it is published."""
        self.sent += 1
        self._waiting[message.id] = (message, now)
        if self._first_at is None:
            self._first_at = self._last_at = now
        if message.fault:
            self._faults += 1
        elif message.order is None:
            self._normal += 1

    def received(self, result: Result, now: float) -> Outcome | None:
        """Book a result that came at `now`, monotonic seconds; None where it is no first answer."""
        waiting = self._waiting.pop(result["id"], None)
        if waiting is None:
            if result["id"] in self._done:
                self.duplicates += 1
            else:
                self.unasked += 1
            return None
        message, sent_at = waiting
        self._done.add(message.id)
        self.answered += 1
        self._last_at = now
        self.latencies_s.append(now - sent_at)
        verdict = self._judge(message, result)
        return Outcome(message, result, verdict, now - sent_at)

    def _judge(self, message: Message, result: Result) -> Verdict:
        if "error" in result:
            self.errors += 1
        if message.order is not None:
            self.intents += 1
            right = intent_is_right(message.order.intent, result)
            self.intents_right += right
            return "understood" if right else "wrong"
        alarm = result.get("label") == "anomaly"
        self.alarms += alarm
        if message.fault:
            counts = self.by_kind.setdefault(message.fault.kind, [0, 0])
            counts[0] += alarm
            counts[1] += 1
            return "caught" if alarm else "missed"
        if not alarm:
            return "quiet"
        if not self.truth_known:
            return "alarm"
        self.false_alarms += 1
        return "false alarm"

    def summary(self, *, pss_mb: float | None) -> Summary:
        """Add up. What is still waiting is lost: call it after everything had time to come."""
        took_s = self._last_at - self._first_at if self._first_at is not None else 0.0
        p50, p99 = (percentile(self.latencies_s, share) for share in (0.5, 0.99))
        return Summary(
            sent=self.sent,
            answered=self.answered,
            duplicates=self.duplicates,
            lost=self.waiting,
            errors=self.errors,
            normal_messages=self._normal,
            faults_injected=self._faults,
            faults_caught=self.faults_caught,
            false_alarms=self.false_alarms if self.truth_known else None,
            alarms=self.alarms,
            intents=self.intents,
            intents_right=self.intents_right,
            p50_ms=None if p50 is None else round(p50 * 1000, 2),
            p99_ms=None if p99 is None else round(p99 * 1000, 2),
            messages_per_s=round(self.answered / took_s, 1) if took_s else 0.0,
            pss_mb=None if pss_mb is None else round(pss_mb, 1),
            caught_by_kind={k: (c[0], c[1]) for k, c in sorted(self.by_kind.items())},
        )


def intent_is_right(intent: str, result: Result) -> bool:
    """Whether the answer is the true intent, accepted, or rightly rejects what is none of ours."""
    accepted = result.get("accepted", False)
    if intent == OUT_OF_SCOPE:
        return "error" not in result and not accepted
    return accepted and result.get("label") == intent


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` (in (0, 1]) of `values` do not pass, or None."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
