"""What is genuine on a device: the fleet's repository (TUF), its director, and its time.

The flashed root is where trust begins, every time; TUF's own cache only saves downloads, and one
that is damaged or lost is fetched anew. What must not be lost, the floors, lies beside it in a file
of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api import exceptions
from tuf.api.metadata import Root, Signed, Targets

from edgeslm.adapters.dsse import Signers, open_envelope, signers_of
from edgeslm.adapters.fs import write_durably
from edgeslm.adapters.tuf_client import ERRORS, MAPPED, Client, Source, TrustedSet, said
from edgeslm.contract.fleet import (
    ASSIGNMENT,
    COMMAND,
    DIRECTOR,
    MAX_SIGNED_BYTES,
    TIME,
    TIME_KEYS,
    Assignment,
    BlockList,
    BundleOffer,
    Command,
    Keys,
    TimeReply,
)
from edgeslm.core import trust as rules
from edgeslm.core.trust import (
    AssignmentFloor,
    AssignmentMalformedError,
    AssignmentSignatureError,
    ClockUntrustedError,
    CommandMalformedError,
    Floors,
    FloorsDamagedError,
    ForeignFleetError,
    RollbackRefusedError,
    TrustExpiredError,
    TrustMalformedError,
    TrustSignatureError,
    TrustUnavailableError,
)
from edgeslm.errors import EdgeSLMError
from edgeslm.ports import Fetch, Offer

METADATA: Final = "metadata"
FLOORS: Final = rules.FLOORS
KEPT: Final = "assignment.json"
_LAST: Final = 32_503_680_000.0  # the year 3000: as late as a time can be
_RESET: Final = (
    "Nothing is installed until then. To begin anew from the root of trust that was flashed, "
    "remove the folder; older models may then be offered to this device again."
)

_SEEN: Final = (
    "This device has seen newer: write a new stick (`edgeslm fleet stick`), or publish the "
    "repository's newest state"
)
_RENEW: Final = (
    "Sign it again: `edgeslm fleet keys renew` for what offline keys sign, `edgeslm fleet publish` "
    "for the rest; or write a new stick"
)
_REMEDIES: Final[tuple[tuple[object, str], ...]] = (
    (RollbackRefusedError, _SEEN),
    (TrustExpiredError, _RENEW),
)


class Trust:
    """Implements `edgeslm.ports.TrustedMetadata` on the signatures of a fleet's repository.

    Args:
        folder: of this alone; made where it is absent.
        root: bytes of the root metadata flashed with the device.
        fetch: where metadata come from.

    Raises:
        FloorsDamagedError: what was trusted before cannot be read, or is gone and the rest is not.
        TrustUnavailableError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path, root: bytes, fetch: Fetch) -> None:
        self._folder = folder
        self._flashed = root
        self._source = Source(fetch)
        self._floors_file = folder / FLOORS
        with self._mapped():
            (folder / METADATA).mkdir(parents=True, exist_ok=True)
            self._floors = self._open_floors()
        self._known: set[str] = set()
        self._time: Signers | None = None
        self._fresh: Client | None = None
        self._director: Signers | None = None
        self._pending: tuple[Assignment, Floors, bytes] | None = None

    @property
    def time_floor(self) -> float:
        return rules.time_floor(self._floors, self._signs_time().ids)

    @property
    def accepted(self) -> int:
        return self._floors.assignment.seq if self._floors.assignment is not None else 0

    @property
    def kept(self) -> bytes | None:
        with self._mapped():
            try:
                with (self._folder / KEPT).open("rb") as file:
                    return file.read(MAX_SIGNED_BYTES + 1)
            except FileNotFoundError:
                return None

    def walk_roots(self) -> Keys:
        with self._mapped():
            updater = self._begin()
            updater.walk()
            keys, self._time = _time_of(updater.root)
        self._keep_roles(updater)
        return keys

    def time_of(self, envelope: bytes, *, device: str, nonce: str) -> float:
        signers = self._signs_time()
        try:
            payload = open_envelope(envelope, kind=TIME, signers=signers)
            reply = TimeReply.model_validate_json(payload)
        except (ValueError, UnverifiedSignatureError) as err:
            msg = f"not a time that this fleet has signed: {said(err)}"
            raise ClockUntrustedError(msg) from None
        if (reply.device, reply.nonce) != (device, nonce):
            msg = "a time for another device, or for another question"
            raise ClockUntrustedError(msg)
        time = rules.believed(reply.time, self.time_floor)
        self._keep(rules.raise_time(self._floors, reply.time, signers.ids))
        return time

    def refresh(self, now: float) -> None:
        self._fresh = self._director = self._pending = None
        if not 0 <= now <= _LAST:
            msg = f"{now} is not a time"
            raise ClockUntrustedError(msg)
        with self._mapped():
            updater = self._begin()
            updater.reference_time = datetime.fromtimestamp(now, UTC)
            updater.walk()
            _, self._time = _time_of(updater.root)
            if now < self.time_floor:
                msg = f"it cannot be {now:.0f}: {self.time_floor:.0f} was signed before"
                raise ClockUntrustedError(msg)
            updater.load()
            director = _director_of(updater.targets)
        self._keep_roles(updater)
        self._fresh, self._director = updater, director

    def offers(self, model: str) -> list[Offer]:
        updater = self._refreshed()
        with self._mapped():
            role = updater.role(f"model-{model}")
            if role is None:
                return []
            found = [
                _offer(model, path, file.length, file.hashes, file.custom)
                for path, file in role.targets.items()
            ]
            offers = [offer for offer in found if offer is not None]
            if found and not offers:
                msg = f"none of the bundles of {model} is described as this build understands it"
                raise TrustMalformedError(msg)
        self._keep_roles(updater)
        return offers

    def blocks(self, offer: Offer, raw: bytes) -> BlockList:
        return rules.block_list(raw, offer=offer.bundle, sha256=offer.sha256, length=offer.length)

    def assignment(self, envelope: bytes, *, device: str, now: float) -> Assignment:
        signers = self.director
        self._pending = None
        assignment, signed = read_assignment(envelope, signers)
        rules.check_assignment(assignment, signed, device=device, now=now, floors=self._floors)
        raised = rules.raise_assignment(self._floors, signed)
        issued = min(assignment.issued, now)
        raised = rules.raise_time(raised, issued, self._signs_time().ids)
        self._pending = (assignment, raised, envelope)
        return assignment

    @property
    def director(self) -> Signers:
        """Who signs assignments, as of the last `refresh`.

        Raises:
            TrustUnavailableError: there was none.
        """
        self._refreshed()
        assert self._director is not None  # noqa: S101 -- set with what `_refreshed` returns
        return self._director

    def command(self, envelope: bytes) -> Command:
        try:
            payload = open_envelope(envelope, kind=COMMAND, signers=self.director)
            return Command.model_validate_json(payload)
        except (ValueError, UnverifiedSignatureError) as err:
            msg = f"not a command of a director of this fleet: {said(err)}"
            raise CommandMalformedError(msg) from None

    def accept(self, assignment: Assignment) -> None:
        """Keep the assignment that was verified last, and trust no older one from now on.

        Raises:
            ValueError: it is not that one.
            TrustUnavailableError: the disk refused; the floor is where it was.
        """
        if self._pending is None or self._pending[0] != assignment:
            msg = "not the assignment that was verified last"
            raise ValueError(msg)
        _, floors, envelope = self._pending
        # The envelope first: after a power cut in between it is verified again, and accepted.
        with self._mapped():
            write_durably(self._folder / KEPT, envelope)
        raised = {"assignment": floors.assignment, "time": floors.time}
        self._keep(self._floors.model_copy(update=raised))

    def _begin(self) -> Client:
        trusted = TrustedSet(self._flashed, self._floors, self._known, _of_use)
        return Client(self._folder / METADATA, self._flashed, self._source, trusted=trusted)

    def _refreshed(self) -> Client:
        if self._fresh is None:
            msg = "the repository's metadata have not been brought up to date yet"
            raise TrustUnavailableError(msg)
        return self._fresh

    def _signs_time(self) -> Signers:
        if self._time is None:
            self.walk_roots()
        assert self._time is not None  # noqa: S101 -- walking sets it, or raises
        return self._time

    def _open_floors(self) -> Floors:
        """Return the floors; of a device that never trusted anything, none."""
        try:
            with self._floors_file.open("rb") as file:
                raw = file.read(rules.MAX_FLOORS_BYTES + 1)
        except FileNotFoundError:
            pass
        else:
            try:
                return rules.decode_floors(raw)
            except FloorsDamagedError as err:
                msg = f"{self._floors_file}: {err}. {_RESET}"
                raise FloorsDamagedError(msg) from None
        # It is written before all else: without it there can be nothing else of ours.
        if any(path.is_file() for path in self._folder.rglob("*.json")):
            msg = f"{self._floors_file}: it is gone. {_RESET}"
            raise FloorsDamagedError(msg)
        floors = Floors()
        write_durably(self._floors_file, rules.encode_floors(floors))
        return floors

    def _keep_roles(self, updater: Client) -> None:
        """Keep what a client has raised, and whatever else was raised since it began."""
        self._keep(self._floors.model_copy(update={"roles": updater.floors.roles}))

    def _keep(self, floors: Floors) -> None:
        if floors == self._floors:
            return
        with self._mapped():
            write_durably(self._floors_file, rules.encode_floors(floors))
        self._floors = floors

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn what tuf and the system raise into errors of ours; none else gets out."""
        try:
            yield
        except EdgeSLMError:
            raise
        except exceptions.UnsignedMetadataError as err:
            raise self._unsigned(err) from None
        except MAPPED as err:
            # The first that fits: the table goes from special to general.
            error = next(error for kinds, error in ERRORS if isinstance(err, kinds))
            file = self._source.file or "the flashed root"
            msg = f"{self._folder if isinstance(err, OSError) else file}: {said(err)}"
            remedy = next((say for kind, say in _REMEDIES if error is kind), "")
            raise error(f"{msg}. {remedy}" if remedy else msg) from None

    def _unsigned(self, err: Exception) -> EdgeSLMError:
        """Tell a stranger's signature from one that is missing or wrong."""
        signed_by = self._source.signed_by()
        what = f"{self._source.file or 'the flashed root'}: {said(err)}"
        if signed_by and self._known.isdisjoint(signed_by):
            return ForeignFleetError(
                f"{what}; signed by keys that this device's root does not know. "
                "Is it the repository of this device's fleet?"
            )
        return TrustSignatureError(
            f"{what}. Too few of the keys that must sign this file did: sign it again "
            "(`edgeslm fleet keys renew`), publish it or write a new stick"
        )


