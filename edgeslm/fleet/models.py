"""Bundles in the repository: verified, cut into blocks, stored by their hashes, and signed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from tuf.api.metadata import DelegatedRole, TargetFile, Targets

from edgeslm.adapters.fs import flush_folder, write_durably
from edgeslm.contract.base import problems_of
from edgeslm.contract.fleet import (
    BLOCK_BYTES,
    BlobFile,
    BlockList,
    BundleOffer,
    OfferedVariant,
)
from edgeslm.contract.manifest import Artifact, Requirements
from edgeslm.fleet.errors import BundleRefusedError, VersionOlderError, VersionTakenError
from edgeslm.fleet.reports import keep
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.store import BLOBS, Published, next_of
from edgeslm.runtime.bundle import MANIFEST, Bundle, open_bundle

ROLE: Final = "model-"
_NO_PROFILE: Final = ("",)
_READABLE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Stated:
    """Under what bundles are added; None: as the first one says.

    Args:
        model: name.
        version: number.
        task: key of edgeslm/tasks/.
        older: a version below the newest is meant.
    """

    model: str | None = None
    version: int | None = None
    task: str | None = None
    older: bool = False


def add(repository: Repository, paths: Sequence[Path], stated: Stated) -> list[BundleOffer]:
    """Store and sign bundles of one version of one model; return those that are new.

    Raises:
        RejectedError: a bundle is damaged (`open_bundle`), or of another model, version or task.
        VersionTakenError: the version is there for one of their profiles, with other bytes.
        VersionOlderError: there is a newer one, and `stated.older` is not set.
        EdgeSLMError: a key is missing, the disk refused.
    """
    bundles = [open_bundle(path) for path in paths]
    model, version = _agreed(bundles, stated)
    with repository.store.locked():
        published = repository.store.published()
        role = f"{ROLE}{model}"
        offered = offers(published, model)
        new = _new(bundles, offered, model=model, version=version, older=stated.older)
        for bundle in bundles:
            keep(repository.folder, bundle.path, bundle.hash)
        if not new:
            return []
        _can_sign(repository, published, role)
        targets = {}
        for bundle in new:
            path, target = _stored(repository.folder / BLOBS, bundle)
            targets[path] = target
        changed: dict[str, Targets] = {}
        now = repository.now()
        if role in published.models:
            expires = repository.expires("models", now)
            changed[role] = next_of(published.models[role].signed, expires)
        else:
            changed["targets"] = _delegating(repository, published, model)
            changed[role] = Targets(expires=repository.expires("models", now))
        changed[role].targets |= targets
        repository.commit(published, changed)
        return [_offer(bundle) for bundle in new]


def offers(published: Published, model: str) -> list[BundleOffer]:
    """Return what the repository offers of a model; none where it is not known."""
    role = published.models.get(f"{ROLE}{model}")
    if role is None:
        return []
    return [
        BundleOffer.model_validate_json(json.dumps(target.custom))
        for target in role.signed.targets.values()
    ]


def versions(published: Published, model: str) -> set[int]:
    """Return the versions of a model; none where it is not known."""
    return {offer.version for offer in offers(published, model)}


def blobs_of(repository: Repository, published: Published, model: str, version: int) -> set[str]:
    """Return the hashes of all that a device needs of a version: block lists and files."""
    role = published.models.get(f"{ROLE}{model}")
    found: set[str] = set()
    for path, target in role.signed.targets.items() if role is not None else ():
        if path.startswith(f"{model}/{version}/"):
            blob = target.hashes["sha256"]
            raw = (repository.folder / BLOBS / blob).read_bytes()
            listed = BlockList.model_validate_json(raw)
            found |= {blob, *(file.sha256 for file in listed.files)}
    return found


def _agreed(bundles: Sequence[Bundle], stated: Stated) -> tuple[str, int]:
    """Return model and version that all bundles are of."""
    first = bundles[0].manifest
    wanted = (
        stated.model if stated.model is not None else first.name,
        stated.version if stated.version is not None else first.version,
        stated.task if stated.task is not None else first.task,
    )
    for bundle in bundles:
        manifest = bundle.manifest
        if (is_ := (manifest.name, manifest.version, manifest.task)) != wanted:
            msg = (
                f"{bundle.path / MANIFEST}: {is_[0]} {is_[1]} ({is_[2]}), to be added as "
                f"{wanted[0]} {wanted[1]} ({wanted[2]}). Export it so, or add it by itself."
            )
            raise BundleRefusedError(msg)
    return wanted[0], wanted[1]


def _new(
    bundles: Sequence[Bundle],
    offered: Collection[BundleOffer],
    *,
    model: str,
    version: int,
    older: bool,
) -> list[Bundle]:
    """Return the bundles that are not there yet; refuse those that cannot be beside the rest."""
    there = {offer.bundle for offer in offered}
    new = list({b.hash: b for b in bundles if b.hash not in there}.values())
    tasks = {offer.task for offer in offered} - {bundle.manifest.task for bundle in bundles}
    if new and tasks:
        msg = f"{model}: its task is {tasks.pop()}. Give a model for another task another name."
        raise BundleRefusedError(msg)
    newest = max((offer.version for offer in offered), default=0)
    if new and version < newest and not older:
        msg = f"{model} {version}: version {newest} is there. If it is meant so: --older"
        raise VersionOlderError(msg)
    taken = {
        profile: offer.bundle
        for offer in offered
        if offer.version == version
        for profile in offer.profiles or _NO_PROFILE
    }
    for bundle in new:
        for profile in bundle.manifest.profiles or _NO_PROFILE:
            if profile in taken:
                msg = (
                    f"{bundle.path}: {model} {version} for {profile or 'no profile'} is there "
                    "with other bytes. A version never changes: export it with a higher one."
                )
                raise VersionTakenError(msg)
            taken[profile] = bundle.hash
    return new


def _can_sign(repository: Repository, published: Published, role: str) -> None:
    """Load the keys before anything is copied: a wrong passphrase should not take minutes."""
    root, targets = published.root.signed, published.targets.signed
    known = role in published.models
    for name in ("snapshot", "timestamp", *(() if known else ("targets",))):
        repository.signers(name, root.roles[name])
    if known:
        repository.signers(role, targets.get_delegated_role(role))


def _delegating(repository: Repository, published: Published, model: str) -> Targets:
    """Return targets with a role for a new model, whose key is made."""
    role = f"{ROLE}{model}"
    name = repository.keys.make(role)
    targets = next_of(published.targets.signed, repository.expires("targets", repository.now()))
    assert targets.delegations is not None  # noqa: S101 -- made so, and verified by `Store`
    delegated = DelegatedRole(role, [], 1, terminating=True, paths=[f"{model}/*/*.json"])
    targets.delegations.roles = {**(targets.delegations.roles or {}), role: delegated}
    targets.add_key(repository.keys.records()[name].public(), role)
    return targets


def _offer(bundle: Bundle) -> BundleOffer:
    manifest = bundle.manifest
    size = sum(a.size for a in manifest.artifacts) + (bundle.path / MANIFEST).stat().st_size
    try:
        return BundleOffer(
            model=manifest.name,
            version=manifest.version,
            bundle=bundle.hash,
            task=manifest.task,
            profiles=manifest.profiles,
            variants=tuple(
                _variant(name, bundle.of(name).artifacts("graph")) for name in manifest.variants()
            ),
            size=size,
        )
    except ValidationError as err:
        field, what = problems_of(err)[0]
        msg = f"{bundle.path}: {field}: {what}. Export it for fewer devices at once."
        raise BundleRefusedError(msg) from None


def _variant(name: str | None, graphs: Sequence[Artifact]) -> OfferedVariant:
    """Return what a device needs for all graphs of a variant."""
    needs = [graph.requires for graph in graphs]
    some = {
        field: next((value for n in needs if (value := getattr(n, field)) is not None), None)
        for field in ("arch", "soc", "accelerator", "runtime")
    }
    features = dict.fromkeys(feature for n in needs for feature in n.cpu_features)
    one_of = next((n.cpu_features_any for n in needs if n.cpu_features_any), ())
    requires = Requirements(cpu_features=tuple(features), cpu_features_any=one_of, **some)
    return OfferedVariant(name=name, provider=graphs[0].provider, requires=requires)


def _stored(blobs: Path, bundle: Bundle) -> tuple[str, TargetFile]:
    """Store a bundle's files and its block list; return the list's path and target."""
    offer = _offer(bundle)
    paths = [MANIFEST, *(artifact.path for artifact in bundle.manifest.artifacts)]
    expected = {artifact.path: artifact.sha256 for artifact in bundle.manifest.artifacts}
    files = tuple(_store(blobs, bundle.path, path) for path in paths)
    for file in files:
        if file.sha256 != expected.get(file.path, bundle.hash):
            msg = f"{bundle.path / file.path}: it changed while it was added. Add it again."
            raise BundleRefusedError(msg)
    listed = BlockList(bundle=bundle.hash, files=files)
    raw = listed.model_dump_json(exclude_defaults=True).encode()
    digest = hashlib.sha256(raw).hexdigest()
    if not (blobs / digest).exists():
        write_durably(blobs / digest, raw, mode=_READABLE)
    path = f"{offer.model}/{offer.version}/{offer.bundle}.json"
    target = TargetFile(len(raw), {"sha256": digest}, path)
    custom = offer.model_dump_json(exclude_defaults=True)
    target.unrecognized_fields["custom"] = json.loads(custom)
    return path, target


def _store(blobs: Path, folder: Path, path: str) -> BlobFile:
    """Copy a file among the blobs, under its hash: whole, or after a power cut not at all."""
    whole = hashlib.sha256()
    blocks: list[str] = []
    size = 0
    handle, temporary = tempfile.mkstemp(dir=blobs, prefix=".blob.")
    try:
        with os.fdopen(handle, "wb") as copy, (folder / path).open("rb") as source:
            while block := source.read(BLOCK_BYTES):
                whole.update(block)
                blocks.append(hashlib.sha256(block).hexdigest())
                copy.write(block)
                size += len(block)
            os.fchmod(copy.fileno(), _READABLE)
            digest = whole.hexdigest()
            if not (blobs / digest).exists():
                copy.flush()
                os.fsync(copy.fileno())
                Path(temporary).replace(blobs / digest)
    finally:
        Path(temporary).unlink(missing_ok=True)
    flush_folder(blobs)
    return BlobFile(
        path=path, size=size, sha256=digest, blocks=tuple(blocks) if len(blocks) > 1 else ()
    )
