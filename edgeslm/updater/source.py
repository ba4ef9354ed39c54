"""Where assignments, metadata and bundles come from, as the updater sees it."""

from __future__ import annotations

from typing import Protocol

from edgeslm.ports import Offer, TrustedMetadata
from edgeslm.updater.change import Supply


class Source(Protocol):
    """A fleet's broker, or a stick."""

    def metadata(self, file: str, max_bytes: int) -> bytes:
        """Return a metadata file: see `edgeslm.ports.Fetch`."""

    def now(self, trust: TrustedMetadata) -> float:
        """Return what time it is, seconds since 1970, as far as it may be trusted.

        Raises:
            ClockUntrustedError: it may not.
            UnavailableError: nobody says.
        """

    def assignment(self) -> bytes | None:
        """Return the envelope of this device's assignment; None: there is none."""

    def supply(self, trust: TrustedMetadata, offer: Offer) -> Supply:
        """Return what brings a bundle."""


class Switch:
    """Whose metadata the trust reads: the broker's, or for a while a stick's.

    Attributes:
        source: that is worked with.
    """

    def __init__(self) -> None:
        self.source: Source | None = None

    def fetch(self, file: str, max_bytes: int) -> bytes:
        """See `edgeslm.ports.Fetch`."""
        assert self.source is not None  # noqa: S101 -- set before anything is asked for
        return self.source.metadata(file, max_bytes)
