"""Whether a device gets the certificate that it asks for: each request is one transaction.

The device's row is locked while that is decided, so that what is good for once is used once,
however many workers look at it. A certificate is renewed by a new key, and the one before ends with
it: where a second machine renews from what was copied, it comes with one that has ended.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from edgeslm.contract.provision import CertificateRequest
from edgeslm.core.provisioning import (
    CertificateRequestError,
    CertificateUnknownError,
    DeviceClonedError,
    DeviceRevokedError,
    EnrolTokenExpiredError,
    EnrolTokenUnknownError,
    EnrolTokenUsedError,
    FactoryKeyUnknownError,
    KeySharedError,
    OtherDeviceError,
)
from edgeslm.errors import RejectedError
from edgeslm.fleet.authority import Authority
from edgeslm.fleet.database import audit, events, identities
from edgeslm.fleet.database.engine import reading
from edgeslm.fleet.database.identities import Enrolled, Issued
from edgeslm.fleet.shown import (
    Csr,
    check_signed,
    factory_key,
    fingerprint_of,
    read_csr,
    read_issued,
)

CLONED: Final = "identity_cloned"
TELL_S: Final = 3600.0
"""In each of these, one event on copies of a device: who has copied it may ask without end."""
_ANEW: Final = "Revoke the device (`edgeslm fleet revoke`) and enrol it anew."


@dataclass(frozen=True, slots=True)
class _Proof:
    """By what a device asks.

    Args:
        kind: of it.
        value: hash of the token or of the factory key; serial of the certificate in force.
        key: fingerprint of that certificate's key.
    """

    kind: Literal["token", "factory_key", "current"]
    value: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class _Clone:
    """A second machine with the same identity: noted, and refused."""

    device: str
    refusal: RejectedError


def fingerprint(text: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def answer(engine: Engine, authority: Authority, request: CertificateRequest, now: float) -> Issued:
    """Return the certificate that a device asks for; the same request has the same one.

    Raises:
        RejectedError: it gets none; `edgeslm.core.provisioning` has the reasons.
        EdgeSLMError: not now: the database is down, or the authority's key is not there.
    """
    if request.token is not None:  # before what is costly: anybody may send any
        _check_known(engine, fingerprint(request.token))
    csr = read_csr(request.csr)
    proof = _proved(request, csr)
    try:
        with engine.begin() as conn:
            found = _decided(conn, authority, request, csr, proof, now)
    except IntegrityError:  # another worker has just issued one for the same key
        raise _shared() from None
    if isinstance(found, _Clone):
        raise found.refusal
    return found


def _check_known(engine: Engine, token: str) -> None:
    with reading(engine) as conn:
        if not identities.known(conn, token):
            raise _no_token()


def _proved(request: CertificateRequest, csr: Csr) -> _Proof:
    if request.token is not None:
        return _Proof("token", fingerprint(request.token))
    assert request.signature is not None  # noqa: S101 -- as the contract says
    public: PublicKeyTypes
    if request.factory_key is not None:
        public = factory_key(request.factory_key)
        proof = _Proof("factory_key", fingerprint_of(public))
        if proof.value == fingerprint_of(csr.public):
            msg = "the key of a certificate is made on the device; the factory key is another"
            raise CertificateRequestError(msg)
    else:
        serial, public = read_issued(request.current or "")
        proof = _Proof("current", serial, fingerprint_of(public))
    check_signed(public, request.signature, csr)
    return proof


def _decided(  # noqa: PLR0913, PLR0917 -- the parts of one decision
    conn: Connection,
    authority: Authority,
    request: CertificateRequest,
    csr: Csr,
    proof: _Proof,
    now: float,
) -> Issued | _Clone:
    enrolled, before = _enrolled(conn, proof)
    device = enrolled.device
    for said in (request.device, csr.name):
        if said is not None and said != device:
            msg = f"{said}: the {proof.kind} is for another device. Correct its id, or enrol it."
            raise OtherDeviceError(msg)
    if enrolled.revoked_at is not None:
        msg = f"{device}: was revoked. Enrol it anew, if it is to be let in."
        raise DeviceRevokedError(msg)
    same = identities.asked_by(conn, csr.hash)
    if same is not None and same.device == device and same.ended is None:
        return same  # the answer was lost
    machine = frozenset(request.machine)
    if clone := _second(conn, machine, enrolled, before, same, now):
        return clone
    _let_in(proof, enrolled, before, now)
    key = fingerprint_of(csr.public)
    if identities.with_key(conn, key) is not None:
        raise _shared()
    made = authority.issue(device, csr.public, now)
    new = Issued(
        made.serial,
        device,
        key,
        csr.hash,
        made.not_before,
        made.not_after,
        now,
        made.pem,
    )
    identities.put(conn, new)
    if enrolled.machine is None and machine:
        identities.bound(conn, device, " ".join(sorted(machine)))
    if proof.kind != "current":
        identities.used(conn, device, now)
    who = audit.Actor(device, "service")
    audit.record(
        conn, who, "certificate.issued", now=now, device=device, serial=new.serial, by=proof.kind
    )
    return new


def _enrolled(conn: Connection, proof: _Proof) -> tuple[Enrolled, Issued | None]:
    """Return who asks, their row locked, and the certificate that they want to renew."""
    if proof.kind == "current":
        # Every one that was given is known by its serial and its key, whatever authority gave it: a
        # device that was away while that was replaced comes back, and who has its key does not.
        before = identities.with_serial(conn, proof.value)
        ours = before is not None and before.key == proof.key
        found = identities.of(conn, before.device) if before is not None and ours else None
        if found is None:
            msg = "the certificate to renew is not known here. Enrol the device anew."
            raise CertificateUnknownError(msg)
        # Again: while we waited for the lock, another may have renewed it.
        return found, identities.with_serial(conn, proof.value)
    found = identities.let_in_by(conn, proof.value)
    if found is None or found.kind != proof.kind:
        if proof.kind == "token":
            raise _no_token()
        msg = "no device with this factory key. Enrol it: `edgeslm fleet enroll --csv`."
        raise FactoryKeyUnknownError(msg)
    return found, None


def _second(  # noqa: PLR0913, PLR0917 -- as above
    conn: Connection,
    machine: frozenset[str],
    enrolled: Enrolled,
    before: Issued | None,
    same: Issued | None,
    now: float,
) -> _Clone | None:
    """Return what shows that this is a second machine, once it is noted."""
    device = enrolled.device
    # Who says nothing is another one, too: else what was copied would have to say nothing.
    moved = enrolled.machine is not None and machine.isdisjoint(enrolled.machine.split())
    if same is not None and same.device == device and same.ended == "replaced":
        why = "it asks with a request that another has been renewed from since"
    elif before is not None and before.ended == "replaced":
        why = "it renews from a certificate that another has renewed since"
    elif moved:
        why = "its hardware is not that of the device that got the certificate before"
    else:
        return None
    if enrolled.kind == "token" and before is None and same is None:
        msg = f"{device}: the token has been used, on other hardware. {_ANEW}"
        refusal: RejectedError = EnrolTokenUsedError(msg)
    else:
        refusal = DeviceClonedError(f"{device}: {why}. One was copied from the other. {_ANEW}")
    identities.cloned(conn, device, why, now)
    if enrolled.cloned_at is None or now // TELL_S != enrolled.cloned_at // TELL_S:
        told = {"event": CLONED, "time": now, "error": {"code": refusal.code, "message": why}}
        events.note(conn, [events.Told(device, told, now)])
    return _Clone(device, refusal)


def _let_in(proof: _Proof, enrolled: Enrolled, before: Issued | None, now: float) -> None:
    """Refuse what lets nobody in any more."""
    device = enrolled.device
    if proof.kind == "token":
        if enrolled.used_at is not None:
            msg = f"{device}: the token has been used. A token is good for once. {_ANEW}"
            raise EnrolTokenUsedError(msg)
        if enrolled.expires_at is not None and now > enrolled.expires_at:
            msg = f"{device}: the token has expired. Enrol the device anew: `--again`."
            raise EnrolTokenExpiredError(msg)
    elif before is not None and before.ended is not None:
        msg = f"{device}: the certificate was revoked. Enrol it anew, if it is to be let in."
        raise DeviceRevokedError(msg)


def _no_token() -> EnrolTokenUnknownError:
    msg = "no such token. Take the one that `edgeslm fleet enroll` wrote for this device."
    return EnrolTokenUnknownError(msg)


def _shared() -> KeySharedError:
    msg = (
        "another certificate has this key: it was copied, or made without randomness. "
        "Remove what is in provision.dir, and provision the device anew."
    )
    return KeySharedError(msg)
