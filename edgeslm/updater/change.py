"""What can be changed on a device: the bundle of a model, or the configuration."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from edgeslm.contract.fleet import BlobFile, BlockList, DeviceConfig
from edgeslm.contract.slots import Operation

NO_CONFIG: Final = hashlib.sha256(b"").hexdigest()
"""In place of the hash of a configuration: that of the settings file."""


class Supply(Protocol):
    """Where a bundle comes from: a fleet's servers, or a stick. What it raises ends the fetch."""

    def blocks(self) -> BlockList:
        """Return the bundle's block list, as signed."""

    def bring(
        self, file: BlobFile, into: Path, *, near: Sequence[Path], advance: Callable[[int], None]
    ) -> None:
        """Write a file to a path where there is none.

        Args:
            file: which.
            into: the path.
            near: folders of bundles like it, from which a difference may do.
            advance: called with the bytes that have come since the last call.
        """

    def held(self, file: BlobFile) -> int:
        """Return how many bytes of a file lie on this disk already, to be given up by `bring`."""


@dataclass(frozen=True, slots=True)
class ModelChange:
    """Another bundle for a model.

    Args:
        model: its name.
        seq: of the assignment; 0: of a stick without one.
        version: of the model.
        bundle: hash of its manifest.
        blocks: sha256 of its block list.
        supply: where it comes from.
    """

    model: str
    seq: int
    version: int
    bundle: str
    blocks: str
    supply: Supply


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """Another configuration.

    Args:
        seq: of the assignment.
        config: None: that of the settings file.
        awaited: models of the same assignment that are not here yet, and are tried again: routes
            may lead to them all the same.
    """

    seq: int
    config: DeviceConfig | None
    awaited: frozenset[str] = frozenset()
    model = None
    version = None

    @property
    def bundle(self) -> str:
        """What it is remembered by."""
        return hash_of(self.config)


Change = ModelChange | ConfigChange


def hash_of(config: DeviceConfig | None) -> str:
    """Return what a configuration is remembered by."""
    if config is None:
        return NO_CONFIG
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def beginning(change: Change, now: float) -> Operation:
    """Return the operation that a change begins as.

    Args:
        change: which.
        now: seconds since 1970, as far as the device knows.
    """
    config = change.config if isinstance(change, ConfigChange) else None
    return Operation(
        model=change.model,
        seq=change.seq,
        phase="resolving",
        version=change.version,
        bundle=change.bundle,
        config=config,
        since=max(0.0, now),
    )


def same(operation: Operation, change: Change) -> bool:
    """Whether an operation is this change."""
    return (operation.model, operation.bundle) == (change.model, change.bundle)
