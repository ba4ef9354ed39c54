"""The page of roll-outs, drawn from `edgeslm/core/rollout.py` and the schema of a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

import _tables

from edgeslm.core.expressions import FIELDS, PARTS
from edgeslm.core.rollout import (
    ASSIGNS,
    DEVICE_TRANSITIONS,
    ENDED,
    MEANING,
    NOTE_S,
    SETTLE_S,
    TRANSITIONS,
    DeviceEvent,
    DeviceState,
    Event,
    State,
)

_STATES: Final[dict[State, str]] = {
    State.MOVING: "Devices of this wave are assigned the new version, and waited for.",
    State.SOAKING: "Each of them has ended. The new version answers for `soak_s`, and is judged.",
    State.PAUSED: "No device is moved. Those that were are watched and judged all the same.",
    State.TAKING_BACK: "Each device that was moved is assigned what it ran before, at any hour.",
    State.COMPLETED: "It is over. Devices that were late are still caught up, or written off.",
    State.ABORTED: "It is over, and so is the new version, wherever a device could be reached.",
}
_DEVICES: Final[dict[DeviceState, str]] = {
    DeviceState.WAITING: "Its turn has not come.",
    DeviceState.MOVED: "It was assigned the new version, and has not said how that ended.",
    DeviceState.SUCCEEDED: "It has committed the new version and answers with it.",
    DeviceState.FAILED: "It refused it, went back, did not end in time, or its agent fails on it.",
    DeviceState.SILENT: "Nothing was heard of it. It may still come.",
    DeviceState.TAKEN_BACK: "It was assigned what it ran before, and has not said that it does.",
    DeviceState.RESTORED: "It runs that again.",
    DeviceState.WRITTEN_OFF: "It is waited for no more. It is assigned what it ran before, and "
    "may come back to it later.",
    DeviceState.LEFT_OUT: "It was not touched.",
}
_FIELDS: Final[dict[str, str]] = {
    "id": "The device's id.",
    "profile": "Its device profile; `''` for none.",
    "arch": "Its processor, such as `aarch64`; `''` where it has not said.",
    "agent_version": "Of edgeslm, as a text.",
    "updater_version": "Likewise.",
    "online": "Whether it is connected.",
    "health": "As the page of the fleet shows it.",
    "phase": "What its updater does: `idle`, or a state of [an update](updates.md).",
    "heard_ago": "Since it was heard of.",
}
_PARTS: Final[dict[str, str]] = {
    "": "Whether it has the model at all.",
    "version": "That its agent answers with.",
    "committed": "Version that its updater holds for good.",
    "state": "`loading`, `serving` or `failed`.",
    "provider": "That runs it.",
    "error": "[Code](error-codes.md) of why it does not run.",
}
_KINDS: Final = {
    "text": "`=` `!=` `~` `in`",
    "whole": "`=` `!=` `<` `<=` `>` `>=` `in`, whole numbers",
    "duration": "`<` `<=` `>` `>=`, seconds or `10m` `2h` `3d`",
    "truth": "alone, or `= true`, `= false`",
}
_LIMITS: Final = (
    (
        "failed",
        """Devices that refused it (a golden file that does not pass, errors, slowness, a crash in
        the trial), that went back, on which the agent fails, or that accepted it and did not end
        within `deadline_s`""",
        """As a share of all devices moved so far. 5 % of 10 devices is less than one: in a small
        wave the first failure stops it""",
    ),
    (
        "silent",
        """Devices of which nothing was heard by the deadline; and those that had succeeded, and are
        then not heard of for `quiet_s`""",
        "Likewise",
    ),
    (
        "error_share",
        "Answers that are errors, of devices that have succeeded",
        """More than the version before had, by so much, and more than chance would make of it in
        one case of a hundred""",
    ),
    (
        "alarm_ratio",
        "Alarms per answer",
        """More than so many times those of the version before on the same devices, beyond chance
        likewise""",
    ),
    (
        "latency_ratio",
        "The median over devices of their 99th percentile of latency",
        "More than so many times the one before",
    ),
)
_HEAD: Final = f"""
For fleet managers, who move many devices from one version of a model to the next, and want to sleep
meanwhile. A roll-out is told by a **plan** which devices, in which waves, and when to stop; from
then on it decides by itself, and everything it decides is in its log with the reason.

```toml
PLAN
```

## How waves are cut

`waves` are the numbers or shares of devices that have been moved when a wave is over, all waves up
to this one together; the last is `100%`. A share is rounded down, to one device at least. So
`["1%", "10%", "100%"]` moves 20 of 2,000 devices, then 180, then 1,800. Where a number is more than
the fleet has, the first wave is all of it: look at the preview before you start.

