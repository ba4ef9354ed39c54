"""`tuf.ngclient`, made to survive power cuts, bad clocks and a cache that was lost.

Private parts of tuf 7 are used, since it has no public way to say when it is, to flush what it
writes, to look at what it trusts while it does, and to list what a role has.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from securesystemslib.exceptions import Error
from securesystemslib.formats import encode_canonical
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, Signed, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType
from tuf.ngclient.fetcher import FetcherInterface

from edgeslm.adapters.dsse import public_of
from edgeslm.adapters.fs import write_durably
from edgeslm.contract.base import problems_of
from edgeslm.core import trust as rules
from edgeslm.core.trust import (
    Floors,
    RollbackRefusedError,
    TrustExpiredError,
    TrustMalformedError,
    TrustMismatchError,
    TrustUnavailableError,
)
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Fetch, NotThereError

MAX_METADATA_BYTES: Final = 2 * 1024 * 1024
"""Of any file, whatever a signature says of its length."""
_CONFIG: Final = UpdaterConfig(
    max_root_rotations=1024,
    root_max_length=128 * 1024,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=1024 * 1024,
    targets_max_length=MAX_METADATA_BYTES,
)
_BASE: Final = "/"  # tuf wants a URL; what follows it is the file's name
_MAX_VERSION: Final = 2**53
_SHOWN: Final = 300


class Source(FetcherInterface):
    """Fetches metadata for tuf: bounded, and strictly JSON before anything is made of it."""

    def __init__(self, fetch: Fetch) -> None:
        self._get = fetch
        self.file = ""
        self._raw = b""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        self.file = url.removeprefix(_BASE)
        self._raw = b""
        limit = min(max_length, MAX_METADATA_BYTES)
        try:
            raw = self._get(self.file, limit)
        except NotThereError as err:
            raise exceptions.DownloadHTTPError(str(err), 404) from None
        if len(raw) > limit:
            msg = f"{self.file}: longer than {limit} bytes"
            raise TrustMalformedError(msg)
        try:
            held = json.loads(raw, object_pairs_hook=_distinct, parse_constant=_no_number)
            # tuf verifies what it made of the bytes: something left out may count as its default.
            same = (encode_canonical(held["signed"]) or "").encode() == _as_tuf_reads(raw)
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
            Error,
            exceptions.RepositoryError,
        ) as err:
            msg = f"{self.file}: not metadata: {said(err)}"
            raise TrustMalformedError(msg) from None
        if not same:
            msg = f"{self.file}: written otherwise than it was signed"
            raise TrustMalformedError(msg)
        self._raw = raw
        return raw

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, MAX_METADATA_BYTES)

    def signed_by(self) -> set[str]:
        """Ids of the keys that the file fetched last claims to be signed by."""
        try:
            return {str(signature["keyid"]) for signature in json.loads(self._raw)["signatures"]}
        except (ValueError, KeyError, TypeError, RecursionError):
            return set()


Check = Callable[[str, Signed], None]
"""Raises TrustMalformedError where verified metadata of a role is of no use to a device."""


class TrustedSet(TrustedMetadataSet):
    """What tuf trusts, held against the floors and against what it does not look at itself.

    Args:
        root: the flashed root.
        floors: below what nothing is trusted; `floors` rises with what is.
        known: is given the ids of all keys that trusted metadata name.
        check: is asked of all that was verified, before it is kept.
    """

    def __init__(self, root: bytes, floors: Floors, known: set[str], check: Check) -> None:
        self.floors = floors
        self._known = known
        self._check = check
        super().__init__(root, EnvelopeType.METADATA)

    def _add(self, role: str, signed: Signed, delegator: str) -> None:
        if type(signed.version) is not int or signed.version > _MAX_VERSION:
            msg = f"{role}: not a version"
            raise exceptions.RepositoryError(msg)
        if isinstance(signed, Root):
            self._known |= set(signed.keys)
            for each in signed.roles:
                _distinct_keys(each, signed.roles[each].keyids, signed.keys)
        elif isinstance(signed, Targets) and signed.delegations is not None:
            self._known |= set(signed.delegations.keys)
            for name, delegated in (signed.delegations.roles or {}).items():
                if type(name) is not str:  # tuf takes any; it becomes a file's name
                    msg = f"{name}: not the name of a role"
                    raise exceptions.RepositoryError(msg)
                _distinct_keys(name, delegated.keyids, signed.delegations.keys)
        try:
            self._check(role, signed)
        except TrustMalformedError as err:
            raise exceptions.RepositoryError(str(err)) from None
        # Of roots, only the end of the chain is held against the floor: see `Client.walk`.
        if role != Root.type:
            self.hold(role, signed.version, self._delegator(delegator))
        super()._add(role, signed, delegator)

    def hold(self, role: str, version: int, delegator: Root | Targets) -> None:
        """Hold a version against its floor, which rises to it."""
        keys = delegator.get_delegated_role(role).keyids
        try:
            self.floors = rules.raise_role(self.floors, role, version, keys)
        except RollbackRefusedError as err:
            raise exceptions.BadVersionNumberError(str(err)) from None

    def _delegator(self, name: str) -> Root | Targets:
        found = self[name]
        assert isinstance(found, Root | Targets)  # noqa: S101 -- tuf has verified by it
        return found


class Client(Updater):
    """`tuf.ngclient.Updater` that flushes what it writes and takes the time from its caller."""

    _trusted_set: TrustedSet

    def __init__(self, folder: Path, root: bytes, source: Source, *, trusted: TrustedSet) -> None:
        source.file = ""
        super().__init__(str(folder), _BASE, fetcher=source, config=_CONFIG, bootstrap=root)
        self._trusted_set = trusted

    @property
    def floors(self) -> Floors:
        """As they are with all that was verified."""
        return self._trusted_set.floors

    @property
    def root(self) -> Root:
        return self._trusted_set.root

    @property
    def targets(self) -> Targets:
        return self._trusted_set.targets

    @property
    def reference_time(self) -> datetime:
        return self._trusted_set.reference_time

    @reference_time.setter
    def reference_time(self, now: datetime) -> None:
        self._trusted_set.reference_time = now

    def walk(self) -> None:
        """Follow the chain of roots to its end."""
        self._load_root()
        self._trusted_set.hold(Root.type, self.root.version, self.root)

    def load(self) -> None:
        """Load what else there is at the top, by the roots that were walked."""
        self._load_timestamp()
        self._load_snapshot()
        self._load_targets(Targets.type, Root.type)

    def role(self, name: str) -> Targets | None:
        """Return a role that targets delegates to, without what is not delegated to it."""
        delegations = self.targets.delegations
        delegated = ((delegations and delegations.roles) or {}).get(name)
        if delegated is None:
            return None
        loaded = self._load_targets(name, Targets.type)
        strays = [path for path in loaded.targets if not delegated.is_delegated_path(path)]
        if strays:
            msg = f"{name} has {strays[0]}, which is not delegated to it"
            raise exceptions.RepositoryError(msg)
        return loaded

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        with contextlib.suppress(OSError):
            if path.read_bytes() == data:
                return
        write_durably(path, data)

    def _update_root_symlink(self) -> None:
        """There is none: trust begins with the flashed root, never with a file of the cache."""


ERRORS: Final[tuple[tuple[tuple[type[Exception], ...], Callable[[str], EdgeSLMError]], ...]] = (
    ((exceptions.ExpiredMetadataError,), TrustExpiredError),
    ((exceptions.BadVersionNumberError,), RollbackRefusedError),
    ((exceptions.LengthOrHashMismatchError,), TrustMismatchError),
    ((exceptions.DownloadLengthMismatchError,), TrustMalformedError),
    ((exceptions.DownloadError, OSError), TrustUnavailableError),
    # What tuf says of wrong types, deep nesting and names that are none, besides its own errors.
    (
        (
            exceptions.RepositoryError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ),
        TrustMalformedError,
    ),
)
MAPPED: Final = tuple(kind for kinds, _ in ERRORS for kind in kinds)


def _distinct_keys(role: str, ids: list[str], keys: dict[str, Any]) -> None:
    """One key under two ids would count twice."""
    held = [public_of(keys[key]) for key in ids if key in keys]
    if len(ids) > rules.MAX_KEYS or len(set(held)) != len(held):
        msg = f"{role}: a key is listed twice, or there are more than {rules.MAX_KEYS}"
        raise exceptions.RepositoryError(msg)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        msg = "a key comes twice in one object"
        raise ValueError(msg)
    return found


def _as_tuf_reads(raw: bytes) -> bytes:
    return Metadata[Root].from_bytes(raw).signed_bytes


def _no_number(text: str) -> object:
    msg = f"{text} is not a number"
    raise ValueError(msg)


def said(err: Exception) -> str:
    """Return what an error says, short: it may quote what a stranger wrote."""
    if isinstance(err, ValidationError):
        field, what = problems_of(err)[0]
        return f"{field}: {what}"[:_SHOWN]
    return (str(err) or type(err).__name__)[:_SHOWN]
