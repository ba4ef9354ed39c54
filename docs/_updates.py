"""The page of updates: what happens on a device, drawn from `edgeslm/core/update.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import _tables

from edgeslm.core.update import MEANING, TRANSITIONS, Effect, Event, State

# Of each state: what it means, and what a power cut in it does.
_STATES: Final[dict[State, tuple[str, str]]] = {
    State.IDLE: (
        "Nothing is being changed. The agent serves what was committed.",
        "Nothing is lost: the agent serves what was committed.",
    ),
    State.RESOLVING: (
        """The assignment is held against the fleet's signed metadata, and the bundle for this
        device is chosen. A configuration is checked against the device's own settings.""",
        "It is resolved again.",
    ),
    State.FETCHING: (
        """The spare slot is emptied and filled: with files that the other slot has, with deltas,
        and with blocks from the broker or files from the stick. The other slot is not touched.""",
        "Fetching goes on: blocks and files that were flushed to disk are not fetched again.",
    ),
    State.VERIFYING: (
        "Every file of the slot is held against its hash, and the manifest against the signed one.",
        "It is verified again.",
    ),
    State.STAGED: (
        "The slot is whole. The updater waits for the agent to try it.",
        "It stays staged.",
    ),
    State.TRIAL: (
        """The agent has loaded it, beside the old one or in its place, replayed its golden file,
        and answers by it. Its errors and latency are compared with the old one's, for as long as
        the device's [profile](device-profiles.md#trial) says; then the golden file is replayed
        once more.""",
        """The agent comes up with the old one by itself. It counts as one of three attempts, and
        another one begins.""",
    ),
    State.REVERTING: (
        "It did not pass. The agent goes back to the old one, which never left the other slot.",
        "The agent comes up with the old one by itself; the change is over.",
    ),
}
_ENDINGS: Final = frozenset({Event.FAILED, Event.OVERDUE, Event.SUPERSEDED})
_HEAD: Final = """
For fleet managers, who see the words on this page in `edgeslm/v1/DEVICE/update`, and for firmware
teams, whose devices do what it says. [Why it is so](adr/0005-revert-on-crash-during-trial.md).

A device has two places for each model, slots `a` and `b`. One is **active**: what was committed,
and what the agent loads when it starts. The other one is the **spare**: an update empties and
fills it, tries it, and only then makes it the active one. So whatever happens on the way, the old
model is on the disk, whole; and after a commit it stays there as the spare, until the next update
needs its place. A new configuration takes the same way without the two steps that fetch and
verify.

What the device has is written in one small table, `slots.json` in the updater's directory,
replaced whole and flushed before and after each step that matters. The agent reads it when it
starts, and nothing else: it comes up with the committed model without the updater, a network or a
clock. If that one does not load, it takes the other slot, if that is whole and not known to be
bad, and then the bundle of its settings. A table that cannot be read is set aside
(`slots.invalid`) and made anew from the bundles whose hashes are right.

There is one change at a time, and each comes to an end: in a commit, or in a failure with a
[code](error-codes.md) that the device reports. Every state but `idle` has a deadline. A change
that failed stands in the way of no other.

**What is bad is not tried again.** If a bundle or configuration is at fault itself, the device
keeps its hash: a manifest or golden file that fails, more errors or more latency than allowed, an
agent that crashes in the trial, three trials that the device did not survive. An assignment that
names it again is refused (`update.known_bad`); assign another version. A full disk, a lost
network or a missing server is nobody's fault: the same assignment is tried again. `update` says
of a failure whose it was (`error_model`, `error_version`) and whether the updater tries again by
itself (`retries`).

A model that failed for what it could not help, such as `trial.slow` on a day with other load, may
be given another chance on the device, with the updater running or not:

```
edgeslm update --config FILE --forget-bad MODEL     # all versions of it that failed here
edgeslm update --config FILE --forget-bad-config    # the same of configurations
```

An updater that runs then tries again what is assigned. From afar, assign a new version of the same
bundle, exported again: it has another hash.

**A configuration must lead somewhere.** At the end of its trial, each model that its routes name
must serve; else it is taken back (`config.unserved`), and not remembered as bad. A model that the
same assignment brings, and that has not come yet, is waited for: its route stays.

**Who restarts what.** An agent that an operator stops or restarts says so, and the trial is begun
anew without being counted. One that ends without a word has crashed, which is the bundle's fault.
If the updater was down as well, nobody saw which of the two it was: then it counts as an attempt,
as a power cut does.

**Where two models do not fit.** The new model is loaded while the old one still answers, unless
the device's [profile](device-profiles.md#trial) says `side_by_side = false`. Then all that can be
seen without loading it is looked at first: hashes, what it requires, its task. Only after that
does the agent let the old one go: what it was answering is answered, everything else waits,
unacknowledged, and `state` says `loading`. When nobody holds the old one any more the new one is
loaded, replays its golden file, and answers what waits. Where it cannot be loaded or fails, and
where it is taken back, the old one is loaded again in the same way; an agent that ends in between
comes up with what was committed. Other models of the device go on. How long inputs waited for a
model is no part of the latency that the trial compares; an input with an expiry may expire. The
updater gives such a device `load_s` twice. It is the same for a changed `bundle` in the settings,
which a reload loads in the old one's place; where that fails the old one is loaded again, as long
as its folder is there.
"""


def page(made: str) -> str:
    """Return the page; `made` is the remark that it is generated."""
    lines = [
        "# Updates: what happens on a device",
        "",
        made,
        *_HEAD.rstrip().split("\n"),
        "",
        "## States",
        "",
        *_diagram(),
        "",
        "Not drawn: what leaves the state as it is; and that every state but `idle` is left when",
        "its time is over, it cannot go on, or a newer assignment asks for something else.",
        "",
        *_tables.rows(
            "State",
            "What it means",
            "After a power cut",
            of=[
                (f"`{state.value}`", *(" ".join(text.split()) for text in _STATES[state]))
                for state in State
            ],
        ),
        "",
        "## What can happen",
        "",
        *_tables.rows(
            "Event", "Meaning", of=[(f"`{event.value}`", MEANING[event]) for event in Event]
        ),
    ]
    for state in State:
        lines += ["", f"## In `{state.value}`", "", *_rows(state)]
    return "\n".join([*lines, ""])


def _diagram() -> Iterator[str]:
    """Yield a Mermaid diagram: an arrow for each pair of states that an event leads between."""
    yield from ("```mermaid", "stateDiagram-v2", "    [*] --> idle")
    arrows: dict[tuple[State, State], list[Event]] = {}
    for (before, event), (after, _) in TRANSITIONS.items():
        if before is not after and event not in _ENDINGS:
            arrows.setdefault((before, after), []).append(event)
    for (before, after), events in arrows.items():
        yield f"    {before.value} --> {after.value}: {', '.join(e.value for e in events)}"
    yield "```"


def _rows(state: State) -> list[str]:
    """Return the table of what happens in a state; events that do the same share a row."""
    found: dict[tuple[State, tuple[Effect, ...]], list[Event]] = {}
    for (before, event), row in TRANSITIONS.items():
        if before is state and row != (state, ()):
            found.setdefault(row, []).append(event)
    of = [
        (
            ", ".join(f"`{event.value}`" for event in events),
            f"`{after.value}`",
            "; ".join(MEANING[effect] for effect in effects),
        )
        for (after, effects), events in found.items()
    ]
    return _tables.rows("When", "Then", "What is done, in this order", of=of)
