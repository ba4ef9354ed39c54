"""A repository and its database as their server sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sqlalchemy import Engine

from edgeslm.contract.fleet import Index
from edgeslm.contract.provision import AuthorityNotice
from edgeslm.fleet.authority import CERTIFICATE, Authority, name_of
from edgeslm.fleet.database import assignments
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.director import time_reply, time_signers
from edgeslm.fleet.errors import FleetBusyError, FleetMissingError
from edgeslm.fleet.publisher import Publications
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.store import BLOBS, METADATA, TIMESTAMP

_LOOKS: Final = 5  # at metadata that another command changes meanwhile


class ServedRepository:
    """Implements `edgeslm.fleet.server.Served`.

    Args:
        repository: opened with what its online keys need.
        engine: of the fleet's database.

    Raises:
        EdgeSLMError: a key of those that sign times is missing, or its passphrase is.
    """

    def __init__(self, repository: Repository, engine: Engine) -> None:
        self._repository = repository
        self._engine = engine
        self._root = repository.store.newest_root()
        self._signers = time_signers(repository)
        self.folder = repository.folder
        self.blobs: Path = repository.folder / BLOBS

    def stamp(self) -> object:
        with reading(self._engine) as conn:
            assigned = assignments.stamp(conn)
        # Each file is renamed into its folder, which shows in the folder's time.
        times = (_changed_at(self.folder / each) for each in (METADATA, CERTIFICATE))
        return *times, assigned

    def publications(self) -> Publications:
        store = self._repository.store
        for _ in range(_LOOKS):
            timestamp = store.read(TIMESTAMP)
            try:
                files = {name: store.read(name) for name in store.current()}
            except FleetMissingError:  # replaced since it was named
                continue
            if files[TIMESTAMP] == timestamp:
                root = store.newest_root()
                if root != self._root:  # the keys that sign times may be others now
                    self._signers = time_signers(self._repository)
                    self._root = root
                index = Index(schema=1, root=root, files=tuple(files))
                return Publications(files, index, self._assignments(), self._notice())
        msg = f"{self.folder}: the metadata change all the time"
        raise FleetBusyError(msg)

    def sign_time(self, device: str, nonce: str, now: float) -> bytes:
        return time_reply(self._signers, device=device, nonce=nonce, now=now)

    def refresh(self) -> bool:
        return self._repository.refresh()

    def _notice(self) -> bytes | None:
        """Return what devices are told of who signs their certificates; None: nobody does."""
        authority = Authority(self._repository)
        if not authority.exists:
            return None
        notice = AuthorityNotice(schema=1, issuer=name_of(authority.certificate()))
        return notice.model_dump_json(by_alias=True).encode()

    def _assignments(self) -> dict[str, bytes]:
        with reading(self._engine) as conn:
            return assignments.envelopes(conn)


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
