"""The execution providers: which of them would run a graph on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from edgeslm import providers
from edgeslm.cli.checks import Finding, error, ok, warning
from edgeslm.contract.manifest import Artifact, Requirements
from edgeslm.contract.profile import DeviceProfile
from edgeslm.contract.settings import AgentSettings
from edgeslm.errors import EXIT_REJECTED
from edgeslm.ports import Provider
from edgeslm.providers import qnn
from edgeslm.runtime.profiles import detect_profile, load_profile
from edgeslm.runtime.variants import absent

_QNN: Final = "qnn"
_OPENVINO: Final = "openvino"


def execution_providers(settings: AgentSettings | None) -> Iterator[Finding]:
    """Which can run a graph here: asked as the runtime asks when it chooses a variant.

    Raises:
        ProfileError: there is no such profile, or none fits.
    """
    name = settings.profile if settings else None
    profile = load_profile(name) if name else detect_profile()
    usable = set()
    for key in providers.names():
        provider = providers.load(key)
        if provider is None:  # its file is gone since it was listed
            continue
        finding = _provider(key, provider, profile)
        if finding is None:
            usable.add(key)
            emulated = key == _QNN and qnn.emulated()
            what = ": an emulator of the NPU, right and a thousand times slower" if emulated else ""
            finding = ok(f"provider.{key}", f"present, runtime {provider.runtime()}{what}")
        yield finding
    if not usable & set(profile.providers):
        wanted = ", ".join(profile.providers)
        found = f"none of profile {profile.name}'s: {wanted}"
        remedy = "Install the runtime of one of them, or set a profile that names another."
        yield error("provider", found, remedy, status=EXIT_REJECTED)


def _provider(key: str, provider: Provider, profile: DeviceProfile) -> Finding | None:
    """Say what a provider lacks to run a graph here; None where it would."""
    check, asked = f"provider.{key}", key in profile.providers
    drop = f"take it out of profile {profile.name}'s providers."
    unasked = f"profile {profile.name} does not ask for it"
    if (problem := provider.problem()) is not None:
        if asked:
            return warning(check, problem, f"Install its runtime, or {drop}")
        return ok(check, f"{problem}; {unasked}")
    if (problem := absent(provider, [_graph(key, profile)])) is not None:
        found = f"runtime {provider.runtime()} is installed, but {problem}"
        remedy = drop if asked else f"remove its package: {unasked}."
        return warning(check, found, f"Mend its driver, or {remedy}")
    return None


def _graph(key: str, profile: DeviceProfile) -> Artifact:
    """Return what stands for a graph that an exporter makes for this provider and profile."""
    wanted = profile.openvino if key == _OPENVINO else None
    return Artifact(
        role="graph",
        path="model.onnx",
        size=0,
        sha256="0" * 64,
        provider=key,
        requires=Requirements(accelerator=None if wanted is None else wanted.device),
    )
