"""A repository as its server sees it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edgeslm.contract.fleet import Index
from edgeslm.fleet.director import envelope, time_reply, time_signers
from edgeslm.fleet.errors import FleetBusyError, FleetDamagedError, FleetMissingError
from edgeslm.fleet.publisher import Publications
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.store import ASSIGNMENTS, BLOBS, METADATA, TIMESTAMP
from edgeslm.logs import Log

_LOOKS: Final = 5  # at metadata that another command changes meanwhile
_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

log = Log(__name__)


class ServedRepository:
    """Implements `edgeslm.fleet.server.Served`.

    Args:
        repository: opened with what its online keys need.

    Raises:
        EdgeSLMError: a key of those that sign times is missing, or its passphrase is.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._root = repository.store.newest_root()
        self._signers = time_signers(repository)
        self.folder = repository.folder
        self.blobs: Path = repository.folder / BLOBS

    def stamp(self) -> object:
        # Each file is renamed into its folder, which shows in the folder's time.
        return tuple(_changed_at(self.folder / name) for name in (METADATA, ASSIGNMENTS))

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
                return Publications(files, index, self._assignments())
        msg = f"{self.folder}: the metadata change all the time"
        raise FleetBusyError(msg)

    def sign_time(self, device: str, nonce: str, now: float) -> bytes:
        return time_reply(self._signers, device=device, nonce=nonce, now=now)

    def refresh(self) -> bool:
        return self._repository.refresh()

    def _assignments(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for path in sorted((self.folder / ASSIGNMENTS).glob("*.json")):
            if not _DEVICE.fullmatch(path.stem):
                continue
            try:
                raw = envelope(self._repository, path.stem)
            except FleetDamagedError as err:  # the others go on
                log.warning("assignment_unreadable", device=path.stem, message=str(err))
                continue
            if raw is not None:
                found[path.stem] = raw
        return found


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
