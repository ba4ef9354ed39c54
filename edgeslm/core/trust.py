"""What a device trusts, as rules without I/O: floors that only rise, and which time to believe.

A floor is the highest value that was seen signed: of a role's version, of an assignment's number,
of the time. It counts as long as a key that could have signed it still may: whoever stole a key and
signed a number beyond all others is undone by taking the key away, since the floor goes with it.
Root's own floor always counts: its chain is what takes keys away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from edgeslm.contract.base import Sha256, Typed, problems_of
from edgeslm.contract.fleet import (
    MAX_BLOCKS,
    MAX_COMMAND_LIFE_S,
    Assignment,
    BlockList,
    BundleOffer,
    Command,
    Seconds,
    Version,
)
from edgeslm.errors import RejectedError, UnavailableError

ROOT: Final = "root"
TRUST: Final = "trust"
"""Folder in the updater's, of what is trusted; `FLOORS` is the file of its floors."""
FLOORS: Final = "floors.json"
MAX_SKEW_S: Final = 300.0
"""Between the clocks of two of the fleet's servers."""
MAX_BLOCK_LIST_BYTES: Final = MAX_BLOCKS * 72 + 257 * 512
MAX_FLOORS_BYTES: Final = 1024 * 1024
_REPLY: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_KEYS: Final = 64
"""That may sign one thing."""


class TrustMalformedError(RejectedError):
    """Metadata is not what it must be: no JSON, a wrong field, too long, of another version."""

    code = "trust.malformed"


class TrustSignatureError(RejectedError):
    """Metadata is not signed by enough of the keys that must sign it."""

    code = "trust.signature"


class ForeignFleetError(RejectedError):
    """Metadata is signed, and by none of the keys that this device's root ever named."""

    code = "trust.foreign"


class RollbackRefusedError(RejectedError):
    """Metadata is older than what was trusted before, or not of the version it must be."""

    code = "trust.rollback"


class TrustMismatchError(RejectedError):
    """A file is not the one that signed metadata names: another length, or another hash."""

    code = "trust.mismatch"


class TrustExpiredError(RejectedError):
    """Metadata has expired: the fleet's side must sign it again."""

    code = "trust.expired"


class FloorsDamagedError(RejectedError):
    """The file of what was trusted before is damaged or lost: nothing is installed."""

    code = "trust.floors"


class TrustUnavailableError(UnavailableError):
    """Metadata is not there for now, or the disk does not take it."""

    code = "trust.unavailable"


class ClockUntrustedError(UnavailableError):
    """What time it is is not known well enough to tell what has expired."""

    code = "clock.untrusted"


class AssignmentMalformedError(RejectedError):
    """It is no assignment, or of a kind that this build does not read."""

    code = "assignment.malformed"


class AssignmentSignatureError(RejectedError):
    """An assignment is not signed by a director of this fleet."""

    code = "assignment.signature"


class AssignmentDeviceError(RejectedError):
    """An assignment is for another device."""

    code = "assignment.device"


class AssignmentExpiredError(RejectedError):
    """An assignment has expired: nothing is installed by it; what runs, runs on."""

    code = "assignment.expired"


class AssignmentReplayedError(RejectedError):
    """An assignment is older than the one accepted last, or another of the same number."""

    code = "assignment.replayed"


class CommandMalformedError(RejectedError):
    """It is no command, of a kind that this build does not read, or signed by no director."""

    code = "command.malformed"


class CommandForeignError(RejectedError):
    """A genuine command is for another device, or to be answered where this one may not."""

    code = "command.foreign"


class CommandStaleError(RejectedError):
    """A genuine command is too old or of the future: is the clock right where it was signed?"""

    code = "command.stale"


KeyIds = Annotated[tuple[str, ...], Field(max_length=MAX_KEYS)]


class RoleFloor(Typed):
    """Highest version of a role that was trusted, and the keys that could sign it."""

    version: Version
    keys: KeyIds


class AssignmentFloor(Typed):
    """Newest assignment that was accepted, and the keys that could sign it."""

    seq: Version
    sha256: Sha256 = Field(description="Of its payload.")
    keys: KeyIds


