"""Writes a stick: all that `edgeslm update --from` needs, for devices that no network reaches.

    index.json            the index that a broker would hold
    metadata/FILE         N.ROLE.json and timestamp.json
    assignments/DEVICE.json
    blobs/SHA256          block lists, and the files they name

It is a folder, or the same as one .tar.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from sqlalchemy import Engine

from edgeslm.adapters.fs import flush_folder
from edgeslm.contract.fleet import Assignment, Index
from edgeslm.fleet.database import assignments
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import some
from edgeslm.fleet.director import opened
from edgeslm.fleet.errors import AssignmentRefusedError, RoleExpiredError, StickError
from edgeslm.fleet.models import blobs_of, versions
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.store import BLOBS, METADATA, Published

ASSIGNMENTS: Final = "assignments"
INDEX: Final = "index.json"
TAR: Final = ".tar"
_MODE: Final = 0o644
_DAY_S: Final = 86_400.0
_CHUNK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """A stick.

    Args:
        size: bytes on it.
        days: that all of it is good for: metadata and assignments.
        until: when that is, seconds since 1970.
        ends: what ends first.
    """

    size: int
    days: float
    until: float
    ends: str


def write_stick(
    repository: Repository, engine: Engine, to: Path, devices: Collection[str] = ()
) -> Written:
    """Write a stick; return what is on it.

    On it are snapshot and timestamp that are good for as long as fleet.toml says of sticks: longer
    than what is published, which is signed anew right away.

    Args:
        repository: whose.
        engine: of the fleet's database.
        to: a folder that is absent or empty, or a file that ends in .tar.
        devices: whose assignments to put there; empty: of all that have one that is still good.
            Without any, the newest version of each model is on it.

    Raises:
        AssignmentRefusedError: one of the devices has no assignment, or one that has expired.
        RoleExpiredError: metadata that would be on it have expired.
        StickError: the place is taken, or cannot be written.
        EdgeSLMError: an online key is missing, the repository is damaged.
    """
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        msg = f"{to}: there is something already. Choose another place, or remove it."
        raise StickError(msg)
    chosen = _chosen(engine, devices, repository.now())
    _expect_fresh(repository)
    published, files = repository.sign_for_stick()
    index = Index(schema=1, root=published.root.signed.version, files=tuple(files))
    wanted = _wanted(repository, published, [assignment for _, assignment in chosen.values()])
    texts = {
        INDEX: index.model_dump_json(by_alias=True).encode(),
        **{f"{METADATA}/{name}": data for name, data in files.items()},
        **{f"{ASSIGNMENTS}/{device}.json": envelope for device, (envelope, _) in chosen.items()},
    }
    blobs = [repository.folder / BLOBS / name for name in sorted(wanted)]
    try:
        if to.suffix == TAR:
            _write_tar(to, texts, blobs)
        else:
            _write_folder(to, texts, blobs)
    except OSError as err:
        what = err.strerror or str(err)
        msg = f"{err.filename or to}: {what}. What is there is not whole: remove it."
        raise StickError(msg) from None
    size = sum(map(len, texts.values())) + sum(blob.stat().st_size for blob in blobs)
    now = repository.now()
    ends = repository.lifetimes_of(published)
    for device, (_, assignment) in chosen.items():
        ends[f"the assignment of {device}"] = (assignment.expires - now) / _DAY_S
    first = min(ends, key=lambda name: ends[name])
    return Written(size, ends[first], now + ends[first] * _DAY_S, first)


def _expect_fresh(repository: Repository) -> None:
    """Refuse to write what no device takes; snapshot and timestamp are signed anew.

    Raises:
        RoleExpiredError: a role has expired.
    """
    left = repository.lifetimes()
    expired = [role for role in left if left[role] <= 0 and role not in {"snapshot", "timestamp"}]
    if expired:
        roles = " ".join(expired)
        msg = f"{some(expired)}: expired. Sign anew first: edgeslm fleet keys renew {roles}"
        raise RoleExpiredError(msg)


def _chosen(
    engine: Engine, devices: Collection[str], now: float
) -> dict[str, tuple[bytes, Assignment]]:
    """Return the envelope of each device's assignment, and what it says."""
    with reading(engine) as conn:
        known = assignments.envelopes(conn)
    for device in devices:
        if device not in known:
            msg = f"{device}: it has no assignment; have one: {some(known) or 'none'}. "
            raise AssignmentRefusedError(msg + "Assign first: fleet assign")
    found = {device: (known[device], opened(known[device], device)) for device in devices or known}
    expired = [device for device, (_, said) in found.items() if said.expires <= now]
    for device in expired:
        if devices:
            msg = f"{device}: its assignment has expired. Assign again: fleet assign"
            raise AssignmentRefusedError(msg)
        del found[device]
    return found


def _wanted(
    repository: Repository, published: Published, assigned: Collection[Assignment]
) -> set[str]:
    """Return the hashes of the blobs that these devices may need."""
    if assigned:
        pairs = {(m, v.version) for each in assigned for m, v in each.models.items()}
    else:
        models = [role.removeprefix("model-") for role in published.models]
        pairs = {(model, max(versions(published, model))) for model in models}
    return {
        blob
        for model, version in sorted(pairs)
        for blob in blobs_of(repository, published, model, version)
    }


def _write_folder(to: Path, texts: dict[str, bytes], blobs: list[Path]) -> None:
    for part in (METADATA, ASSIGNMENTS, BLOBS):
        (to / part).mkdir(parents=True, exist_ok=True)
    for blob in blobs:
        with blob.open("rb") as source, _flushed(to / BLOBS / blob.name) as copy:
            shutil.copyfileobj(source, copy, _CHUNK)
    # Last what leads to the rest: a stick pulled out too early is no stick.
    for name, data in sorted(texts.items(), key=lambda item: item[0] == INDEX):
        with _flushed(to / name) as copy:
            copy.write(data)
    for part in (METADATA, ASSIGNMENTS, BLOBS, "."):
        flush_folder(to / part)


def _write_tar(to: Path, texts: dict[str, bytes], blobs: list[Path]) -> None:
    partial = to.with_name(f".{to.name}.partial")
    try:
        with _flushed(partial) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in texts.items():
                tar.addfile(_entry(name, len(data)), io.BytesIO(data))
            for blob in blobs:
                with blob.open("rb") as source:
                    tar.addfile(_entry(f"{BLOBS}/{blob.name}", blob.stat().st_size), source)
        partial.replace(to)
        flush_folder(to.parent)
    finally:
        partial.unlink(missing_ok=True)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    """Return a tar's header of a plain file; the same stick is the same bytes."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, _MODE
    return entry


@contextlib.contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that is on the disk when it is closed: sticks are pulled out."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fchmod(file.fileno(), _MODE)
        os.fsync(file.fileno())
