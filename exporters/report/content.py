"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeslm.contract.manifest import Manifest
from edgeslm.contract.profile import DeviceProfile
from edgeslm.ports import Answer
from exporters.data import Row


@dataclass(frozen=True, slots=True)
class Judgement:
    """A variant, and what it and the float32 original say of the same rows.

    Args:
        variant: its name.
        rows: what was asked: all that was held out, or a sample where an emulator answers.
        reference: answers of the original.
        answers: those of the variant.
    """

    variant: str
    rows: Sequence[Row]
    reference: Sequence[Answer]
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True)
class Content:
    """One export.

    Args:
        manifest: of its bundle.
        bundle_hash: of the manifest.
        profile: that it was made for.
        quality: what `quality.json` says.
        judgements: of the variants in the bundle.
        fp32_bytes: size of the float32 original: its graph and weights.
    """

    manifest: Manifest
    bundle_hash: str
    profile: DeviceProfile
    quality: Mapping[str, Any]
    judgements: Sequence[Judgement]
    fp32_bytes: int
