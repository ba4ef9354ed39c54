"""The machine itself: clock, CPU, providers, what its runtime reports to whom."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import edgeslm
from edgeslm import providers
from edgeslm.adapters.clock import SystemClock
from edgeslm.cli.checks import Finding, error, ok, warning
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.settings import AgentSettings
from edgeslm.errors import EXIT_CONFIG, EXIT_REJECTED, EXIT_UNAVAILABLE
from edgeslm.ports import Clock
from edgeslm.runtime.device import Device, this_device
from edgeslm.runtime.profiles import ProfileError, detect_profile, load_profile, profile_names

_LIFE_YEARS: Final = 20  # a clock so far past the release is wrong rather than late
_YEAR_S: Final = 365.25 * 24 * 3600
_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
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
        yield ok("clock", _day(now))


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


def execution_providers(settings: AgentSettings | None) -> Iterator[Finding]:
    """Which of the providers can run a graph here.

    Raises:
        ProfileError: there is no such profile, or none fits.
    """
    profile = _profile(settings)
    usable = []
    for name in providers.names():
        provider = providers.load(name)
        if provider is None:  # its file is gone since it was listed
            continue
        if (problem := provider.problem()) is None:
            usable.append(name)
            yield ok(f"provider.{name}", f"present, runtime {provider.runtime()}")
        elif name in profile.providers:
            remedy = f"Install its runtime, or take it out of profile {profile.name}'s providers."
            yield warning(f"provider.{name}", problem, remedy)
        else:
            yield ok(f"provider.{name}", f"{problem}; profile {profile.name} does not ask for it")
    if not set(usable) & set(profile.providers):
        wanted = ", ".join(profile.providers)
        found = f"none of profile {profile.name}'s: {wanted}"
        remedy = "Install the runtime of one of them, or set a profile that names another."
        yield error("provider", found, remedy, status=EXIT_REJECTED)


def telemetry(_settings: AgentSettings | None) -> Iterator[Finding]:
    """Whether ONNX Runtime keeps to itself what runs here."""
    value = os.environ.get(_TELEMETRY, "")
    if value.casefold() in _YES:
        yield ok("telemetry", "ONNX Runtime's is off")
    else:
        found = f"{_TELEMETRY}={value}: official builds of ONNX Runtime report to their maker"
        yield warning("telemetry", found, f"Unset {_TELEMETRY}: edgeslm sets it to 1 then.")


def _profile(settings: AgentSettings | None) -> DeviceProfile:
    name = settings.profile if settings else None
    return load_profile(name) if name else detect_profile()


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