def read_assignment(envelope: bytes, signers: Signers) -> tuple[Assignment, AssignmentFloor]:
    """Return what an envelope assigns, and what would become the floor with it.

    Raises:
        AssignmentSignatureError, AssignmentMalformedError: see there.
    """
    try:
        payload = open_envelope(envelope, kind=ASSIGNMENT, signers=signers)
    except UnverifiedSignatureError as err:
        msg = f"an assignment that no director of this fleet signed: {said(err)}"
        raise AssignmentSignatureError(msg) from None
    except ValueError as err:
        msg = f"not an assignment: {said(err)}"
        raise AssignmentMalformedError(msg) from None
    try:
        assignment = Assignment.model_validate_json(payload)
    except ValidationError as err:
        msg = f"an assignment that this build does not understand: {said(err)}"
        raise AssignmentMalformedError(msg) from None
    sha256 = hashlib.sha256(payload).hexdigest()
    return assignment, AssignmentFloor(seq=assignment.seq, sha256=sha256, keys=signers.ids)


def root_of(raw: bytes) -> Root:
    """Return a root of trust, held against itself, as a device does that begins with it.

    Raises:
        TrustMalformedError: it is none, or of no use to a device.
        TrustSignatureError: too few of its own keys have signed it.
    """
    try:
        return TrustedSet(raw, Floors(), set(), _of_use).root
    except exceptions.UnsignedMetadataError as err:
        raise TrustSignatureError(said(err)) from None
    except MAPPED as err:
        raise TrustMalformedError(said(err)) from None


