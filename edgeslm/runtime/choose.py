"""Which of the bundles that a repository offers is for this device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from edgeslm.contract.fleet import BundleOffer, OfferedVariant
from edgeslm.errors import RejectedError
from edgeslm.ports import Offer
from edgeslm.runtime.device import Device

_CPU: Final = "cpu"  # takes plain ONNX, whose files name no provider


class Profile(Protocol):
    """What a choice takes of a device profile."""

    @property
    def name(self) -> str: ...
    @property
    def providers(self) -> Sequence[str]:
        """Best first."""


class UnknownVersionError(RejectedError):
    """An assignment names a model or a version that the repository does not have."""

    code = "update.unknown_version"


class NoOfferError(RejectedError):
    """The repository has nothing of that version for this device; says why of each bundle."""

    code = "update.no_artifact"


def choose(
    offers: Sequence[Offer],
    *,
    model: str,
    version: int,
    profile: Profile | None,
    device: Device,
) -> Offer:
    """Return the bundle of a version that this device should run.

    Those that it can run at all, by architecture, processor, SoC and the providers of its profile;
    of them one made for its profile first, then the one whose best provider the profile likes most.
    Without a profile, the one that demands most of a device. Whether a provider is really there,
    loading shows.

    Raises:
        UnknownVersionError, NoOfferError: see there.
    """
    of_version = [offer for offer in offers if offer.bundle.version == version]
    if not of_version:
        known = ", ".join(str(n) for n in sorted({o.bundle.version for o in offers})) or "none"
        msg = f"{model} {version}: the repository has {known}. Assign one of these, or add it."
        raise UnknownVersionError(msg)
    ranked: list[tuple[bool, int, str, Offer]] = []
    reasons: list[str] = []
    for offer in of_version:
        likes = [_rank(variant, profile, device) for variant in offer.bundle.variants]
        fitting = [found for found in likes if isinstance(found, int)]
        if fitting:
            foreign = profile is not None and profile.name not in offer.bundle.profiles
            ranked.append((foreign, min(fitting), offer.bundle.bundle, offer))
        else:
            reasons.append(f"{_called(offer.bundle)}: {'; '.join(map(str, likes))}")
    if not ranked:
        here = profile.name if profile is not None else f"{device.arch}, no profile set"
        msg = (
            f"{model} {version}: nothing for this device ({here}): {' | '.join(reasons)}. "
            "Export it for this device and add it."
        )
        raise NoOfferError(msg)
    return min(ranked, key=lambda found: found[:3])[3]


def _rank(variant: OfferedVariant, profile: Profile | None, device: Device) -> int | str:
    """Return how much the device likes a variant, least is most; or why it cannot run here."""
    provider = variant.provider or _CPU
    if profile is not None and provider not in profile.providers:
        return f"{variant.name or provider} is for {provider}, not one of this profile's providers"
    if lacking := device.lacks(variant.requires):
        return f"{variant.name or provider} {lacking}"
    if profile is not None:
        return profile.providers.index(provider)
    requires = variant.requires
    demands = [requires.soc, *requires.cpu_features, *requires.cpu_features_any[:1]]
    return -sum(demand is not None for demand in demands)


def _called(bundle: BundleOffer) -> str:
    return f"made for {', '.join(bundle.profiles) or 'no profile'}"
