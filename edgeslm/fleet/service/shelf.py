"""What a repository has, for whoever plans a roll-out and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from edgeslm.contract.fleet import BundleOffer
from edgeslm.fleet.models import ROLE, offers
from edgeslm.fleet.repository import Repository


class RepositoryShelf:
    """Implements `preview.Catalogue`. Threads: any.

    Args:
        repository: opened; nothing is signed.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def models(self) -> Sequence[str]:
        """Return the names of all models.

        Raises:
            EdgeSLMError: the repository cannot be read.
        """
        return sorted(role.removeprefix(ROLE) for role in self._repository.store.published().models)

    def offers(self, model: str) -> Sequence[BundleOffer]:
        return offers(self._repository.store.published(), model)

    def expired(self, model: str) -> Sequence[str]:
        left = self._repository.lifetimes()
        return [
            role for role in ("root", "targets", f"{ROLE}{model}") if left.get(role, 1.0) <= 0.0
        ]
