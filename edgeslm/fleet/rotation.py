"""Changes keys so that at every moment some set of metadata holds.

A rotation lets old and new key sign side by side before the old one goes. A revocation takes it
that the old key is in other hands: it does not sign again, and what it signed is signed anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from securesystemslib.signer import Key
from sqlalchemy import Engine
from tuf.api.metadata import Root, Targets

from edgeslm.contract.fleet import DIRECTOR, TIME_KEYS, Keys
from edgeslm.fleet.director import sign_again
from edgeslm.fleet.errors import KeyUnusedError
from edgeslm.fleet.operators import ROLE
from edgeslm.fleet.repository import Repository, director_target, keys_of
from edgeslm.fleet.store import Published, next_of

TOKENS: Final = "operators' tokens"
_TOP: Final = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key, and what it may sign now.

    Args:
        name: of its files.
        roles: root, targets, snapshot, timestamp, model-NAME, director, time, or `TOKENS`; ()
            where none.
        where: PKCS#11 URI or path of the private half.
    """

    name: str
    roles: tuple[str, ...]
    where: str


def list_keys(repository: Repository) -> list[KeyUse]:
    """Return every key of the repository's folder, with what it may sign."""
    published = repository.store.published()
    return [
        KeyUse(
            name,
            (TOKENS,) if record.role == ROLE else tuple(sorted(_roles_of(published, record.keyid))),
            repository.config.keys.get(name) or record.at or f"keys/{name}.pem",
        )
        for name, record in repository.keys.records().items()
    ]


def replace_key(
    repository: Repository,
    name: str,
    *,
    database: Callable[[], Engine],
    how: Literal["rotate", "revoke"] = "rotate",
    hardware: str | None = None,
) -> str:
    """Put a new key in the place of the key `name`; return the new one's name.

    Args:
        repository: where.
        name: of the key, as `list_keys` has it.
        database: opens the fleet's, whose assignments a new director signs; no other key needs it.
        how: whether the old key still signs, side by side with the new one, or never again.
        hardware: PKCS#11 URI of the new key; None: it is made.

    Raises:
        KeyUnusedError: no such key, or nothing is signed by it.
        EdgeSLMError: a key that must sign is missing, the disk refused; the command can be given
            again.
    """
    with repository.store.locked():
        published = repository.store.published()
        record = repository.keys.records().get(name)
        roles = _roles_of(published, record.keyid) if record is not None else set()
        if record is None or not roles:
            used = (use.name for use in list_keys(repository) if use.roles)
            msg = f"{name}: no key in use has this name. There are {', '.join(used)}."
            raise KeyUnusedError(msg)
        _can_sign(repository, published, roles, record.keyid, how)
        engine = database() if "director" in roles else None
        if hardware is not None:
            new_name = repository.keys.adopt(record.role, hardware)
        else:
            new_name = repository.keys.make(record.role)
        new = repository.keys.records()[new_name].public()
        change = _Change(repository, record.keyid, new, how, engine)
        for role in sorted(roles):
            published = change.apply(published, role)
        return new_name


@dataclass(frozen=True, slots=True)
class _Change:
    repository: Repository
    old: str
    new: Key
    how: Literal["rotate", "revoke"]
    engine: Engine | None

    def apply(self, published: Published, role: str) -> Published:
        if role == "root":
            return self._root(published, role)
        if role == "time":
            return self._time(published)
        if role == "director" and self.engine is not None:
            return self._director(published, self.engine)
        if role in _TOP:
            return self._top(published, role)
        return self._model(published, role)

    def _root(self, published: Published, role: str) -> Published:
        def swap(root: Root) -> None:
            root.revoke_key(self.old, role)
            root.add_key(self.new, role)

        avoid = {self.old} if self.how == "revoke" else set()
        return self.repository.change_root(published, swap, avoid=avoid)

    def _time(self, published: Published) -> Published:
        def swap(root: Root) -> None:
            keys = self._swapped(published.time())
            root.unrecognized_fields[TIME_KEYS] = keys.model_dump(mode="json")

        return self.repository.change_root(published, swap)

    def _top(self, published: Published, role: str) -> Published:
        if self.how == "rotate":  # by both, so that it holds under root N and under N+1
            published = self._again(published, role, also={self.new.keyid})
        published = self._root(published, role)
        return self._again(published, role)

    def _again(self, published: Published, role: str, also: Iterable[str] = ()) -> Published:
        repository = self.repository
        changed: dict[str, Targets] = {}
        if role == "targets":
            until = repository.expires("targets", repository.now())
            changed["targets"] = next_of(published.targets.signed, until)
        return repository.commit(published, changed, also=set(also))

    def _model(self, published: Published, role: str) -> Published:
        now = self.repository.now()
        expires = self.repository.expires
        targets = next_of(published.targets.signed, expires("targets", now))
        targets.revoke_key(self.old, role)
        targets.add_key(self.new, role)
        # One snapshot names both: no device sees one without the other.
        again = next_of(published.models[role].signed, expires("models", now))
        return self.repository.commit(published, {"targets": targets, role: again})

    def _director(self, published: Published, engine: Engine) -> Published:
        repository = self.repository
        keys = self._swapped(published.director())
        signs = set(keys.keys)
        if self.how == "rotate":  # devices that know only the old one take them too
            signs.add(self.old)
        # Before the old key goes: whoever is interrupted here gives the command again.
        sign_again(repository, engine, signs)
        until = repository.expires("targets", repository.now())
        targets = next_of(published.targets.signed, until)
        targets.targets[DIRECTOR] = director_target(keys)
        return repository.commit(published, {"targets": targets})

    def _swapped(self, keys: Keys) -> Keys:
        left = {keyid: key for keyid, key in keys.keys.items() if keyid != self.old}
        return Keys(keys={**left, **keys_of([self.new]).keys}, threshold=keys.threshold)


def _roles_of(published: Published, keyid: str) -> set[str]:
    roles = {name for name, role in published.root.signed.roles.items() if keyid in role.keyids}
    delegations = published.targets.signed.delegations
    for name, role in ((delegations and delegations.roles) or {}).items():
        if keyid in role.keyids:
            roles.add(name)
    if keyid in published.director().keys:
        roles.add("director")
    if keyid in published.time().keys:
        roles.add("time")
    return roles


def _can_sign(
    repository: Repository,
    published: Published,
    roles: set[str],
    keyid: str,
    how: Literal["rotate", "revoke"],
) -> None:
    """Load the keys that must sign the change, so that none is made where it cannot be signed.

    Raises:
        KeyMissingError, PassphraseError, HardwareKeyError: see there.
    """
    root = published.root.signed
    avoid = {keyid} if how == "revoke" else set()
    if roles & {*_TOP, "time"}:
        repository.signers("root", root.roles["root"], avoid=avoid)
    if roles - {"root", "time"}:
        for role in ("snapshot", "timestamp"):
            if role not in roles:
                repository.signers(role, root.roles[role])
    if "director" in roles or any(role.startswith("model-") for role in roles):
        repository.signers("targets", root.roles["targets"])
    if how == "rotate" and roles & {"targets", "snapshot", "timestamp", "director"}:
        for name in repository.keys.named({keyid}):
            repository.keys.signer(name)