Within a wave every device type has its share, so that no type is left for the end. A **type** is a
device profile: devices of one profile have the same processor and accelerator, and a model that
runs on one of them runs on the others. Which devices of a type go first is drawn anew for every
roll-out: it is not always the same ones that are tried on.

**Canaries.** The first wave has `canaries_per_type` devices of each type at least, even where that
is more than its share: with five types, at least five devices. A type with no more devices than
that needs none. No more of a type are moved until one of its devices has succeeded; where all that
were tried have failed or are silent, the roll-out stops itself, however well the other types are.
That holds as well for a type of which the first wave had none. Take two or three where single
devices are unreliable: one canary that happens to be switched off stops the whole.

**A bad model goes no further than the first wave.** The next wave begins when each device of this
one has succeeded, failed, or fallen silent; when the wave has then soaked for `soak_s`; and when no
limit is exceeded. What cannot be seen by then does not stop it: let a wave soak for as long as its
devices need to give some hundred answers.

**Hours.** `hours` are when devices may be moved, in UTC, whatever time zone you or they are in;
`22:00-05:00` goes over midnight. A device may besides have hours of its own for fetching, in its
local time. Outside of the hours a wave waits; devices that were moved before go on. Taking back
waits for no hours.

## What stops it

A device has **succeeded** when its updater says that the version is committed, which means that its
golden file passed on this device's provider, on trial and once more at its end; and when its agent
says that it answers with it. Neither alone will do. From then on it is watched until the roll-out
is over: if it goes back to another version, or its agent fails on this one, it has failed.

LIMITS

Answers, alarms and latencies are judged type by type, errors and alarms also over all types
together, from `answers` answers on, before and after. A model that a device did not have before has
nothing to be compared with: then its errors count and the other two do not. An update that has to
wait (no network, no server, a full disk) is no failure: the device goes on trying, until the
deadline.

What devices say is not taken at its word. One device weighs at most as much as four ordinary ones,
and of three or more the one that looks worst is left out: a machine that really is broken does not
stop a roll-out, and a device that boasts does not hide what the others see.

A limit that is exceeded is acted on in the same second. `on_breach = "abort"`: every device that
was moved is given a newer assignment that names what it ran before; each takes it back in the time
of a swap, since the old version is still in its other slot. `"pause"`: nobody else is moved, and
you decide.

## Silence

A bricked device cannot say that it failed. So silence is a failure of its own kind, with its own
limit: devices are also silent because somebody has switched them off. A device that accepted its
assignment and was not heard of again counts as failed, not as silent. One that succeeded has to be
heard of every `quiet_s` (its agent reports every `state_interval_s`, 900 s unless its settings say
otherwise; keep `quiet_s` at three times that, and below `soak_s` if you want the first wave to find
out). A silent device that speaks again is what it then says.

Time in which nobody listened is not held against devices: if the service was down, its broker away
or its computer asleep, silence counts from when they were back, and deadlines wait {SETTLE_S:.0f} s
for what was said meanwhile. Nor does it count as a soak: while nobody listens no wave begins and
nobody is moved; a wave that was soaking goes on to soak {SETTLE_S:.0f} s (or `soak_s`, if that is
less) after they were back, with what it had soaked until then, of which at most the last
{NOTE_S:.0f} s are lost. So a bad model goes no further while nobody can hear that it is bad, and a
soak of days ends, whatever is restarted meanwhile. The service's clock should be right; where it is
put back, no deadline is more than twice as long.

## Late and dead devices

A roll-out does not wait for dead devices: after `deadline_s` they are silent, and the wave is
decided. What becomes of devices that have not succeeded by the end says `late`:

- `catch_up`: their new assignment stands. A device that comes back in a month fetches the version,
  and is shown as succeeded, though the roll-out is long over.
- `write_off`: they are assigned what they ran before, so that nothing changes where nobody looks.

A device that is being taken back, and not heard of within `deadline_s`, is written off: it is given
up, its assignment names the old version, and it goes back to it whenever it comes. A device that
never had the model is assigned it no more when it is taken back; what it has of it stays there,
since an assignment leaves alone what it does not name.

## Pause, resume, abort

**Pause** moves nobody else. Devices that were moved go on with their updates, are watched, and are
judged: with `on_breach = "abort"` a paused roll-out still takes a bad model back.

**Resume** goes on in the same wave, which soaks anew. If a limit had stopped it, to resume is to
accept what was seen until then: devices that had failed or were silent are not counted again, and
how the version answers is judged over devices that succeed from then on. New evidence stops it
again.

**Abort** takes back every device that was moved, and leaves out the others. It is over when each is
back or written off. A roll-out that has completed cannot be aborted: start one to the version
before.

## Devices that come later

