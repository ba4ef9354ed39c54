"""A stick as a source: the same metadata, signatures and bundles, from a folder or a tar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgeslm.adapters.clock import since_boot, synchronised
from edgeslm.adapters.stick import Stick, StickMissingError
from edgeslm.contract.fleet import MAX_SIGNED_BYTES, BlobFile, BlockList
from edgeslm.core.trust import settle
from edgeslm.ports import Clock, NotThereError, Offer, TrustedMetadata


class StickSource:
    """Implements `edgeslm.updater.source.Source`.

    Args:
        stick: opened.
        device: this device's id.
        clock: whose time counts where the kernel says that it is synchronised.
        trust_clock: it counts anyway, by an operator's word.
    """

    def __init__(self, stick: Stick, device: str, clock: Clock, *, trust_clock: bool) -> None:
        self._stick = stick
        self._device = device
        self._clock = clock
        self._trust_clock = trust_clock

    def metadata(self, file: str, max_bytes: int) -> bytes:
        try:
            return self._stick.read(f"metadata/{file}", max_bytes)
        except StickMissingError as err:
            raise NotThereError(str(err)) from None

    def now(self, trust: TrustedMetadata) -> float:
        wall = self._clock.wall() if self._trust_clock or synchronised() else None
        return settle(floor=trust.time_floor, monotonic=since_boot(), wall=wall)

    def assignment(self) -> bytes | None:
        try:
            return self._stick.read(f"assignments/{self._device}.json", MAX_SIGNED_BYTES)
        except StickMissingError:
            return None

    def supply(self, trust: TrustedMetadata, offer: Offer) -> StickSupply:
        return StickSupply(self._stick, trust, offer)


class StickSupply:
    """Implements `edgeslm.updater.change.Supply`."""

    def __init__(self, stick: Stick, trust: TrustedMetadata, offer: Offer) -> None:
        self._stick = stick
        self._trust = trust
        self._offer = offer

    def blocks(self) -> BlockList:
        raw = self._stick.read(f"blobs/{self._offer.sha256}", self._offer.length)
        return self._trust.blocks(self._offer, raw)

    def bring(
        self, file: BlobFile, into: Path, *, near: Sequence[Path], advance: Callable[[int], None]
    ) -> None:
        del near  # whole files are here already
        self._stick.copy(file.sha256, into, file.size)
        advance(file.size)

    def held(self, file: BlobFile) -> int:
        del file
        return 0
