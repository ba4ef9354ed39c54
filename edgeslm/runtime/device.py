"""What this machine is: architecture, CPU and SoC, held against what an artifact requires."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeslm.contract.manifest import CPU_FEATURES, Requirements
from edgeslm.contract.messages import MAX_FEATURES, Platform
from edgeslm.contract.profile import DeviceProfile

_MAX_SOC_CHARS: Final = 64
_CPUINFO: Final = Path("/proc/cpuinfo")
# Devices with a device tree name their SoC last: "vendor,board\0vendor,soc\0".
_COMPATIBLE: Final = Path("/proc/device-tree/compatible")


@dataclass(frozen=True, slots=True)
class Device:
    """One machine.

    Args:
        arch: as `platform.machine()`.
        cpu_model: what the CPU calls itself; "" where unknown.
        cpu_features: flags, as in /proc/cpuinfo.
        socs: names of the SoC, from the device tree, without their vendor.
    """

    arch: str
    cpu_model: str
    cpu_features: frozenset[str]
    socs: frozenset[str] = frozenset()

    def lacks(self, requires: Requirements) -> str | None:
        """Say what of `requires` this device has not; None where it has all (runtime aside)."""
        if requires.arch is not None and requires.arch != self.arch:
            return f"needs {requires.arch}, this is {self.arch}"
        if missing := sorted(set(requires.cpu_features) - self.cpu_features):
            return f"needs CPU feature {', '.join(missing)}"
        any_of = requires.cpu_features_any
        if any_of and self.cpu_features.isdisjoint(any_of):
            return f"needs CPU feature {' or '.join(any_of)}"
        if requires.soc is not None and requires.soc not in self.socs:
            return f"needs SoC {requires.soc}"
        return None


@dataclass(frozen=True, slots=True)
class Preference:
    """What a device profile says to whoever chooses a bundle for it.

    Args:
        name: of the profile.
        providers: best first.
    """

    name: str
    providers: tuple[str, ...]


def platform_of(device: Device, profile: DeviceProfile | None) -> Platform:
    """Return what an updater tells of itself, so that others can choose as it does."""
    asked = CPU_FEATURES
    if profile is not None:
        asked |= {*profile.requires.cpu_features, *profile.requires.cpu_features_any}
    told: Platform = {
        "arch": device.arch,
        "cpu_features": sorted(asked & device.cpu_features)[:MAX_FEATURES],
        "socs": sorted(soc for soc in device.socs if len(soc) <= _MAX_SOC_CHARS)[:MAX_FEATURES],
    }
    if profile is not None:
        told["profile"] = profile.name
        told["providers"] = list(profile.providers)[:MAX_FEATURES]
    return told


def device_of(platform: Platform) -> tuple[Device, Preference | None]:
    """Return what `platform_of` was given, as far as a choice depends on it."""
    features, socs = frozenset(platform["cpu_features"]), frozenset(platform["socs"])
    device = Device(platform["arch"], "", features, socs)
    if "profile" not in platform:
        return device, None
    return device, Preference(platform["profile"], tuple(platform.get("providers", ())))


@functools.cache
def this_device() -> Device:
    """Return the machine this process runs on; read once."""
    model, features = parse_cpuinfo(_read(_CPUINFO))
    names = _read(_COMPATIBLE).split("\0")
    socs = frozenset(name.rpartition(",")[2] for name in names if name)
    return Device(platform.machine(), model, features, socs)


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Return (model, features) of the first CPU in the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    arm = _first(fields, ["CPU implementer", "CPU part"], join=" ")
    model = fields.get("model name") or arm
    return model, frozenset((fields.get("flags") or fields.get("Features") or "").split())


def _first(fields: dict[str, str], names: Sequence[str], *, join: str) -> str:
    return join.join(fields[name] for name in names if name in fields)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:  # not on this machine
        return ""
