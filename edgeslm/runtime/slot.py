"""What a bundle folder holds, in the words of the table of slots."""

from __future__ import annotations

from pathlib import Path

from edgeslm.contract.slots import Slot
from edgeslm.errors import RejectedError
from edgeslm.runtime.bundle import open_bundle


def whole_slot(folder: Path) -> Slot | None:
    """Return what is in `folder`, where every file is there and has its hash; None otherwise."""
    try:
        bundle = open_bundle(folder)
    except RejectedError:
        return None
    return Slot(bundle=bundle.hash, version=bundle.manifest.version, whole=True)