`targets = "frozen"`: those that matched at the start. `"live"`: devices that match later join the
last wave, until it has been moving for `deadline_s`; so a roll-out ends, however many come.

## Filters

`where`, and every other place that asks for devices, takes one language:

```
profile = pi-4 and tag.hall in (A, B) and not (model.press.version >= 7 or heard_ago > 2h)
```

`not` binds before `and`, `and` before `or`. `~` compares with a pattern, in which `*` is any
characters and `?` is one. A value with spaces or signs in it is put in quotes, and so are keys of
tags and names of models that need it (`tag."old hall"`). What a device does not have is equal to
nothing: `tag.hall = A` is false for a device without that tag, and `tag.hall != A` is true. Of a
field of the device itself `''` is that it has none: `profile = ''` finds devices without a profile,
`not profile = ''` the others; no pattern matches it. A filter that says nothing is all devices.
"""


def page(made: str, schema: dict[str, Any], example: str) -> str:
    """Return the page.

    Args:
        made: the remark that it is generated.
        schema: of a plan.
        example: of one.
    """
    fields = [(f"`{name}`", _KINDS[kind], _FIELDS[name]) for name, kind in FIELDS.items()]
    fields.append(("`tag.KEY`", _KINDS["text"], "Given by its settings, or by you: yours wins."))
    for part, kind in PARTS.items():
        name = "`model.NAME" + (f".{part}`" if part else "`")
        fields.append((name, _KINDS[kind], _PARTS[part]))
    of = [(f"`{name}`", *(" ".join(text.split()) for text in texts)) for name, *texts in _LIMITS]
    limits = "\n".join(_tables.rows("Limit", "What counts", "Judged", of=of))
    head = _HEAD.rstrip().replace("PLAN", example.rstrip()).replace("LIMITS", limits)
    lines = [
        "# Roll-outs",
        "",
        made,
        *head.split("\n"),
        "",
        *_tables.rows("Field", "Comparisons", "Meaning", of=fields),
        "",
        "## States of a roll-out",
        "",
        *_diagram(TRANSITIONS, State.MOVING, ENDED),
        "",
        *_tables.rows("State", "Meaning", of=[(f"`{s.value}`", _STATES[s]) for s in State]),
        "",
        *_tables.rows("Event", "Meaning", of=[(f"`{e.value}`", MEANING[e]) for e in Event]),
        "",
        "## States of a device in it",
        "",
        *_diagram(DEVICE_TRANSITIONS, DeviceState.WAITING, frozenset()),
        "",
        *_tables.rows("State", "Meaning", of=[(f"`{s.value}`", _DEVICES[s]) for s in DeviceState]),
        "",
        *_tables.rows(
            "Event",
            "Meaning",
            "Assigns",
            of=[(f"`{e.value}`", MEANING[e], _assigns(e)) for e in DeviceEvent],
        ),
        "",
        "## Plan",
        "",
        "A TOML file. An unknown key or a wrong value is an error that names it. To switch a ratio",
        "off, give one that is never reached, such as `1000`.",
    ]
    for table in _tables.tables(schema):
        name = f"`[{'.'.join(table.path)}]`" if table.path else "Top level"
        lines += ["", f"### {name}", "", table.meaning, ""]
        lines += _tables.rows(
            "Key",
            "Value",
            "Default",
            "Meaning",
            of=[
                (f"`{key.path[-1]}`", key.kind, key.default or "**required**", key.meaning)
                for key in table.keys
            ],
        )
    return "\n".join([*lines, ""])


def _diagram(
    table: Mapping[tuple[Any, Any], Enum], first: Enum, ends: frozenset[State]
) -> Iterator[str]:
    """Yield a Mermaid diagram: an arrow for each pair of states that an event leads between."""
    yield from ("```mermaid", "stateDiagram-v2", f"    [*] --> {first.value}")
    arrows: dict[tuple[Enum, Enum], list[str]] = {}
    for (before, event), after in table.items():
        if before is not after:
            arrows.setdefault((before, after), []).append(event.value)
    for (before, after), events in arrows.items():
        yield f"    {before.value} --> {after.value}: {', '.join(events)}"
    yield from sorted(f"    {end.value} --> [*]" for end in ends)
    yield "```"


def _assigns(event: DeviceEvent) -> str:
    which = {version for (_, of), version in ASSIGNS.items() if of is event}
    if not which:
        return ""
    words = "the new version" if which == {"new"} else "what it ran before"
    states = {before for before, of in DEVICE_TRANSITIONS if of is event}
    given = {before for before, of in ASSIGNS if of is event}
    less = ", ".join(f"`{state.value}`" for state in DeviceState if state in states - given)
    return f"{words}, unless it is {less}" if less else words
