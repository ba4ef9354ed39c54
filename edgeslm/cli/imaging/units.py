"""The units as they ship, and what a device profile adds to the agent's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import edgeslm
from edgeslm.contract.profile import DeviceProfile

UNITS: Final = "usr/lib/systemd/system"
DROP_INS: Final = "etc/systemd/system"
AGENT: Final = "edgeslm.service"
UPDATER: Final = "edgeslm-updater.service"
PROVISIONING: Final = ("edgeslm-provision.service", "edgeslm-provision.timer")
STUNNEL: Final = "edgeslm-stunnel.service"
_PACKAGE: Final = Path(edgeslm.__file__).parent
_WANTED_BY: Final = re.compile(r"^WantedBy=(.+)$", re.MULTILINE)


def shipped(name: str) -> str:
    """Return the text of a file of systemd/."""
    return (_folder() / name).read_text("utf-8")


def profile_drop_in(profile: DeviceProfile) -> str:
    """Return what a profile adds to the agent's unit: its limits, and its accelerators' devices.

    An accelerator is a file of systemd/accelerators/, named by its provider, and one by provider
    and device where the provider drives several kinds.
    """
    limits = profile.limits
    lines = [f"# Of device profile {profile.name}; made by `edgeslm image`.", "", "[Service]"]
    if limits.memory_mb is not None:
        lines.append(f"MemoryMax={limits.memory_mb}M")
    if limits.tasks is not None:
        lines.append(f"TasksMax={limits.tasks}")
    if limits.cpu_percent is not None:
        lines.append(f"CPUQuota={limits.cpu_percent}%")
    for name in _accelerators(profile):
        file = f"accelerators/{name}.conf"
        if (_folder() / file).is_file():
            lines += ["", f"# systemd/{file}", _body(shipped(file))]
    return "\n".join(lines).rstrip() + "\n"


def targets(unit: str) -> list[str]:
    """Return the targets that want a unit, by its text."""
    return [name for line in _WANTED_BY.findall(unit) for name in line.split()]


def _accelerators(profile: DeviceProfile) -> list[str]:
    found = []
    for provider in profile.providers:
        found.append(provider)
        device = getattr(getattr(profile, provider, None), "device", None)
        if device is not None:
            found.append(f"{provider}-{device.lower()}")
    return found


def _body(text: str) -> str:
    """Return a drop-in without its head, which says how to install it by hand."""
    return text.partition("\n\n")[2].partition("[Service]\n")[2].strip()


def _folder() -> Path:
    """Where the units are: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "systemd"
    return installed if installed.is_dir() else _PACKAGE.parent / "systemd"
