"""Bundles as a repository offers them, made of a few words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from edgeslm.contract.fleet import BundleOffer, OfferedVariant
from edgeslm.contract.manifest import Requirements
from edgeslm.contract.profile import DeviceProfile
from edgeslm.ports import Offer
from edgeslm.runtime.device import Device
from edgeslm.runtime.profiles import load_profile

MODEL = "press"
PC = Device("x86_64", "PC", frozenset({"avx2", "avx512_vnni"}))


def profile(*providers: str, name: str = "mine") -> DeviceProfile:
    """A device type that likes these providers, best first."""
    made = load_profile("generic-x86_64").model_copy(update={"name": name})
    return made.model_copy(update={"providers": providers})


def variant(provider: str | None = None, **requires: Any) -> OfferedVariant:
    return OfferedVariant(provider=provider, requires=Requirements(**requires))


def offer(
    version: int = 1,
    variants: Sequence[OfferedVariant] = (OfferedVariant(),),
    profiles: Sequence[str] = ("mine",),
    *,
    salt: str = "",
    model: str = MODEL,
) -> Offer:
    hashed = hashlib.sha256(f"{model}{version}{variants}{profiles}{salt}".encode()).hexdigest()
    bundle = BundleOffer(
        model=model,
        version=version,
        bundle=hashed,
        task="intent",
        profiles=tuple(profiles),
        variants=tuple(variants),
        size=1,
    )
    return Offer(bundle, hashlib.sha256(hashed.encode()).hexdigest(), 100)