def _offer(
    model: str, path: str, length: int, hashes: dict[str, str], custom: object
) -> Offer | None:
    """Return what a target offers; None where a newer build is needed to understand it.

    Raises:
        TrustMalformedError: it says one thing in its path and another in its description.
    """
    try:
        bundle = BundleOffer.model_validate_json(json.dumps(custom))
    except (ValueError, TypeError):
        return None
    digest = hashes.get("sha256")
    if path != f"{model}/{bundle.version}/{bundle.bundle}.json" or bundle.model != model:
        msg = f"{path}: its description is of {bundle.model} {bundle.version}"
        raise TrustMalformedError(msg)
    if digest is None or not 0 < length <= rules.MAX_BLOCK_LIST_BYTES:
        msg = f"{path}: not a block list's length, or no SHA-256"
        raise TrustMalformedError(msg)
    return Offer(bundle, digest, length)


def _of_use(role: str, signed: Signed) -> None:
    if isinstance(signed, Root):
        _time_of(signed)
    elif role == Targets.type and isinstance(signed, Targets):
        _director_of(signed)


def _time_of(root: Root) -> tuple[Keys, Signers]:
    """Return who may sign times."""
    keys = _keys(root.unrecognized_fields.get(TIME_KEYS), f"{TIME_KEYS} of root {root.version}")
    return keys, signers_of(keys)


def _director_of(targets: Targets) -> Signers:
    """Return who may sign assignments."""
    named = targets.targets.get(DIRECTOR)
    return signers_of(_keys(named and named.custom, f"{DIRECTOR} of targets"))


def _keys(value: object, where: str) -> Keys:
    try:
        return Keys.model_validate(value)
    except ValidationError as err:
        msg = f"{where}: no keys: {said(err)}"
        raise TrustMalformedError(msg) from None
