"""The machine itself: clock, CPU, what its runtime reports to whom."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import edgeslm
from edgeslm.adapters.clock import SystemClock, synchronised
from edgeslm.cli.checks import Finding, error, ok, warning
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.settings import AgentSettings
from edgeslm.errors import EXIT_CONFIG, EXIT_UNAVAILABLE
from edgeslm.ports import Clock
from edgeslm.runtime.device import Device, this_device
from edgeslm.runtime.profiles import ProfileError, detect_profile, load_profile, profile_names

_LIFE_YEARS: Final = 20  # a clock so far past the release is wrong rather than late
_YEAR_S: Final = 365.25 * 24 * 3600
_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
_FOLLOWS: Final = {
    True: "follows another clock",
    False: "follows no other clock: results are marked so",
    None: "whether it follows another clock is not known",
}
_YES: Final = frozenset({"1", "true", "yes", "on"})  # what ONNX Runtime takes for yes


def clock(_settings: AgentSettings | None, *, of: Clock | None = None) -> Iterator[Finding]:
    """Whether the time can be right: certificates and the times in results depend on it."""
    now = (of or SystemClock()).wall()
    released = datetime.fromisoformat(edgeslm.RELEASED).replace(tzinfo=UTC).timestamp()
    remedy = "Set the clock: let NTP do it (`timedatectl set-ntp true`), or `date -s`."
    if not math.isfinite(now) or now < released:
        found = f"{_day(now)}, before edgeslm {edgeslm.__version__} was made ({edgeslm.RELEASED})"
        what = f"{found}: broker certificates will look not yet valid, results carry wrong times"
        yield error("clock", what, remedy, status=EXIT_UNAVAILABLE)
    elif now > released + _LIFE_YEARS * _YEAR_S:
        yield warning("clock", f"{_day(now)}, {_LIFE_YEARS} years past the release", remedy)
    else:
        yield ok("clock", f"{_day(now)}, {_FOLLOWS[synchronised()]}")


def cpu(settings: AgentSettings | None, *, device: Device | None = None) -> Iterator[Finding]:
    """Whether this machine is what its device profile, set or detected, asks for.

    Raises:
        ProfileError: there is no such profile, or none fits.
    """
    here = device or this_device()
    shipped = [load_profile(name) for name in profile_names()]
    known = {f for p in shipped for f in (*p.requires.cpu_features, *p.requires.cpu_features_any)}
    features = ", ".join(sorted(known & here.cpu_features)) or "none that a profile asks for"
    machine = f"{here.arch}, {here.cpu_model or 'unknown CPU'}; features: {features}"
    if settings is None or settings.profile is None:
        yield ok("cpu", f"{machine}; profile {_named(detect_profile(here))}, detected")
        return
    profile = load_profile(settings.profile)
    if lacking := here.lacks(profile.requires):
        found = f"{machine}; profile {profile.name} {lacking}"
        yield error("cpu", found, _other(here), status=EXIT_CONFIG, code=ProfileError.code)
    else:
        yield ok("cpu", f"{machine}; profile {_named(profile)}, as set")


def telemetry(_settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether ONNX Runtime keeps to itself what runs here."""
    value = os.environ.get(_TELEMETRY, "")
    if value.casefold() in _YES:
        yield ok("telemetry", "ONNX Runtime's is off")
    else:
        found = f"{_TELEMETRY}={value}: official builds of ONNX Runtime report to their maker"
        yield warning("telemetry", found, f"Unset {_TELEMETRY}: edgeslm sets it to 1 then.")


def _named(profile: DeviceProfile) -> str:
    return f"{profile.name} (verified: {profile.verified})"


def _other(here: Device) -> str:
    try:
        return f"Set profile to {detect_profile(here).name!r}, or leave it out."
    except ProfileError as err:
        return err.remedy


def _day(now: float) -> str:
    try:
        return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{now} s since 1970"
