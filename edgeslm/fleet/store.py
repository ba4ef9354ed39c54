"""The repository's metadata on disk: read, written in an order that a power cut cannot break."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, T, Targets, Timestamp

from edgeslm.adapters.fs import write_durably
from edgeslm.adapters.tuf_client import MAX_METADATA_BYTES
from edgeslm.contract.fleet import DIRECTOR, TIME_KEYS, Index, Keys
from edgeslm.fleet.errors import (
    BundleRefusedError,
    FleetBusyError,
    FleetDamagedError,
    FleetDiskError,
    FleetMissingError,
)

METADATA: Final = "metadata"
BLOBS: Final = "blobs"
TIMESTAMP: Final = "timestamp.json"
LOCK: Final = ".lock"
LOCK_WAIT_S: Final = 10.0
RESTORE: Final = "Restore the repository from a copy."
_ROOT_FILE: Final = re.compile(r"^([1-9][0-9]{0,8})\.root\.json$")
_VERSIONED: Final = re.compile(r"^([1-9][0-9]{0,15})\.(.+)\.json$")


@dataclass(frozen=True, slots=True)
class Published:
    """The metadata that devices see now; each part as it was signed.

    Args:
        root: newest.
        timestamp: names the snapshot.
        snapshot: names the versions of all the rest.
        targets: delegates to the models, and names the director.
        models: roles of the models, by role name.
    """

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    models: Mapping[str, Metadata[Targets]] = field(default_factory=dict)

    def director(self) -> Keys:
        """Who may sign assignments."""
        return _keys(self.targets.signed.targets[DIRECTOR].custom, f"{DIRECTOR} of targets")

    def time(self) -> Keys:
        """Who may sign times."""
        return _keys(self.root.signed.unrecognized_fields.get(TIME_KEYS), f"{TIME_KEYS} of root")


class Store:
    """Files of one repository's metadata.

    Args:
        folder: the repository's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata = folder / METADATA

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from writing; what they began ends first, for a while.

        Raises:
            FleetBusyError: it does not end.
            FleetDiskError: the disk refused something that is done meanwhile.
        """
        with disk(self.folder), (self.folder / LOCK).open("wb") as lock:
            until = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        msg = f"{self.folder}: another command writes there. Wait for its end."
                        raise FleetBusyError(msg) from None
                    time.sleep(0.05)
            yield

    def read(self, file: str) -> bytes:
        """Return the bytes of a metadata file.

        Raises:
            FleetMissingError: there is no repository, or this file is missing from it.
            FleetDamagedError: it cannot be read.
        """
        path = self.metadata / file
        try:
            with path.open("rb") as opened:
                return opened.read(MAX_METADATA_BYTES + 1)
        except FileNotFoundError:
            msg = f"{path}: it is missing. {RESTORE}"
            raise FleetMissingError(msg) from None
        except OSError as err:
            raise FleetDamagedError(
                str(path), [("", err.strerror or str(err))], remedy=RESTORE
            ) from None

    def newest_root(self) -> int:
        """Return the version of the newest root.

        Raises:
            FleetMissingError: there is none, or one of the chain is missing.
        """
        files = self.metadata.glob("*.root.json") if self.metadata.is_dir() else ()
        versions = {int(found[1]) for path in files if (found := _ROOT_FILE.match(path.name))}
        newest = max(versions, default=1)
        for version in range(1, newest + 1):
            if version not in versions:
                msg = f"{self.metadata / f'{version}.root.json'}: it is missing. {RESTORE}"
                raise FleetMissingError(msg)
        return newest

    def published(self) -> Published:
        """Return what devices see.

        Raises:
            FleetMissingError, FleetDamagedError: see `read`.
        """
        root = self._load(f"{self.newest_root()}.root.json", Root)
        timestamp = self._load(TIMESTAMP, Timestamp)
        snapshot = self._load(f"{timestamp.signed.snapshot_meta.version}.snapshot.json", Snapshot)
        named = {file.removesuffix(".json"): meta for file, meta in snapshot.signed.meta.items()}
        loaded = {
            role: self._load(f"{meta.version}.{role}.json", Targets) for role, meta in named.items()
        }
        targets = loaded.pop("targets")
        return Published(root, timestamp, snapshot, targets, loaded)

    def current(self) -> list[str]:
        """Return the files that devices need, in the order in which they are to be published."""
        timestamp = self._load(TIMESTAMP, Timestamp).signed
        snapshot_file = f"{timestamp.snapshot_meta.version}.snapshot.json"
        meta = self._load(snapshot_file, Snapshot).signed.meta
        roles = {file.removesuffix(".json"): each.version for file, each in meta.items()}
        targets = roles.pop("targets")
        return [
            *(f"{version}.root.json" for version in range(1, self.newest_root() + 1)),
            *(f"{version}.{role}.json" for role, version in sorted(roles.items())),
            f"{targets}.targets.json",
            snapshot_file,
            TIMESTAMP,
        ]

    def index(self) -> Index:
        """Return the index of what `current` lists."""
        return Index(schema=1, root=self.newest_root(), files=tuple(self.current()))

    def write(self, name: str, signed: Metadata[Any]) -> bytes:
        """Write a file of metadata; return its bytes.

        Raises:
            BundleRefusedError: it has grown beyond what devices take.
            OSError: the disk refused.
        """
        data = signed.to_bytes()
        if len(data) > MAX_METADATA_BYTES:
            msg = f"{name}: longer than the {MAX_METADATA_BYTES} bytes that devices take"
            raise BundleRefusedError(msg)
        write_durably(self.metadata / name, data)
        return data

    def prune(self) -> None:
        """Remove what no device needs: versions before the last one, but of roots all stay."""
        needed = {file: int(file.partition(".")[0]) for file in self.current() if file != TIMESTAMP}
        kept = {file.partition(".")[2]: version for file, version in needed.items()}
        for path in self.metadata.glob("*.json"):
            found = _VERSIONED.match(path.name)
            if found is None or found[2] == "root":
                continue
            # The one before stays: a device may be between two files.
            if int(found[1]) < kept.get(f"{found[2]}.json", 0) - 1:
                path.unlink(missing_ok=True)

    def _load(self, file: str, kind: type[T]) -> Metadata[T]:
        try:
            loaded = Metadata[T].from_bytes(self.read(file))
        except RepositoryError as err:
            path = str(self.metadata / file)
            raise FleetDamagedError(path, [("", str(err))], remedy=RESTORE) from None
        if not isinstance(loaded.signed, kind):
            path = str(self.metadata / file)
            what = f"{loaded.signed.type}, not {kind.__name__.lower()}"
            raise FleetDamagedError(path, [("_type", what)], remedy=RESTORE)
        return loaded


@contextlib.contextmanager
def disk(where: Path) -> Iterator[None]:
    """Turn what the system says of a disk into an error of ours."""
    try:
        yield
    except OSError as err:
        path = err.filename or where
        msg = f"{path}: {err.strerror or err}. Free disk space or check who may write there."
        raise FleetDiskError(msg) from None


def described(data: bytes, version: int) -> MetaFile:
    """Return what names a metadata file in the one that leads to it."""
    return MetaFile.from_data(version, data, ["sha256"])


def next_of(old: T, expires: Any) -> T:
    """Return a copy of what was signed, one version on."""
    new = copy.deepcopy(old)
    new.version += 1
    new.expires = expires
    return new


def _keys(value: object, where: str) -> Keys:
    try:
        return Keys.model_validate(value)
    except ValidationError as err:
        raise FleetDamagedError(where, [("", str(err))], remedy=RESTORE) from None
