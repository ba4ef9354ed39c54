"""The director: says, signed, which device runs what; and, by another key, what time it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from securesystemslib.signer import Signer
from sqlalchemy import Connection, Engine
from tuf.api.metadata import Role

from edgeslm.adapters.dsse import read_envelope, seal
from edgeslm.contract.base import problems_of
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
from edgeslm.fleet.database import assignments, registry
from edgeslm.fleet.database.assignments import Stored
from edgeslm.fleet.database.audit import Actor, at_terminal, record
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.errors import some
from edgeslm.fleet.errors import (
    AssignmentRefusedError,
    FleetConfigError,
    FleetDamagedError,
    UnknownModelError,
)
from edgeslm.fleet.files import read_toml_file
from edgeslm.fleet.models import versions
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.store import Published

_DEVICE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DAY_S: Final = 86_400.0
_REMEDY: Final = "docs/fleet-repository.md shows one."
_DAMAGED: Final = "Restore the database; or `edgeslm fleet devices forget` it, and assign anew."


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


def assign(
    repository: Repository, engine: Engine, device: str, wish: Wish, *, actor: Actor | None = None
) -> Assignment:
    """Sign and keep the device's next assignment.

    Args:
        repository: whose director signs.
        engine: of the fleet's database.
        device: its id.
        wish: what is to change.
        actor: who wants it; None: whoever gives a command here.

    Raises:
        UnknownModelError: the repository has no such model, or not in this version; or the
            configuration names one that neither it nor the device has.
        AssignmentRefusedError: not a device's id, a number that is not higher, a model that is
            taken away and not assigned, or too much.
        EdgeSLMError: the director's key is missing, the database refused.
    """
    if not _DEVICE.fullmatch(device):
        msg = f"{device!r}: not a device's id: letters, digits, '.', '_', '-', up to 64"
        raise AssignmentRefusedError(msg)
    published = repository.store.published()
    signers = director_signers(repository)  # it may ask for a passphrase: before others wait
    with engine.begin() as conn:
        assignments.lock(conn)
        stored = assignments.last(conn, device)
        last = opened(stored.envelope, device) if stored is not None else None
        models = _models(published, device, dict(last.models) if last is not None else {}, wish)
        if wish.config is not None:
            _expect_models(conn, published, device, wish.config)
        number = assignments.next_numbers(conn, [device])[device]
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
        assignments.put(conn, [_stored(new, signers, now)])
        record(
            conn,
            actor or at_terminal(),
            "device.assigned",
            now=now,
            device=device,
            seq=new.seq,
            models={name: each.version for name, each in new.models.items()},
        )
    return new


def read_config(file: Path) -> DeviceConfig:
    """Return a device's configuration from a TOML file.

    Raises:
        FleetConfigError: it cannot be read, or is wrong; names each key.
    """
    return read_toml_file(
        DeviceConfig,
        file,
        max_bytes=MAX_SIGNED_BYTES // 2,
        remedy=_REMEDY,
        error=FleetConfigError,
    )


def assigned(engine: Engine) -> dict[str, Assignment]:
    """Return the newest assignment of each device that has one.

    Raises:
        FleetDamagedError: one is damaged.
        DatabaseError: see there.
    """
    with reading(engine) as conn:
        return {name: opened(each.envelope, name) for name, each in assignments.many(conn).items()}


def is_stranger(engine: Engine, device: str) -> bool:
    """Whether devices have registered, and this one has not: its id may be misspelt.

    Raises:
        DatabaseError: see there.
    """
    with reading(engine) as conn:
        return registry.device(conn, device) is None and registry.any_device(conn)


def last_assignment(engine: Engine, device: str) -> Assignment | None:
    """Return a device's newest assignment; None where it has none.

    Raises:
        FleetDamagedError: it is damaged.
        DatabaseError: see there.
    """
    with reading(engine) as conn:
        stored = assignments.last(conn, device)
    return opened(stored.envelope, device) if stored is not None else None


def opened(envelope: bytes, device: str = "") -> Assignment:
    """Return what one of our own envelopes says.

    Its kind and form count and not who signed it: that key may have been replaced.

    Raises:
        FleetDamagedError: it is damaged.
    """
    try:
        return Assignment.model_validate_json(read_envelope(envelope, kind=ASSIGNMENT).payload)
    except ValueError as err:
        what = problems_of(err)[0] if isinstance(err, ValidationError) else ("", str(err))
        where = f"database: assignment of {device or 'a device'}"
        raise FleetDamagedError(where, [what], remedy=_DAMAGED) from None


def sign(signers: Sequence[Signer], new: Assignment) -> bytes:
    """Return a signed assignment, as devices take it.

    Raises:
        AssignmentRefusedError: it is longer than they do.
        HardwareKeyError: the key does not sign.
    """
    sealed = seal(_payload(new), kind=ASSIGNMENT, signers=signers)
    if len(sealed) > MAX_SIGNED_BYTES:
        msg = f"{new.device}: {len(sealed)} bytes, devices take {MAX_SIGNED_BYTES}; assign less"
        raise AssignmentRefusedError(msg)
    return sealed


def sign_again(
    repository: Repository, engine: Engine, keyids: Collection[str], *, actor: Actor | None = None
) -> None:
    """Give every device its newest assignment once more, one number on, signed by these keys.

    Raises:
        FleetDamagedError: one is damaged; then none is signed.
        EdgeSLMError: a key is missing, the database refused.
    """
    signers = [repository.keys.signer(name) for name in repository.keys.named(keyids)]
    with engine.begin() as conn:
        assignments.lock(conn)
        now = repository.now()
        known = assignments.many(conn)
        numbers = assignments.next_numbers(conn, known)
        new = []
        for device, stored in known.items():
            last = opened(stored.envelope, device)
            left = max(0.0, last.expires - last.issued)
            again = {"seq": numbers[device], "issued": now, "expires": now + left}
            signed = _stored(last.model_copy(update=again), signers, now)
            new.append(replace(signed, rollout=stored.rollout))
        assignments.put(conn, new)
        actor = actor or at_terminal()
        record(conn, actor, "assignments.signed_again", now=now, devices=len(new))


def director_signers(repository: Repository) -> list[Signer]:
    """Return what signs assignments: loaded once, used for each.

    Raises:
        EdgeSLMError: a key is missing or its passphrase is.
    """
    return _signers(repository, repository.store.published().director())


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


def _models(
    published: Published, device: str, models: dict[str, AssignedModel], wish: Wish
) -> dict[str, AssignedModel]:
    """Return what a device is to run when it ran `models` before.

    Raises:
        UnknownModelError: the repository has no such model, or not in this version.
        AssignmentRefusedError: one that is to go is not assigned, or is to be run as well.
    """
    for name in sorted(wish.without):
        if name in wish.models:
            msg = f"{device}: {name} is to be run and to go: --model or --without, one of them"
            raise AssignmentRefusedError(msg)
        if name not in models:
            msg = f"{device}: {name} is not assigned, so it cannot go; assigned: "
            raise AssignmentRefusedError(msg + (some(models) or "none"))
    models = {name: each for name, each in models.items() if name not in wish.without}
    for name, version in wish.models.items():
        known = versions(published, name)
        if not known or (version is not None and version not in known):
            raise UnknownModelError(_unknown(published, name, version, known))
        models[name] = AssignedModel(version=version or max(known))
    return models


def _expect_models(
    conn: Connection, published: Published, device: str, config: DeviceConfig
) -> None:
    """Refuse a configuration of models that there are nowhere.

    Raises:
        UnknownModelError: it names one that is neither in the repository nor on the device.
    """
    routed = {model for route in (config.routes or {}).values() for model in route.models}
    seen = registry.device(conn, device)
    known = {role.removeprefix("model-") for role in published.models}
    known |= {each.model for each in seen.models} if seen is not None else set()
    if missing := (routed | set(config.models)) - known:
        msg = (
            f"{some(missing)}: the configuration names it, and neither the repository nor {device} "
            f"has it; there are {some(known) or 'none'}. Add it first: fleet add"
        )
        raise UnknownModelError(msg)


def _stored(new: Assignment, signers: Sequence[Signer], now: float) -> Stored:
    return Stored(new.device, new.seq, new.issued, new.expires, sign(signers, new), now)


def _payload(message: Assignment | TimeReply) -> bytes:
    return message.model_dump_json(by_alias=True, exclude_none=True).encode()


def _unknown(published: Published, name: str, version: int | None, known: Collection[int]) -> str:
    if known:
        have = ", ".join(map(str, sorted(known)))
        return f"{name} {version}: the repository has {have}. Add it first: fleet add"
    models = sorted(role.removeprefix("model-") for role in published.models)
    return f"{name}: no such model; there are {', '.join(models) or 'none'}. Add it: fleet add"
