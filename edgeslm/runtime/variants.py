"""Which compiled form of a model this device runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeslm import providers
from edgeslm.adapters.ort import hardware_problem
from edgeslm.contract.manifest import Artifact, Stage
from edgeslm.contract.profile import DeviceProfile
from edgeslm.errors import RejectedError
from edgeslm.ports import Provider
from edgeslm.runtime.bundle import Bundle
from edgeslm.runtime.device import Device

ANY_LENGTH: Final = 0
CPU: Final = "cpu"
"""Key of the provider that takes plain ONNX, which names none."""
_RANK: Final = 2  # [batch, sequence]


class NoArtifactError(RejectedError):
    """The bundle holds no graph that this device can run; says why of each."""

    code = "bundle.no_artifact"


@dataclass(frozen=True, slots=True)
class Variant:
    """A compiled form of a model, and who runs it here.

    Args:
        name: in the manifest; None where it names none.
        graphs: one, or one for each sequence length.
        provider: that runs them.
        passed_over: variants before it that this device cannot run, and why, a sentence each.
    """

    name: str | None
    graphs: tuple[Artifact, ...]
    provider: Provider
    passed_over: tuple[str, ...] = ()


def fixed_length(graph: Artifact) -> int:
    """Return the sequence length that a graph takes, in tokens; `ANY_LENGTH` where it is free."""
    for tensor in graph.inputs:
        if len(tensor.shape) == _RANK and isinstance(tensor.shape[1], int):
            return tensor.shape[1]
    return ANY_LENGTH


def choose_variant(  # noqa: PLR0913 -- by name
    bundle: Bundle,
    *,
    device: Device,
    profile: DeviceProfile | None,
    variant: str | None = None,
    stage: Stage | None = None,
    stand_in: str | None = None,
) -> Variant:
    """Return the first variant in the manifest that this device can run.

    With a profile: the first in the order of its providers. `variant` and `stand_in` are those of
    `edgeslm.runtime.model.load_model`. Of a cascade, with the graphs of one stage: the second is
    what variants differ in, so it is the one to choose by.

    Raises:
        NoArtifactError: none, and says why of each; or `variant` is none of the bundle's.
    """
    names = bundle.manifest.variants()
    if variant is not None and variant not in names:
        known = ", ".join(name for name in names if name is not None)
        msg = f"{bundle.path}: no variant {variant!r}; it has {known or 'one, without a name'}"
        raise NoArtifactError(msg)
    candidates = [
        (name, tuple(bundle.of(name, stage).artifacts("graph")))
        for name in names
        if variant in {None, name}
    ]
    reasons: list[str] = []
    if profile is not None and stand_in is None:
        order = profile.providers
        for name, graphs in candidates:
            if (key := _key(graphs)) not in order:
                reasons.append(f"{name or graphs[0].path}: profile {profile.name} has no {key!r}")
        candidates = [c for c in candidates if _key(c[1]) in order]
        candidates.sort(key=lambda candidate: order.index(_key(candidate[1])))
    for name, graphs in candidates:
        key = stand_in or _key(graphs)
        provider = providers.load(key)
        called = name or graphs[0].path
        if provider is None:
            reasons.append(f"{called}: this build has no provider {key!r}")
        elif stand_in is None and (why := _problem(graphs, provider, device)):
            reasons.append(f"{called}: {why}")
        else:
            return Variant(name, graphs, provider, tuple(reasons))
    allowed = f" for the providers of profile {profile.name}" if profile is not None else ""
    msg = (
        f"{bundle.path}: no graph{allowed} that this device can run: "
        f"{'; '.join(reasons) or 'none is offered'}. Export it for this device's profile, which "
        "`edgeslm doctor` names."
    )
    raise NoArtifactError(msg)


def absent(provider: Provider, graphs: Sequence[Artifact]) -> str | None:
    """Say that the provider is not here, or finds no device for `graphs`; None where it is."""
    problems = (hardware_problem(provider.options(graph)) for graph in graphs)
    return provider.problem() or next(filter(None, problems), None)


def _key(graphs: Sequence[Artifact]) -> str:
    return graphs[0].provider or CPU


def _problem(graphs: Sequence[Artifact], provider: Provider, device: Device) -> str | None:
    for graph in graphs:
        if lacking := device.lacks(graph.requires):
            return lacking
    if missing := absent(provider, graphs):
        return missing
    have = provider.runtime()
    for graph in graphs:
        runtime = graph.requires.runtime
        if runtime is not None and not f"{have}.".startswith(f"{runtime}."):
            return f"needs runtime {runtime}, this is {have}"
    return None
