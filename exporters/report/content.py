"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from edgeslm.contract.manifest import Manifest
from edgeslm.contract.profile import DeviceProfile
from edgeslm.ports import Answer
from exporters.data import Row
from exporters.inspection.findings import Inspection


@dataclass(frozen=True, slots=True)
class Reference:
    """What variants are held against.

    Args:
        key: of its figures in `quality.json`.
        name: for people.
    """

    key: str
    name: str


FLOAT32: Final = Reference("fp32", "float32")


@dataclass(frozen=True, slots=True)
class Judgement:
    """A variant, and what it and its reference say of the same rows.

    Args:
        variant: its name.
        rows: what was asked: all that was held out, or a sample where an emulator answers.
        reference: answers of what it is held against; none where there is nothing.
        answers: those of the variant.
        original: what the reference is called.
    """

    variant: str
    rows: Sequence[Row]
    reference: Sequence[Answer]
    answers: Sequence[Answer]
    original: str = "float32"


@dataclass(frozen=True, slots=True)
class Content:
    """One export.

    Args:
        manifest: of its bundle.
        bundle_hash: of the manifest.
        profile: that it was made for.
        quality: what `quality.json` says.
        judgements: of the variants in the bundle.
        reference_bytes: size of what variants are held against: graph and weights.
        reference: what that is.
        inspection: what was found in the examples; None: nobody has looked.
    """

    manifest: Manifest
    bundle_hash: str
    profile: DeviceProfile
    quality: Mapping[str, Any]
    judgements: Sequence[Judgement]
    reference_bytes: int
    reference: Reference = FLOAT32
    inspection: Inspection | None = None
