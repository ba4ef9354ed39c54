"""What happens in an update: states and events in, the next state and what to do out.

Without I/O and clock. Effects are carried out in order: those on the table first and in one write,
with the state itself; then the others, each of which may be done twice, since whoever carries them
out may be killed after any of them and begins again with `at_start`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from edgeslm.contract.slots import Operation
from edgeslm.errors import RejectedError, UnavailableError

MAX_ATTEMPTS: Final = 3
"""Trials begun: one that does not come to an end so often has itself to blame."""


class IllegalEventError(Exception):
    """A fault of ours: no row for this event in this state."""


class OverdueError(UnavailableError):
    """A phase of an update did not come to an end in its time."""

    code = "update.overdue"


class SupersededError(UnavailableError):
    """A newer assignment asks for something else."""

    code = "update.superseded"


class AgentCrashedError(RejectedError):
    """The agent ended during the trial, and nobody had asked it to."""

    code = "trial.crashed"


class UnfinishedError(RejectedError):
    """Three trials were begun and none came to an end: the device went down in each."""

    code = "trial.unfinished"


class State(Enum):
    """`idle`, and the phases of `contract.messages.Phase`."""

    IDLE = "idle"
    RESOLVING = "resolving"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    STAGED = "staged"
    TRIAL = "trial"
    REVERTING = "reverting"


class Event(Enum):
    """What can happen; `MEANING` says it in words."""

    OFFERED = "offered"
    RESOLVED = "resolved"
    CHECKED = "checked"
    FETCHED = "fetched"
    VERIFIED = "verified"
    LOADED = "loaded"
    OUTLASTED = "outlasted"
    HEALTHY = "healthy"
    REVERTED = "reverted"
    FAULTY = "faulty"
    FAILED = "failed"
    OVERDUE = "overdue"
    SUPERSEDED = "superseded"
    OUT_OF_ATTEMPTS = "out_of_attempts"
    AGENT_READY = "agent_ready"
    AGENT_AWAY = "agent_away"
    AGENT_LEFT = "agent_left"
    AGENT_CRASHED = "agent_crashed"
    AGENT_REPLACED = "agent_replaced"
    REBOOTED = "rebooted"
    RESUMED = "resumed"


class Effect(Enum):
    """What to do about it; those on the table are functions of `core.slots`."""

    BEGIN = "begin"
    FILL = "fill"
    WHOLE = "whole"
    COUNT = "count"
    UNCOUNT = "uncount"
    COMMIT = "commit"
    REMEMBER = "remember"
    END = "end"
    RESOLVE = "resolve"
    FETCH = "fetch"
    VERIFY = "verify"
    CALL = "call"
    SETTLE = "settle"
    TRY = "try"
    WATCH = "watch"
    RECHECK = "recheck"
    REVERT = "revert"
    REPORT = "report"


ON_THE_TABLE: Final = frozenset(
    {
        Effect.BEGIN,
        Effect.FILL,
        Effect.WHOLE,
        Effect.COUNT,
        Effect.UNCOUNT,
        Effect.COMMIT,
        Effect.REMEMBER,
        Effect.END,
    }
)

_Row = tuple[State, tuple[Effect, ...]]
_S, _E, _F = State, Event, Effect
_OF_THE_AGENT: Final = (
    Event.AGENT_READY,
    Event.AGENT_AWAY,
    Event.AGENT_LEFT,
    Event.AGENT_CRASHED,
    Event.AGENT_REPLACED,
)
_FAILED: Final[_Row] = (_S.IDLE, (_F.END, _F.REPORT))
_BAD: Final[_Row] = (_S.IDLE, (_F.REMEMBER, _F.END, _F.REPORT))

# The whole behaviour. docs/updates.md is drawn from this table.
TRANSITIONS: Final[dict[tuple[State, Event], _Row]] = {
    # Until it is staged, the agent has nothing to do with it.
    **{
        (state, event): (state, ())
        for state in (_S.IDLE, _S.RESOLVING, _S.FETCHING, _S.VERIFYING)
        for event in _OF_THE_AGENT
    },
    (_S.IDLE, _E.OFFERED): (_S.RESOLVING, (_F.BEGIN, _F.RESOLVE)),
    # Between the commit and the word of it to the agent, either may have been killed.
    (_S.IDLE, _E.AGENT_READY): (_S.IDLE, (_F.SETTLE,)),
    (_S.IDLE, _E.REBOOTED): (_S.IDLE, ()),
    (_S.IDLE, _E.RESUMED): (_S.IDLE, ()),
    (_S.RESOLVING, _E.RESOLVED): (_S.FETCHING, (_F.FILL, _F.FETCH)),
    (_S.RESOLVING, _E.CHECKED): (_S.STAGED, (_F.CALL,)),
    (_S.RESOLVING, _E.FAULTY): _BAD,
    (_S.RESOLVING, _E.FAILED): _FAILED,
    (_S.RESOLVING, _E.OVERDUE): _FAILED,
    (_S.RESOLVING, _E.SUPERSEDED): _FAILED,
    (_S.RESOLVING, _E.REBOOTED): (_S.RESOLVING, (_F.RESOLVE,)),
    (_S.RESOLVING, _E.RESUMED): (_S.RESOLVING, (_F.RESOLVE,)),
    (_S.FETCHING, _E.FETCHED): (_S.VERIFYING, (_F.VERIFY,)),
    (_S.FETCHING, _E.FAULTY): _BAD,
    (_S.FETCHING, _E.FAILED): _FAILED,
    (_S.FETCHING, _E.OVERDUE): _FAILED,
    (_S.FETCHING, _E.SUPERSEDED): _FAILED,
    (_S.FETCHING, _E.REBOOTED): (_S.FETCHING, (_F.FETCH,)),
    (_S.FETCHING, _E.RESUMED): (_S.FETCHING, (_F.FETCH,)),
    (_S.VERIFYING, _E.VERIFIED): (_S.STAGED, (_F.WHOLE, _F.CALL)),
    (_S.VERIFYING, _E.FAULTY): _BAD,
    (_S.VERIFYING, _E.FAILED): _FAILED,
    (_S.VERIFYING, _E.OVERDUE): _FAILED,
    (_S.VERIFYING, _E.SUPERSEDED): _FAILED,
    (_S.VERIFYING, _E.REBOOTED): (_S.VERIFYING, (_F.VERIFY,)),
    (_S.VERIFYING, _E.RESUMED): (_S.VERIFYING, (_F.VERIFY,)),
    # It may hold another trial for one, whose end it has not heard of.
    (_S.STAGED, _E.AGENT_READY): (_S.TRIAL, (_F.COUNT, _F.SETTLE, _F.TRY)),
    (_S.STAGED, _E.AGENT_AWAY): (_S.STAGED, (_F.CALL,)),
    (_S.STAGED, _E.AGENT_LEFT): (_S.STAGED, (_F.CALL,)),
    (_S.STAGED, _E.AGENT_CRASHED): (_S.STAGED, (_F.CALL,)),
    (_S.STAGED, _E.AGENT_REPLACED): (_S.STAGED, (_F.CALL,)),
    (_S.STAGED, _E.OUT_OF_ATTEMPTS): _BAD,
    (_S.STAGED, _E.FAILED): _FAILED,
    (_S.STAGED, _E.OVERDUE): _FAILED,
    (_S.STAGED, _E.SUPERSEDED): _FAILED,
    (_S.STAGED, _E.REBOOTED): (_S.STAGED, (_F.CALL,)),
    (_S.STAGED, _E.RESUMED): (_S.STAGED, (_F.CALL,)),
    (_S.TRIAL, _E.AGENT_READY): (_S.TRIAL, (_F.TRY,)),
    (_S.TRIAL, _E.LOADED): (_S.TRIAL, (_F.WATCH,)),
    (_S.TRIAL, _E.OUTLASTED): (_S.TRIAL, (_F.RECHECK,)),
    (_S.TRIAL, _E.HEALTHY): (_S.IDLE, (_F.COMMIT, _F.SETTLE, _F.REPORT)),
    (_S.TRIAL, _E.FAULTY): (_S.REVERTING, (_F.REMEMBER, _F.REVERT, _F.REPORT)),
    (_S.TRIAL, _E.FAILED): (_S.REVERTING, (_F.REVERT, _F.REPORT)),
    # The agent is there, and neither serves it nor refuses it.
    (_S.TRIAL, _E.OVERDUE): (_S.REVERTING, (_F.REMEMBER, _F.REVERT, _F.REPORT)),
    (_S.TRIAL, _E.SUPERSEDED): (_S.REVERTING, (_F.REVERT, _F.REPORT)),
    (_S.TRIAL, _E.AGENT_AWAY): (_S.TRIAL, (_F.CALL,)),
    # From here on the agent that comes back has the old one by itself.
    (_S.TRIAL, _E.AGENT_LEFT): (_S.STAGED, (_F.UNCOUNT, _F.CALL)),
    (_S.TRIAL, _E.AGENT_CRASHED): _BAD,
    (_S.TRIAL, _E.AGENT_REPLACED): (_S.STAGED, (_F.CALL,)),
    (_S.TRIAL, _E.REBOOTED): (_S.STAGED, (_F.CALL,)),
    (_S.TRIAL, _E.RESUMED): (_S.TRIAL, (_F.CALL,)),
    (_S.REVERTING, _E.REVERTED): (_S.IDLE, (_F.END,)),
    (_S.REVERTING, _E.AGENT_READY): (_S.REVERTING, (_F.REVERT,)),
    (_S.REVERTING, _E.AGENT_AWAY): (_S.REVERTING, (_F.CALL,)),
    (_S.REVERTING, _E.AGENT_LEFT): (_S.IDLE, (_F.END,)),
    (_S.REVERTING, _E.AGENT_CRASHED): (_S.IDLE, (_F.END,)),
    (_S.REVERTING, _E.AGENT_REPLACED): (_S.IDLE, (_F.END,)),
    (_S.REVERTING, _E.FAILED): _FAILED,
    (_S.REVERTING, _E.OVERDUE): _FAILED,
    (_S.REVERTING, _E.SUPERSEDED): (_S.REVERTING, ()),
    (_S.REVERTING, _E.REBOOTED): (_S.IDLE, (_F.END,)),
    (_S.REVERTING, _E.RESUMED): (_S.REVERTING, (_F.CALL,)),
}

MEANING: Final[dict[Event | Effect, str]] = {
    Event.OFFERED: "An assignment or a stick asks for another version or configuration than the "
    "one committed.",
    Event.RESOLVED: "The version's bundle for this device is known: genuine, and not known as bad.",
    Event.CHECKED: "The configuration fits the models and settings of this device.",
    Event.FETCHED: "All files of the bundle are in the spare slot.",
    Event.VERIFIED: "Each has its size and hash, and is flushed to disk.",
    Event.LOADED: "The agent serves it, on trial: its golden file passed on the device's provider.",
    Event.OUTLASTED: "It has served for its trial's time, with no more errors and no slower than "
    "its profile allows beside the old one.",
    Event.HEALTHY: "Its golden file passed once more.",
    Event.REVERTED: "The agent serves what it served before the trial.",
    Event.FAULTY: "It is at fault itself: a golden file that fails, errors, slowness.",
    Event.FAILED: "It cannot go on, and not by its own fault: no network, no server, a full disk.",
    Event.OVERDUE: "The phase's time is over.",
    Event.SUPERSEDED: "A newer assignment asks for something else.",
    Event.OUT_OF_ATTEMPTS: f"{MAX_ATTEMPTS} trials were begun, and the device went down in each.",
    Event.AGENT_READY: "The agent is connected; during a trial, the same one that began it.",
    Event.AGENT_AWAY: "The connection to the agent is gone.",
    Event.AGENT_LEFT: "The agent said that it was asked to stop.",
    Event.AGENT_CRASHED: "Another agent is there, and the one before said nothing when it ended.",
    Event.AGENT_REPLACED: "Another agent is there; how the one before ended, nobody saw, since the "
    "updater was down as well.",
    Event.REBOOTED: "The device has started again, after a power cut or at somebody's order.",
    Event.RESUMED: "The updater alone has started again.",
    Effect.BEGIN: "note the change",
    Effect.FILL: "note that the spare slot holds nothing whole, and what comes there",
    Effect.WHOLE: "note that the slot is whole",
    Effect.COUNT: "note that a trial begins, in which boot and by which agent",
    Effect.UNCOUNT: "take that trial out of the count",
    Effect.COMMIT: "note that this is what the device runs from now on",
    Effect.REMEMBER: "note its hash as bad",
    Effect.END: "note that the change is over",
    Effect.RESOLVE: "hold it against the signed metadata, and choose the bundle for this device",
    Effect.FETCH: "empty the spare slot of anything else and fetch what it lacks",
    Effect.VERIFY: "hold every file against its hash",
    Effect.CALL: "connect to the agent",
    Effect.SETTLE: "tell the agent whether what it has on trial was committed",
    Effect.TRY: "have the agent load it, beside the old one or in its place, and answer by it",
    Effect.WATCH: "begin to compare answers, errors and latency with the old one's",
    Effect.RECHECK: "have the agent replay the golden file",
    Effect.REVERT: "have the agent go back",
    Effect.REPORT: "tell the fleet how it ended",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one event: the next state and the effects to carry out, in order."""

    state: State
    effects: tuple[Effect, ...]


