"""What the machine tells of itself while it works: energy, clock, temperature. None where mute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

SYS: Final = Path("/sys")
_SAMPLE_S: Final = 0.02  # between two readings of a power sensor
_PROCESSOR_SENSORS: Final = frozenset({"coretemp", "k10temp", "cpu_thermal", "zenpower"})
_COLDEST_C: Final = -40.0  # below and above, a sensor is not connected
_HOTTEST_C: Final = 150.0


class EnergyMeter(Protocol):
    """Adds up what is drawn while a function runs."""

    @property
    def name(self) -> str:
        """Which counter, as files of measurements call it."""

    def joules(self, work: Callable[[], None]) -> float:
        """Do `work`; return the energy drawn meanwhile, J.

        Raises:
            OSError: the counter can no longer be read.
        """


class _Zone(NamedTuple):
    """A RAPL package: its counter goes from 0 to `span_uj`, and around."""

    counter: Path
    span_uj: int


@dataclass(frozen=True, slots=True)
class RaplMeter:
    """Counters of whole processor packages, on Intel and AMD.

    Source:
        https://docs.kernel.org/power/powercap/powercap.html
    """

    name: str
    zones: Sequence[_Zone]

    def joules(self, work: Callable[[], None]) -> float:
        before = [_number(zone.counter) for zone in self.zones]
        work()
        after = [_number(zone.counter) for zone in self.zones]
        # Once around at most: at 200 W the usual span lasts for twenty minutes.
        used = (
            b - a if b >= a else b - a + z.span_uj
            for a, b, z in zip(before, after, self.zones, strict=True)
        )
        return sum(used) / 1e6


class _Rail(NamedTuple):
    """A shunt of an INA3221: millivolts and milliamperes."""

    label: str
    voltage: Path
    current: Path

    def watts(self) -> float:
        """Return what it carries now."""
        return _number(self.voltage) * _number(self.current) / 1e6


@dataclass(frozen=True, slots=True)
class RailMeter:
    """Power sensors of a board, read again and again and added up.

    Source:
        https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/SD/PlatformPowerAndPerformance/
        JetsonOrinNanoSeriesJetsonOrinNxSeriesAndJetsonAgxOrinSeries.html, "Power Monitor"
    """

    name: str
    rails: Sequence[_Rail]

    def joules(self, work: Callable[[], None]) -> float:
        done = threading.Event()
        total = 0.0
        failure: OSError | None = None
        then, watts = time.perf_counter(), self._watts()

        def watch() -> None:
            nonlocal total, failure, then, watts
            ended = False
            while not ended:
                ended = done.wait(_SAMPLE_S)
                try:
                    now, found = time.perf_counter(), self._watts()
                except OSError as err:
                    failure = err
                    return
                total += (now - then) * (watts + found) / 2
                then, watts = now, found

        thread = threading.Thread(target=watch, name="meter")
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()
        if failure is not None:
            raise failure
        return total

    def _watts(self) -> float:
        return sum(rail.watts() for rail in self.rails)


def energy_meter(root: Path = SYS) -> EnergyMeter | None:
    """Return the counter of this machine; None where it has none, or none that we may read."""
    return _rapl(root) or _rails(root)


def cpu_mhz(root: Path = SYS) -> float | None:
    """Return the clock of the processor now, MHz, a mean over its cores."""
    files = root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    found = [khz / 1e3 for khz in map(_try, files) if khz is not None]
    return sum(found) / len(found) if found else None


def temperature_c(root: Path = SYS) -> float | None:
    """Return the temperature of the hottest sensor of the processor, degrees Celsius."""
    files = list(root.glob("class/thermal/thermal_zone*/temp"))
    for sensor in root.glob("class/hwmon/hwmon*"):
        if _text(sensor / "name") in _PROCESSOR_SENSORS:
            files += sensor.glob("temp*_input")
    found = [milli / 1e3 for milli in map(_try, files) if milli is not None]
    return max((t for t in found if _COLDEST_C < t < _HOTTEST_C), default=None)


def _rapl(root: Path) -> RaplMeter | None:
    zones, names = [], []
    # A package is "intel-rapl:N", on AMD too; what is below it is in its counter already.
    for folder in sorted((root / "class/powercap").glob("*rapl:*")):
        name = _text(folder / "name") or ""
        if folder.name.count(":") != 1 or not name.startswith("package"):
            continue
        span = _try(folder / "max_energy_range_uj")
        if span is None or _try(folder / "energy_uj") is None:  # root's alone, since 2020
            continue
        zones.append(_Zone(folder / "energy_uj", span))
        names.append(name)
    return RaplMeter(f"rapl {', '.join(names)}", zones) if zones else None


def _rails(root: Path) -> RailMeter | None:
    """The rail that feeds the whole board where there is one, else all rails together."""
    found = [rail for sensor in sorted(root.glob("class/hwmon/hwmon*")) for rail in _of(sensor)]
    whole = [rail for rail in found if rail.label == "VDD_IN"]
    rails = whole or found
    names = ", ".join(rail.label for rail in rails)
    return RailMeter(f"ina3221 {names}", rails) if rails else None


def _of(sensor: Path) -> Iterator[_Rail]:
    if _text(sensor / "name") != "ina3221":
        return
    for file in sorted(sensor.glob("in[0-9]_label")):
        number = file.name[2]
        rail = _Rail(
            _text(file) or "", sensor / f"in{number}_input", sensor / f"curr{number}_input"
        )
        if rail.label in {"", "NC"} or "sum" in rail.label:  # not connected; the other channels'
            continue
        if _try(rail.voltage) is not None and _try(rail.current) is not None:
            yield rail


def _number(file: Path) -> int:
    """Read a whole number.

    Raises:
        OSError: it cannot be read, or is none.
    """
    text = file.read_text("ascii", "replace")
    try:
        return int(text)
    except ValueError:
        msg = f"{file}: {text[:40]!r} is no number"
        raise OSError(msg) from None


def _try(file: Path) -> int | None:
    try:
        return _number(file)
    except OSError:
        return None


def _text(file: Path) -> str | None:
    try:
        return file.read_text("utf-8", "replace").strip()
    except OSError:
        return None
