"""The machines of the demo's factory: what each measures and says in normal operation.

A table, so that a reader sees the whole plant. Several things that look like trouble are normal
here: a held cycle, an empty stack, a part not found at the first look. Twins say the same lines
at levels of their own, so that one at the other's level is a fault that only its history shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value: it drifts around its level and carries sensor noise.

    Args:
        level: where control holds it, in the unit that the line names.
        spread: standard deviation over a day, same unit.
        digits: decimals that the machine prints.
        settle_s: time constant of the drift, in seconds.
    """

    level: float
    spread: float
    digits: int = 1
    settle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Counter:
    """A whole number that steps from `first` to `last` every `every_s` seconds, then restarts."""

    first: int
    last: int
    every_s: float


@dataclass(frozen=True, slots=True)
class Pick:
    """One of a few fixed words or numbers."""

    words: tuple[str, ...]


Field = Reading | Counter | Pick


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that a machine says.

    Args:
        text: with `{field}` where a value goes.
        weight: how often, relative to the machine's other lines.
        opposite: the same event gone wrong, which is never normal for this machine.
    """

    text: str
    weight: float
    opposite: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """One source of messages.

    Args:
        name: the source that its messages carry.
        fields: by the name used in its lines.
        lines: what it says.
        twin: a machine with the same lines at other levels.
    """

    name: str
    fields: Mapping[str, Field]
    lines: tuple[Line, ...]
    twin: str | None = None


_PRESS: Final = (
    Line("cycle {cycle} done: force {force} kN, stroke {stroke} mm", 40),
    Line("hydraulics: oil {oil} C, level {fill} %", 16),
    Line("die clamped", 8, "die not clamped"),
    Line("ram at top dead centre", 8, "ram failed to reach top dead centre"),
    Line("lubrication pulse {pulse} ok", 7, "lubrication pulse {pulse} not ok"),
    Line("light curtain interrupted, cycle held", 6),
    Line("light curtain clear, cycle resumed", 6),
    Line("ALM 217 sheet feeder low, 1 of 2 stacks left", 5),
    Line("ALM 217 reset by operator", 4),
)
_PUMP: Final = (
    Line("in={inlet} bar out={outlet} bar flow={flow} l/min", 42),
    Line("bearing temp={bearing} C vib={vibration} mm/s", 26),
    Line("suction valve opened", 7, "suction valve failed to open"),
    Line("suction valve closed", 6, "suction valve failed to close"),
    Line("seal flush flowing", 6, "seal flush not flowing"),
    Line("WARN strainer dp {strainer} mbar, clean at next stop", 7),
    Line("duty changed to lead", 3),
    Line("duty changed to standby", 3),
)
_OVEN: Final = (
    Line("zone1={zone1} C zone2={zone2} C zone3={zone3} C", 44),
    Line("exhaust fan {fan} rpm, damper {damper} %", 18),
    Line("burner flame proven", 8, "burner flame not proven"),
    Line("door closed and locked", 7, "door closed and not locked"),
    Line("door opened for loading", 7, "door failed to open for loading"),
    Line("rack {rack} of 6 in", 7),
    Line("WARN zone 3 below set point after loading, recovering", 6),
)

MACHINES: Final = (
    Machine(
        "press-1",
        {
            "cycle": Counter(1, 900, 32),
            "force": Reading(412, 3.5),
            "stroke": Reading(120.4, 0.15, 2),
            "oil": Reading(46, 1.1),
            "fill": Reading(81, 0.8, 0),
            "pulse": Counter(1, 24, 1200),
        },
        _PRESS,
        twin="press-2",
    ),
    Machine(
        "press-2",
        {
            "cycle": Counter(1, 640, 45),
            "force": Reading(655, 5),
            "stroke": Reading(180.1, 0.2, 2),
            "oil": Reading(58, 1.1),
            "fill": Reading(66, 0.8, 0),
            "pulse": Counter(1, 24, 1200),
        },
        _PRESS,
        twin="press-1",
    ),
    Machine(
        "pump-1",
        {
            "inlet": Reading(1.31, 0.04, 2),
            "outlet": Reading(4.22, 0.07, 2),
            "flow": Reading(38.5, 0.6),
            "bearing": Reading(61.5, 1.0),
            "vibration": Reading(2.1, 0.12, 2),
            "strainer": Reading(212, 7, 0),
        },
        _PUMP,
        twin="pump-2",
    ),
    Machine(
        "pump-2",
        {
            "inlet": Reading(1.34, 0.04, 2),
            "outlet": Reading(7.85, 0.09, 2),
            "flow": Reading(61.2, 0.8),
            "bearing": Reading(74.0, 1.0),
            "vibration": Reading(3.6, 0.15, 2),
            "strainer": Reading(305, 9, 0),
        },
        _PUMP,
        twin="pump-1",
    ),
    Machine(
        "oven-1",
        {
            "zone1": Reading(165.0, 0.9),
            "zone2": Reading(182.0, 0.9),
            "zone3": Reading(196.0, 1.2),
            "fan": Reading(1445, 6, 0),
            "damper": Reading(34, 0.9, 0),
            "rack": Counter(1, 6, 400),
        },
        _OVEN,
        twin="oven-2",
    ),
    Machine(
        "oven-2",
        {
            "zone1": Reading(215.0, 0.9),
            "zone2": Reading(238.0, 0.9),
            "zone3": Reading(251.0, 1.2),
            "fan": Reading(1710, 7, 0),
            "damper": Reading(52, 0.9, 0),
            "rack": Counter(1, 6, 430),
        },
        _OVEN,
        twin="oven-1",
    ),
    Machine(
        "conveyor-1",
        {
            "speed": Reading(18.2, 0.15, 2),
            "current": Reading(6.4, 0.2, 2),
            "eye": Pick(("1", "2", "3", "4")),
            "wait": Pick(("4", "5", "6", "7", "8", "9")),
        },
        (
            Line("belt speed {speed} m/min, motor {current} A", 40),
            Line("photo eye {eye} blocked", 14),
            Line("photo eye {eye} clear", 14),
            Line("belt tracking within limits", 8, "belt tracking not within limits"),
            Line("zone stopped, downstream full, waited {wait} s", 8),
            Line("drive enabled", 6, "drive not enabled"),
            Line("jam cleared by operator", 5),
            Line("photo eye {eye} not clean, signal still ok", 5),
        ),
    ),
    Machine(
        "robot-1",
        {
            "pick": Counter(1, 999, 29),
            "seconds": Reading(8.4, 0.12, 2),
            "base": Reading(41.0, 0.9),
            "wrist": Reading(53.5, 0.9),
            "grip": Reading(24.6, 0.1, 2),
            "retry": Pick(("1", "2")),
        },
        (
            Line("pick {pick} placed in {seconds} s", 36),
            Line("axis temperatures: base {base} C wrist {wrist} C", 20),
            Line("gripper closed at {grip} mm", 14, "gripper failed to close"),
            Line("vision: part not found, retry {retry}", 9),
            Line("home position reached", 8, "home position not reached"),
            Line("person in outer zone, speed reduced", 7),
            Line("tool changed", 5, "tool failed to lock"),
        ),
    ),
    Machine(
        "valves-1",
        {
            "valve": Pick(("1", "2", "3", "4", "5", "6", "7", "8")),
            "opening": Reading(84, 3, 0),
            "closing": Reading(137, 4, 0),
            "supply": Reading(6.05, 0.05, 2),
            "coil": Reading(46.5, 0.9),
        },
        (
            Line("valve {valve} opened in {opening} ms", 26, "valve {valve} failed to open"),
            Line("valve {valve} closed in {closing} ms", 26, "valve {valve} failed to close"),
            Line("supply {supply} bar, coils {coil} mA", 30),
            Line("valve {valve} commanded while locked out, ignored", 6),
            Line("exhaust silencer ok", 6, "exhaust silencer not ok"),
        ),
    ),
    Machine(
        "compressor-1",
        {
            "pressure": Reading(7.1, 0.08, 2),
            "outlet": Reading(83.0, 1.2),
            "load": Reading(71, 2, 0),
            "dew": Reading(-38.5, 0.9),
            "air": Reading(412, 9, 0),
        },
        (
            Line("p={pressure} bar T={outlet} C load={load} %", 42),
            Line("dryer dew point {dew} C", 20),
            Line("loaded", 9),
            Line("unloaded, idle run", 9),
            Line("condensate drained", 8, "condensate failed to drain"),
            Line("INFO air delivered {air} m3/h", 7),
            Line("belt tension ok", 5, "belt tension not ok"),
        ),
    ),
    Machine(
        "packer-1",
        {
            "box": Counter(1, 480, 60),
            "weight": Reading(12.46, 0.04, 2),
            "seal": Reading(148, 1.2),
            "film": Counter(900, 20, 25),
        },
        (
            Line("box {box} weighed {weight} kg", 38),
            Line("sealing bar {seal} C", 18),
            Line("label printed, code verified", 12, "label printed, code not verified"),
            Line("film {film} m left on roll", 10),
            Line("box rejected at scale, pusher cycled", 7),
            Line("glue unit ready", 7, "glue unit not ready"),
            Line("pallet full, waiting for truck", 6),
        ),
    ),
    Machine(
        "agv-2",
        {
            "battery": Counter(95, 38, 210),
            "node": Pick(("11", "12", "14", "17", "21", "23")),
            "station": Pick(("A", "B", "C")),
            "velocity": Reading(1.2, 0.04, 2),
            "motor": Reading(48.0, 1.0),
        },
        (
            Line("battery {battery} % at node {node}", 26),
            Line("driving {velocity} m/s, motor {motor} C", 28),
            Line("docked at station {station}", 14, "failed to dock at station {station}"),
            Line("left station {station} with load", 10, "left station {station} without load"),
            Line("obstacle ahead, waiting", 9),
            Line("path clear, going on", 9),
            Line("docking failed at first try, second try ok", 5),
        ),
    ),
)

# What no machine of this plant has ever said, whatever its make.
UNSEEN: Final = (
    "hydraulic hose burst, fluid on floor",
    "bearing seizure detected on drive end",
    "smoke in control cabinet, power cut",
    "encoder signal lost, axis coasting",
    "PLC watchdog timeout, outputs switched off",
    "earth leakage trip on feeder F12",
    "coolant leak under tank, sump alarm",
    "firmware checksum mismatch after boot",
    "gearbox oil contaminated with metal",
    "emergency stop pressed at panel 2",
    "phase L2 missing, contactor dropped out",
    "crack found in housing, evacuate cell",
    "unauthorised login from 10.3.0.77",
    "thermal runaway, quench started",
)