def advance(state: State, event: Event) -> Step:
    """Apply `event` to `state`.

    Raises:
        IllegalEventError: no row for this pair in `TRANSITIONS`.
    """
    try:
        return Step(*TRANSITIONS[state, event])
    except KeyError:
        msg = f"{event.value!r} is not legal in state {state.value!r}"
        raise IllegalEventError(msg) from None


def state_of(operation: Operation | None) -> State:
    """Return the state that a table's operation is in."""
    return State.IDLE if operation is None else State(operation.phase)


def at_start(operation: Operation | None, *, boot: str) -> Event:
    """Return what it means that the updater starts and finds `operation`."""
    same = operation is not None and operation.boot == boot
    return Event.RESUMED if same else Event.REBOOTED


def of_agent(operation: Operation | None, *, boot: str, instance: str, watched: bool) -> Event:
    """Return what it means that an agent is there and has said how things are.

    Args:
        operation: as the table has it.
        boot: the boot we are in.
        instance: of that agent.
        watched: whoever asks has been connected to the agent of the trial until that ended, and
            would have heard it say that it was leaving.
    """
    state = state_of(operation)
    if operation is not None and state in {State.TRIAL, State.REVERTING}:
        if operation.boot != boot:
            return Event.REBOOTED
        if operation.agent != instance:
            return Event.AGENT_CRASHED if watched else Event.AGENT_REPLACED
    if operation is not None and state is State.STAGED and operation.attempts >= MAX_ATTEMPTS:
        return Event.OUT_OF_ATTEMPTS
    return Event.AGENT_READY
