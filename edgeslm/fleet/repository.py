"""A fleet's signed repository: made, added to, kept fresh. Keys change in `rotation.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgeslm.adapters.fs import write_durably
from edgeslm.contract.fleet import DIRECTOR, TIME_KEYS, Keys
from edgeslm.errors import EdgeSLMError
from edgeslm.fleet.config import CONFIG, FleetConfig, first_config, load_config
from edgeslm.fleet.errors import FleetExistsError, KeyMissingError, UnknownRoleError
from edgeslm.fleet.keys import KEYS, KeyFolder
from edgeslm.fleet.passphrases import Passphrases
from edgeslm.fleet.store import (
    BLOBS,
    METADATA,
    TIMESTAMP,
    Published,
    Store,
    described,
    disk,
    next_of,
)

ROOT_KEYS: Final = 3
ROOT_THRESHOLD: Final = 2
_DUE: Final = 0.5  # of its life that is left: signed again
_DAY_S: Final = 86_400.0
Clock = Callable[[], float]


class Repository:
    """One repository folder.

    Every command that writes takes the lock, reads what is published, writes new versions beside
    it, and the timestamp last: a command killed anywhere leaves what was published, or what it
    wanted to publish.

    Args:
        folder: see docs/fleet-repository.md.
        passphrases: of its keys.
        clock: seconds since 1970.

    Raises:
        FleetMissingError, FleetConfigError: see there.
    """

    def __init__(self, folder: Path, passphrases: Passphrases, clock: Clock = time.time) -> None:
        self.config = load_config(folder)
        online = self.config.online_passphrase_file
        self.keys = KeyFolder(
            folder, self.config.keys, passphrases, folder / online if online else None
        )
        self.folder = folder
        self.store = Store(folder)
        self.now = clock

    def expires(self, kind: str, now: float) -> datetime:
        """Return until when something signed now is good; `kind` is a key of [days]."""
        days: float = getattr(self.config.days, kind)
        return datetime.fromtimestamp(now, UTC).replace(microsecond=0) + timedelta(days=days)

    def refresh(self, *, force: bool = False) -> bool:
        """Sign snapshot and timestamp anew where they are due; return whether they were.

        Needs the online keys alone.

        Raises:
            EdgeSLMError: a key is missing, the disk refused, or another command writes for long.
        """
        with self.store.locked():
            published = self.store.published()
            snapshot = force or self._due(published, published.snapshot, "snapshot")
            timestamp = snapshot or self._due(published, published.timestamp, "timestamp")
            if timestamp:
                self.commit(published, {}, snapshot=snapshot)
            return timestamp

    def renew(self, roles: Collection[str]) -> None:
        """Sign these roles anew, for another lifetime: root, targets, model-NAME.

        Raises:
            UnknownRoleError: one is none of these.
            EdgeSLMError: a key is missing, the disk refused, or another command writes for long.
        """
        with self.store.locked():
            published = self.store.published()
            known = {"targets": published.targets, **published.models}
            for role in roles:
                if role != "root" and role not in known:
                    msg = f"{role}: no such role. There are root, {', '.join(known)}."
                    raise UnknownRoleError(msg)
            if "root" in roles:
                published = self.change_root(published, lambda _: None)
            changed = {
                role: next_of(known[role].signed, self.expires(_kind(role), self.now()))
                for role in roles
                if role != "root"
            }
            self.commit(published, changed)

    def lifetimes(self) -> dict[str, float]:
        """Return the days that are left of each role, by name; below 0: it has expired."""
        return self.lifetimes_of(self.store.published())

    def lifetimes_of(self, published: Published) -> dict[str, float]:
        """Return the same of metadata that are not what is published."""
        roles: Mapping[str, Metadata[Any]] = {
            "root": published.root,
            "targets": published.targets,
            **published.models,
            "snapshot": published.snapshot,
            "timestamp": published.timestamp,
        }
        now = self.now()
        return {
            name: (each.signed.expires.timestamp() - now) / _DAY_S for name, each in roles.items()
        }

    def export_root(self) -> bytes:
        """Return the newest root, to be flashed into devices."""
        return self.store.read(f"{self.store.newest_root()}.root.json")

    def commit(
        self,
        published: Published,
        changed: Mapping[str, Targets],
        *,
        snapshot: bool = True,
        also: Collection[str] = (),
    ) -> Published:
        """Sign and write new versions of roles, then a snapshot of all, then the timestamp.

        Args:
            published: what is changed; its root says which keys sign.
            changed: by role name, each with its new version. targets' own delegations say which
                keys sign the models' roles.
            snapshot: False: only the timestamp.
            also: ids of keys that sign besides, so that both sides of a change of keys hold.

        Raises:
            KeyMissingError, PassphraseError, HardwareKeyError, OSError: nothing devices see has
                changed.
        """
        root = published.root.signed
        targets = changed.get("targets", published.targets.signed)
        meta = dict(published.snapshot.signed.meta)
        # Sign all before a byte is written: a wrong passphrase changes nothing.
        signed: list[tuple[str, Metadata[Any]]] = []
        for role in sorted(changed, key=lambda role: role == "targets"):
            by: Root | Targets = root if role == "targets" else targets
            one = self.signed(role, changed[role], by, also=also)
            signed.append((f"{one.signed.version}.{role}.json", one))
            meta[f"{role}.json"] = described(one.to_bytes(), one.signed.version)
        shot = published.snapshot
        if snapshot:
            shot = self._snapshot(published, meta, "snapshot", also)
            signed.append((f"{shot.signed.version}.snapshot.json", shot))
        stamp = self._timestamp(published, shot if snapshot else None, "timestamp", also)
        for name, one in [*signed, (TIMESTAMP, stamp)]:
            self.store.write(name, one)
        self.store.prune()
        return self.store.published()

    def sign_for_stick(self) -> tuple[Published, dict[str, bytes]]:
        """Return what a stick is to hold: the metadata, good for longer, and their files in order.

        What is published moves on to higher versions first, so that what is on the stick is never
        taken for it.

        Raises:
            EdgeSLMError: an online key is missing, the disk refused.
        """
        with self.store.locked():
            now = self.store.published()
            shot = self._snapshot(now, now.snapshot.signed.meta, "stick")
            stamp = self._timestamp(now, shot, "stick")
            stick = replace(now, snapshot=shot, timestamp=stamp)
            rest = {
                name: self.store.read(name)
                for name in self.store.current()
                if name != TIMESTAMP and not name.endswith(".snapshot.json")
            }
            self.commit(stick, {})
        rest[f"{shot.signed.version}.snapshot.json"] = shot.to_bytes()
        rest[TIMESTAMP] = stamp.to_bytes()
        return stick, rest

    def change_root(
        self,
        published: Published,
        change: Callable[[Root], None],
        *,
        avoid: Collection[str] = (),
    ) -> Published:
        """Write root N+1, signed by enough of the old root keys and enough of the new ones.

        Args:
            published: with root N.
            change: what is changed in it.
            avoid: ids of keys that must not sign any more.

        Raises:
            KeyMissingError, PassphraseError, HardwareKeyError, OSError: root N is the newest.
        """
        old = published.root.signed
        new = next_of(old, self.expires("root", self.now()))
        change(new)
        signed = self.signed("root", new, old, avoid=avoid)
        have = set(signed.signatures)
        for signer in self.signers("root", new.roles["root"], have=have, avoid=avoid):
            signed.sign(signer, append=True)
        self.store.write(f"{new.version}.root.json", signed)
        return self.store.published()

    def signed(
        self,
        role: str,
        what: Signed,
        by: Root | Targets,
        *,
        avoid: Collection[str] = (),
        also: Collection[str] = (),
    ) -> Metadata[Any]:
        """Return `what`, signed by as many keys as `by` asks of `role`, and by those of `also`."""
        signers = self.signers(role, by.get_delegated_role(role), avoid=avoid)
        had = {signer.public_key.keyid for signer in signers}
        signers += [self.keys.signer(name) for name in self.keys.named(set(also) - had)]
        made: Metadata[Any] = Metadata(what)
        for signer in signers:
            try:
                made.sign(signer, append=True)
            except UnsignedMetadataError as err:  # it wraps what the signer itself said
                if isinstance(err.__cause__, EdgeSLMError):
                    raise err.__cause__ from None
                raise
        return made

    def signers(
        self, what: str, role: Role, *, have: Collection[str] = (), avoid: Collection[str] = ()
    ) -> list[Signer]:
        """Return as many signers as `role` asks for, besides those that signed already.

        Raises:
            KeyMissingError: there are not enough; says why of each.
            PassphraseError, HardwareKeyError: of the last one that was tried.
        """
        wanted = role.threshold - len(set(have) & set(role.keyids))
        names = self.keys.named(set(role.keyids) - set(have) - set(avoid))
        found: list[Signer] = []
        missing: list[str] = []
        for name in names:
            if len(found) >= wanted:
                break
            try:
                found.append(self.keys.signer(name))
            except KeyMissingError as err:
                missing.append(str(err))
        if len(found) < wanted:
            msg = f"{what} must be signed by {role.threshold} of its keys. " + (
                " ".join(missing) or f"Their files in {KEYS}/ are not there: restore them."
            )
            raise KeyMissingError(msg)
        return found

    def _snapshot(
        self,
        published: Published,
        meta: Mapping[str, MetaFile],
        life: str,
        also: Collection[str] = (),
    ) -> Metadata[Snapshot]:
        new = next_of(published.snapshot.signed, self.expires(life, self.now()))
        new.meta = dict(meta)
        return self.signed("snapshot", new, published.root.signed, also=also)

    def _timestamp(
        self,
        published: Published,
        shot: Metadata[Snapshot] | None,
        life: str,
        also: Collection[str] = (),
    ) -> Metadata[Timestamp]:
        """Return a timestamp of a new snapshot, or of the one that is there."""
        new = next_of(published.timestamp.signed, self.expires(life, self.now()))
        if shot is not None:
            new.snapshot_meta = described(shot.to_bytes(), shot.signed.version)
        return self.signed("timestamp", new, published.root.signed, also=also)

    def _due(self, published: Published, one: Metadata[Any], kind: str) -> bool:
        """Whether less than half of its life is left, or the newest root asks for other keys."""
        left = one.signed.expires.timestamp() - self.now()
        if left < getattr(self.config.days, kind) * _DAY_S * _DUE:
            return True
        result = published.root.signed.get_verification_result(
            kind, one.signed_bytes, one.signatures
        )
        return not result.verified


def init_repository(
    folder: Path,
    passphrases: Passphrases,
    config: FleetConfig,
    *,
    hardware: Mapping[str, str] | None = None,
    clock: Clock = time.time,
) -> Repository:
    """Make a repository and its keys.

    Args:
        folder: made where it is absent; it must hold nothing of a repository.
        passphrases: of the keys.
        config: what fleet.toml is to say.
        hardware: PKCS#11 URIs of keys that are there already, by name: root-1, targets, ...
        clock: seconds since 1970.

    Raises:
        FleetExistsError: there is one, or what is left of one.
        EdgeSLMError: a passphrase is missing, a key is not in its hardware, the disk refused.
    """
    with disk(folder):
        for part in (CONFIG, METADATA, KEYS):
            if (folder / part).exists():
                msg = (
                    f"{folder / part} is there already: of a repository, or of one that was not "
                    "finished. Choose another folder, or remove it if no device has its root."
                )
                raise FleetExistsError(msg)
        for part in (METADATA, BLOBS):
            (folder / part).mkdir(parents=True)
        text = first_config(config)
        write_durably(folder / CONFIG, text.encode())
    repository = Repository(folder, passphrases, clock)
    with repository.store.locked():
        _first(repository, hardware or {})
    return repository


def _first(repository: Repository, hardware: Mapping[str, str]) -> None:
    keys = repository.keys
    roots = [f"root-{n + 1}" for n in range(ROOT_KEYS)]
    made: dict[str, Key] = {}
    for name in (*roots, "targets", "snapshot", "timestamp", "director", "time"):
        role = name.partition("-")[0]
        if name in hardware:
            keys.adopt(role, hardware[name])
        else:
            keys.make(role)
        made[name] = keys.records()[name].public()
    now = repository.now()
    root = Root(
        expires=repository.expires("root", now),
        unrecognized_fields={TIME_KEYS: keys_of([made["time"]]).model_dump(mode="json")},
    )
    for name in (*roots, "targets", "snapshot", "timestamp"):
        root.add_key(made[name], name.partition("-")[0])
    root.roles["root"].threshold = ROOT_THRESHOLD
    targets = Targets(
        expires=repository.expires("targets", now),
        targets={DIRECTOR: director_target(keys_of([made["director"]]))},
        delegations=Delegations({}, {}),
    )
    store = repository.store
    store.write("1.root.json", repository.signed("root", root, root))
    signed = repository.signed("targets", targets, root)
    data = store.write("1.targets.json", signed)
    snapshot = Snapshot(
        expires=repository.expires("snapshot", now), meta={"targets.json": described(data, 1)}
    )
    data = store.write("1.snapshot.json", repository.signed("snapshot", snapshot, root))
    stamp = Timestamp(
        expires=repository.expires("timestamp", now), snapshot_meta=described(data, 1)
    )
    store.write(TIMESTAMP, repository.signed("timestamp", stamp, root))


def keys_of(keys: Iterable[Key], threshold: int = 1) -> Keys:
    """Return public keys as root and targets hold them."""
    return Keys(keys={key.keyid: key.to_dict() for key in keys}, threshold=threshold)


def director_target(keys: Keys) -> TargetFile:
    """Return the target that says who may sign assignments."""
    target = TargetFile.from_data(DIRECTOR, keys.model_dump_json().encode())
    target.unrecognized_fields["custom"] = keys.model_dump(mode="json")
    return target


def _kind(role: str) -> str:
    """Return the key of [days] for a role."""
    return role if role in {"root", "targets", "snapshot", "timestamp"} else "models"
