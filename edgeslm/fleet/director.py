"""The director: says, signed, which device runs what; and, by another key, what time it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from securesystemslib.signer import Signer
from tuf.api.metadata import Role

from edgeslm.adapters.dsse import read_envelope, seal
from edgeslm.adapters.fs import write_durably
from edgeslm.contract.base import parse_toml, problems_of
from edgeslm.contract.fleet import (
    ASSIGNMENT,
    MAX_SIGNED_BYTES,
    TIME,
    AssignedModel,
    Assignment,
    DeviceConfig,
    Keys,
    TimeReply,
)
from edgeslm.fleet.errors import (
    AssignmentRefusedError,
    FleetConfigError,
    FleetDamagedError,
    UnknownModelError,
)
from edgeslm.fleet.models import versions
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.store import ASSIGNMENTS, RESTORE, Published

_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DAY_S: Final = 86_400.0
_REMEDY: Final = "docs/fleet-repository.md shows one."


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to change in a device's assignment; the rest stays as it was assigned last.

    Args:
        models: by name, the version to run; None: the newest.
        without: models that the device is to leave alone.
        config: in place of the one before, where `configures`.
        configures: whether `config` counts; None then means the device's own settings.
        days: until it expires; None: as fleet.toml says.
        seq: the number to give it, higher than the last; None: the next.
    """

    models: Mapping[str, int | None] = field(default_factory=dict)
    without: Collection[str] = ()
    config: DeviceConfig | None = None
    configures: bool = False
    days: float | None = None
    seq: int | None = None


def assign(repository: Repository, device: str, wish: Wish) -> Assignment:
    """Sign and keep the device's next assignment.

    Raises:
        UnknownModelError: the repository has no such model, or not in this version.
        AssignmentRefusedError: not a device's id, a number that is not higher, or too much.
        EdgeSLMError: the director's key is missing, the disk refused.
    """
    if not _DEVICE.fullmatch(device):
        msg = f"{device!r}: not a device's id: letters, digits, '.', '_', '-', up to 64"
        raise AssignmentRefusedError(msg)
    with repository.store.locked():
        published = repository.store.published()
        last = last_assignment(repository, device)
        models = dict(last.models) if last is not None else {}
        for name in wish.without:
            models.pop(name, None)
        for name, version in wish.models.items():
            known = versions(published, name)
            if not known or (version is not None and version not in known):
                msg = _unknown(published, name, version, known)
                raise UnknownModelError(msg)
            models[name] = AssignedModel(version=version or max(known))
        number = last.seq + 1 if last is not None else 1
        if wish.seq is not None and wish.seq < number:
            msg = f"{device}: --seq {wish.seq}: the next number is {number}; give none, or a higher"
            raise AssignmentRefusedError(msg)
        now = repository.now()
        days = wish.days if wish.days is not None else repository.config.days.assignment
        kept = last.config if last is not None else None
        try:
            new = Assignment(
                schema=1,
                device=device,
                seq=wish.seq or number,
                issued=now,
                expires=now + days * _DAY_S,
                models=models,
                config=wish.config if wish.configures else kept,
            )
        except ValidationError as err:
            field_, what = problems_of(err)[0]
            msg = f"{device}: {field_}: {what}"
            raise AssignmentRefusedError(msg) from None
        _write(repository, new, _signers(repository, published.director()))
        return new


def read_config(file: Path) -> DeviceConfig:
    """Return a device's configuration from a TOML file.

    Raises:
        FleetConfigError: it cannot be read, or is wrong; names each key.
    """
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_SIGNED_BYTES + 1)
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path
        what = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise FleetConfigError(str(file), [("", what)], remedy="Check the path.") from None
    if len(raw) > MAX_SIGNED_BYTES // 2:
        what = f"longer than {MAX_SIGNED_BYTES // 2} bytes"
        raise FleetConfigError(str(file), [("", what)], remedy=_REMEDY)
    return parse_toml(DeviceConfig, raw, file=str(file), remedy=_REMEDY, error=FleetConfigError)