class TimeFloor(Typed):
    """Latest time that was seen signed, and the keys that could sign it."""

    time: Seconds
    keys: KeyIds


class Floors(Typed):
    """Below what nothing is trusted."""

    schema_version: Literal[1] = 1
    roles: dict[str, RoleFloor] = Field(default={}, max_length=4096, description="By name.")
    assignment: AssignmentFloor | None = None
    time: TimeFloor | None = None


def encode_floors(floors: Floors) -> bytes:
    """Return the bytes of floors.json: the floors, and the hash that a damaged file misses."""
    body = floors.model_dump(mode="json")
    return _compact({"floors": body, "sha256": hashlib.sha256(_compact(body)).hexdigest()})


def decode_floors(raw: bytes) -> Floors:
    """Return what `encode_floors` wrote; of any other bytes, nothing is believed.

    Raises:
        FloorsDamagedError: see there.
    """
    try:
        floors = Floors.model_validate_json(_compact(json.loads(raw)["floors"]))
        whole = encode_floors(floors) == raw
    except (ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        msg = "it is damaged"
        raise FloorsDamagedError(msg)
    return floors


def stands(floor: RoleFloor | AssignmentFloor | TimeFloor, keys: Collection[str]) -> bool:
    """Whether one of the keys that could sign what set `floor` is still among `keys`."""
    return not set(floor.keys).isdisjoint(keys)


def raise_role(floors: Floors, role: str, version: int, keys: Collection[str]) -> Floors:
    """Return `floors` with `version` of `role`, which `keys` may sign.

    Raises:
        RollbackRefusedError: it is below the floor.
    """
    floor = floors.roles.get(role)
    if floor is not None and version < floor.version and (role == ROOT or stands(floor, keys)):
        msg = f"{role}: version {version} is older than {floor.version}, which was trusted before"
        raise RollbackRefusedError(msg)
    new = RoleFloor(version=version, keys=_ids(keys))
    if new == floor:
        return floors
    return floors.model_copy(update={"roles": {**floors.roles, role: new}})


def time_floor(floors: Floors, keys: Collection[str]) -> float:
    """Return the time before which it cannot be, where `keys` may sign times."""
    return floors.time.time if floors.time is not None and stands(floors.time, keys) else 0.0


def raise_time(floors: Floors, time: float, keys: Collection[str]) -> Floors:
    """Return `floors` with a time that `keys` have signed, or that is not after one they have."""
    new = TimeFloor(time=max(time, time_floor(floors, keys)), keys=_ids(keys))
    return floors if new == floors.time else floors.model_copy(update={"time": new})


def believed(time: float, floor: float) -> float:
    """Return `time`, or the floor where the clocks of two servers may explain that it is later.

    Raises:
        ClockUntrustedError: `time` is further below the floor.
    """
    if time < floor - MAX_SKEW_S:
        msg = (
            f"the time is given as {time:.0f}, and {floor:.0f} was signed before (seconds since "
            "1970): set the clock of what gives it"
        )
        raise ClockUntrustedError(msg)
    return max(time, floor)


def settle(
    *,
    floor: float,
    monotonic: float,
    signed: tuple[float, float] | None = None,
    wall: float | None = None,
) -> float:
    """Return what time it is, seconds since 1970.

    Args:
        floor: from `time_floor`.
        monotonic: now, seconds, on a clock that also counts while the device sleeps.
        signed: a time signed by the fleet for this device in this boot, and the monotonic moment at
            which it was *asked for*: an answer that is held back then makes the time late, which
            lets things expire, and never early, which would keep them alive.
        wall: the system's clock, where it may be believed (from a stick, if the kernel says that it
            is synchronised); else None.

    Raises:
        ClockUntrustedError: there is nothing to go by, or it is below the floor.
    """
    if signed is not None:
        return believed(signed[0] + max(0.0, monotonic - signed[1]), floor)
    if wall is None:
        msg = (
            "no signed time, and nothing that keeps this device's clock: connect it to the fleet, "
            "let NTP set it, or, where you know that it is right, say --trust-clock"
        )
        raise ClockUntrustedError(msg)
    if wall < floor:
        msg = f"the clock says {wall:.0f}, and {floor:.0f} was signed before: set the clock"
        raise ClockUntrustedError(msg)
    return wall


def check_assignment(
    assignment: Assignment, signed: AssignmentFloor, *, device: str, now: float, floors: Floors
) -> None:
    """Hold an assignment whose signature was verified against this device, time and floor.

    Args:
        assignment: what it says.
        signed: what would become the floor with it.
        device: this device's id.
        now: trusted time, seconds since 1970.
        floors: the device's.

    Raises:
        AssignmentDeviceError, AssignmentExpiredError, AssignmentReplayedError: see there.
    """
    if assignment.device != device:
        msg = f"the assignment is for {assignment.device}, this is {device}"
        raise AssignmentDeviceError(msg)
    if now >= assignment.expires:
        msg = f"assignment {assignment.seq} has expired; assign again"
        raise AssignmentExpiredError(msg)
    floor = floors.assignment
    if floor is None or not stands(floor, signed.keys):
        return
    if signed.seq < floor.seq:
        msg = f"assignment {signed.seq} is older than {floor.seq}, which was accepted"
        raise AssignmentReplayedError(msg)
    if signed.seq == floor.seq and signed.sha256 != floor.sha256:
        msg = f"assignment {signed.seq} is another than the one accepted under that number"
        raise AssignmentReplayedError(msg)


def check_command(command: Command, *, device: str, now: float, since: float, reply: str) -> None:
    """Hold a command whose signature was verified against this device and its time.

    Args:
        command: what it says.
        device: this device's id.
        now: trusted time, seconds since 1970.
        since: trusted time before which it is not known which ones were heeded.
        reply: what the topic of the answer begins with; a name of one level follows.

    Raises:
        CommandForeignError, CommandStaleError: see there.
    """
    if command.device != device:
        msg = f"the command is for {command.device}, this is {device}"
        raise CommandForeignError(msg)
    if not command.reply.startswith(reply) or not _REPLY.fullmatch(command.reply[len(reply) :]):
        msg = f"the command is to be answered elsewhere than on {reply}NAME"
        raise CommandForeignError(msg)
    late_s = now - command.expires
    early_s = command.issued - now - MAX_SKEW_S
    life_s = command.expires - command.issued
    if late_s >= 0 or early_s > 0 or not 0 < life_s <= MAX_COMMAND_LIFE_S or command.issued < since:
        msg = (
            f"it is {now:.0f} (seconds since 1970), and the command is good from "
            f"{command.issued:.0f} to {command.expires:.0f}; this updater has begun at {since:.0f}"
        )
        raise CommandStaleError(msg)


def raise_assignment(floors: Floors, signed: AssignmentFloor) -> Floors:
    """Return `floors` with an assignment that `check_assignment` let pass."""
    if signed == floors.assignment:
        return floors
    return floors.model_copy(update={"assignment": signed})


def block_list(raw: bytes, *, offer: BundleOffer, sha256: str, length: int) -> BlockList:
    """Return the block list of an offer from its bytes, which come from anywhere.

    Args:
        raw: the bytes.
        offer: what it must be of.
        sha256: of the bytes, as signed.
        length: of the bytes, as signed.

    Raises:
        TrustMismatchError: another length or hash, or the list of another bundle or size.
        TrustMalformedError: not a block list.
    """
    if len(raw) != length or hashlib.sha256(raw).hexdigest() != sha256:
        msg = f"block list of {offer.model} {offer.version}: not the bytes that were signed"
        raise TrustMismatchError(msg)
    try:
        listed = BlockList.model_validate_json(raw)
    except ValidationError as err:
        field, what = problems_of(err)[0]
        msg = f"block list of {offer.model} {offer.version}: {field}: {what}"
        raise TrustMalformedError(msg) from None
    if listed.bundle != offer.bundle or sum(f.size for f in listed.files) != offer.size:
        msg = f"block list of {offer.model} {offer.version}: of another bundle"
        raise TrustMismatchError(msg)
    return listed


def _ids(keys: Collection[str]) -> KeyIds:
    return tuple(sorted(keys))


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
