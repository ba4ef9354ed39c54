"""Known faults: each takes a line that a machine could say now and makes it wrong.

Every fault shows in its single line to whoever knows that machine's history; none needs the
line before. What a fault did is its ground truth, and it is never revised by what is detected.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from edgeslm.demo.machines import MACHINES, UNSEEN, Line, Machine, Reading

# So far from a machine's own level that no drift and no sensor noise explains it.
FAR_SPREADS: Final = 8.0
# A unit as it would read after a sensor was replaced by one set up for another market.
_OTHER_UNIT: Final[Mapping[str, tuple[str, Callable[[float], float]]]] = {
    "C": ("F", lambda v: v * 1.8 + 32),
    "bar": ("psi", lambda v: v * 14.504),
    "kN": ("lbf", lambda v: v * 224.81),
    "mm": ("in", lambda v: v / 25.4),
    "mm/s": ("in/s", lambda v: v / 25.4),
    "l/min": ("gpm", lambda v: v * 0.2642),
    "m/min": ("ft/min", lambda v: v * 3.281),
    "m/s": ("ft/s", lambda v: v * 3.281),
    "kg": ("lb", lambda v: v * 2.2046),
    "mbar": ("inHg", lambda v: v * 0.02953),
}
_DEAD: Final = ("nan", "NaN", "inf", "-inf", "1e308", "-999.9", "65535", "####", "---")
_BY_NAME: Final = {m.name: m for m in MACHINES}
_UNIT: Final = re.compile(r"\{(\w+)\} (\S+?)(?=,|$|\s)")


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line about to be said: its pattern and the value of each field."""

    machine: Machine
    line: Line
    values: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.line.text.format_map(self.values)


@dataclass(frozen=True, slots=True)
class Fault:
    """The ground truth of one faulty message.

    Args:
        kind: key of `KINDS`.
        text: what the machine says.
        detail: what was changed, for people.
    """

    kind: str
    text: str
    detail: str


def readings(machine: Machine, line: Line) -> list[str]:
    """Names of the measured values in `line`, in its order."""
    return [
        name
        for name in re.findall(r"\{(\w+)\}", line.text)
        if isinstance(machine.fields[name], Reading)
    ]


def reading(machine: Machine, name: str) -> Reading:
    """The field `name`, which must be a measured value.

    Raises:
        TypeError: it is not one (a fault of ours).
    """
    found = machine.fields[name]
    if not isinstance(found, Reading):
        msg = f"{machine.name}: {name} is not measured"
        raise TypeError(msg)
    return found


def _replaced(spoken: Spoken, kind: str, name: str, value: str) -> Fault:
    values = {**spoken.values, name: value}
    return Fault(
        kind, spoken.line.text.format_map(values), f"{name} {spoken.values[name]} -> {value}"
    )


def _jump(spoken: Spoken, rng: random.Random) -> Fault | None:
    names = readings(spoken.machine, spoken.line)
    if not names:
        return None
    name = rng.choice(names)
    field = reading(spoken.machine, name)
    distance = field.spread * rng.uniform(FAR_SPREADS, 5 * FAR_SPREADS) * rng.choice((-1, 1))
    return _replaced(spoken, "jump", name, f"{field.level + distance:.{field.digits}f}")


def _sign(spoken: Spoken, rng: random.Random) -> Fault | None:
    names = [
        n
        for n in readings(spoken.machine, spoken.line)
        if 2 * abs(reading(spoken.machine, n).level)
        > FAR_SPREADS * reading(spoken.machine, n).spread
    ]
    if not names:
        return None
    name = rng.choice(names)
    was = spoken.values[name]
    return _replaced(spoken, "sign", name, was[1:] if was.startswith("-") else f"-{was}")


def _dead(spoken: Spoken, rng: random.Random) -> Fault | None:
    names = readings(spoken.machine, spoken.line)
    if not names:
        return None
    return _replaced(spoken, "dead", rng.choice(names), rng.choice(_DEAD))


def _unit(spoken: Spoken, rng: random.Random) -> Fault | None:
    found = [m for m in _UNIT.finditer(spoken.line.text) if m[2] in _OTHER_UNIT]
    found = [m for m in found if m[1] in readings(spoken.machine, spoken.line)]
    if not found:
        return None
    match = rng.choice(found)
    name, unit = match[1], match[2]
    other, convert = _OTHER_UNIT[unit]
    digits = reading(spoken.machine, name).digits
    value = f"{convert(float(spoken.values[name])):.{digits}f}"
    head, tail = spoken.line.text[: match.start()], spoken.line.text[match.end() :]
    text = f"{head}{{{name}}} {other}{tail}".format_map({**spoken.values, name: value})
    return Fault("unit", text, f"{name} in {other}, not {unit}")


def _polarity(spoken: Spoken, rng: random.Random) -> Fault | None:
    del rng
    if spoken.line.opposite is None:
        return None
    text = spoken.line.opposite.format_map(spoken.values)
    return Fault("polarity", text, f"not {spoken.text!r}")


def _unseen(spoken: Spoken, rng: random.Random) -> Fault:
    del spoken
    return Fault("unseen", rng.choice(UNSEEN), "said by no machine before")


def _swapped(spoken: Spoken, rng: random.Random) -> Fault | None:
    names = readings(spoken.machine, spoken.line)
    pairs = [
        (a, b)
        for a in names
        for b in names
        if a < b and _far_apart(reading(spoken.machine, a), reading(spoken.machine, b))
    ]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    values = {**spoken.values, a: spoken.values[b], b: spoken.values[a]}
    return Fault("swapped", spoken.line.text.format_map(values), f"{a} and {b} swapped")


def _twin(spoken: Spoken, rng: random.Random) -> Fault | None:
    machine = spoken.machine
    if machine.twin is None:
        return None
    twin = _BY_NAME[machine.twin]
    names = [
        n
        for n in readings(machine, spoken.line)
        if _far_apart(reading(machine, n), reading(twin, n))
    ]
    if not names:
        return None
    name = rng.choice(names)
    other = reading(twin, name)
    fault = _replaced(
        spoken, "twin", name, f"{rng.gauss(other.level, other.spread):.{other.digits}f}"
    )
    return Fault("twin", fault.text, f"{name} at the level of {twin.name}")


def _far_apart(a: Reading, b: Reading) -> bool:
    return abs(a.level - b.level) > FAR_SPREADS * max(a.spread, b.spread)


KINDS: Final[Mapping[str, Callable[[Spoken, random.Random], Fault | None]]] = {
    "jump": _jump,
    "sign": _sign,
    "dead": _dead,
    "unit": _unit,
    "polarity": _polarity,
    "unseen": _unseen,
    "swapped": _swapped,
    "twin": _twin,
}
TITLES: Final[Mapping[str, str]] = {
    "jump": "number jumped",
    "sign": "sign flipped",
    "dead": "sensor dead",
    "unit": "other unit",
    "polarity": "meaning reversed",
    "unseen": "unknown message",
    "swapped": "values swapped",
    "twin": "level of its twin",
}
