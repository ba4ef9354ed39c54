"""Assignments that roll-outs give: made from the last ones, and signed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from securesystemslib.signer import Signer

from edgeslm.contract.fleet import AssignedModel, Assignment, Keys
from edgeslm.fleet.database.assignments import Stored
from edgeslm.fleet.director import director_signers, opened, sign
from edgeslm.fleet.repository import Repository

_DAY_S: Final = 86_400.0


class Signs(Protocol):
    """Makes assignments."""

    def make(  # noqa: PLR0913 -- by name
        self,
        wanted: Mapping[str, int | None],
        last: Mapping[str, Stored],
        numbers: Mapping[str, int],
        *,
        model: str,
        rollout: int,
        now: float,
    ) -> list[Stored]:
        """Return the next assignment of each device, signed.

        Args:
            wanted: version of the model by device; None: it is assigned no more.
            last: what the device has been assigned before; the rest of it stays.
            numbers: that they get.
            model: name.
            rollout: that gives them.
            now: seconds since 1970.

        Raises:
            EdgeSLMError: a key cannot be used, or there is too much to assign.
        """


class Orders:
    """Implements `Signs` on a repository. One thread's.

    Args:
        repository: opened with what its director's key needs.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._keys: Keys | None = None
        self._signers: Sequence[Signer] = ()

    def open(self) -> None:
        """Load the keys.

        Raises:
            EdgeSLMError: one is missing, or its passphrase is.
        """
        self._director()

    def make(  # noqa: PLR0913 -- see `Signs`
        self,
        wanted: Mapping[str, int | None],
        last: Mapping[str, Stored],
        numbers: Mapping[str, int],
        *,
        model: str,
        rollout: int,
        now: float,
    ) -> list[Stored]:
        signers = self._director()
        expires = now + self._repository.config.days.assignment * _DAY_S
        made = []
        for device, version in wanted.items():
            before = opened(last[device].envelope) if device in last else None
            models = dict(before.models) if before is not None else {}
            models.pop(model, None)
            if version is not None:
                models[model] = AssignedModel(version=version)
            new = Assignment(
                schema=1,
                device=device,
                seq=numbers[device],
                issued=now,
                expires=expires,
                models=models,
                config=before.config if before is not None else None,
            )
            made.append(Stored(device, new.seq, now, expires, sign(signers, new), now, rollout))
        return made

    def _director(self) -> Sequence[Signer]:
        keys = self._repository.store.published().director()
        if keys != self._keys:  # they may be others now
            self._signers = director_signers(self._repository)
            self._keys = keys
        return self._signers


def assigned_version(stored: Stored, model: str) -> int | None:
    """Return the version of a model that an assignment names; None: it does not name it."""
    assigned = opened(stored.envelope).models.get(model)
    return assigned.version if assigned is not None else None