def assigned(repository: Repository) -> dict[str, Assignment]:
    """Return the newest assignment of each device that has one.

    Raises:
        FleetDamagedError: one is damaged.
    """
    folder = repository.folder / ASSIGNMENTS
    names = sorted(path.stem for path in folder.glob("*.json") if _DEVICE.fullmatch(path.stem))
    found = {name: last_assignment(repository, name) for name in names}
    return {name: each for name, each in found.items() if each is not None}


def envelope(repository: Repository, device: str) -> bytes | None:
    """Return the signed envelope of a device's newest assignment; None where it has none.

    Raises:
        FleetDamagedError: it cannot be read.
    """
    file = _file(repository, device)
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_SIGNED_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise FleetDamagedError(
            str(file), [("", err.strerror or str(err))], remedy=RESTORE
        ) from None


def last_assignment(repository: Repository, device: str) -> Assignment | None:
    """Return a device's newest assignment; None where it has none.

    Raises:
        FleetDamagedError: it is damaged.
    """
    raw = envelope(repository, device)
    if raw is None:
        return None
    # Ours, so its kind and form count and not who signed it: that key may have been replaced.
    try:
        return Assignment.model_validate_json(read_envelope(raw, kind=ASSIGNMENT).payload)
    except ValueError as err:
        file = str(_file(repository, device))
        remedy = f"{RESTORE} Or remove it, and assign with --seq above the device's last number."
        what = problems_of(err)[0] if isinstance(err, ValidationError) else ("", str(err))
        raise FleetDamagedError(file, [what], remedy=remedy) from None


def sign_again(repository: Repository, keyids: Collection[str]) -> None:
    """Give every device its newest assignment once more, one number on, signed by these keys."""
    signers = [repository.keys.signer(name) for name in repository.keys.named(keyids)]
    now = repository.now()
    for last in assigned(repository).values():
        left = max(0.0, last.expires - last.issued)
        again = {"seq": last.seq + 1, "issued": now, "expires": now + left}
        _write(repository, last.model_copy(update=again), signers)


def time_signers(repository: Repository) -> list[Signer]:
    """Return what signs times: loaded once, used for each reply.

    Raises:
        EdgeSLMError: a key is missing or its passphrase is.
    """
    return _signers(repository, repository.store.published().time())


def time_reply(signers: Sequence[Signer], *, device: str, nonce: str, now: float) -> bytes:
    """Return the signed answer to a device that asked for the time with this nonce.

    Raises:
        ValueError: not a device's id, not a nonce, or not a time.
    """
    reply = TimeReply(schema=1, device=device, nonce=nonce, time=now)
    return seal(_payload(reply), kind=TIME, signers=signers)


def _signers(repository: Repository, keys: Keys) -> list[Signer]:
    """Return as many signers as must sign."""
    role = Role(list(keys.keys), keys.threshold)
    return repository.signers("an assignment or a time", role)


def _write(repository: Repository, new: Assignment, signers: Sequence[Signer]) -> None:
    sealed = seal(_payload(new), kind=ASSIGNMENT, signers=signers)
    if len(sealed) > MAX_SIGNED_BYTES:
        msg = f"{new.device}: {len(sealed)} bytes, devices take {MAX_SIGNED_BYTES}; assign less"
        raise AssignmentRefusedError(msg)
    write_durably(_file(repository, new.device), sealed)


def _payload(message: Assignment | TimeReply) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()


def _file(repository: Repository, device: str) -> Path:
    return repository.folder / ASSIGNMENTS / f"{device}.json"


def _unknown(published: Published, name: str, version: int | None, known: Collection[int]) -> str:
    if known:
        have = ", ".join(map(str, sorted(known)))
        return f"{name} {version}: the repository has {have}. Add it first: fleet add"
    models = sorted(role.removeprefix("model-") for role in published.models)
    return f"{name}: no such model; there are {', '.join(models) or 'none'}. Add it: fleet add"
