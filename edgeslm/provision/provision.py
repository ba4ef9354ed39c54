"""One run of `edgeslm provision`: whatever is due is done, and the next run goes on from there."""

from __future__ import annotations

import secrets
import shlex
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from edgeslm.contract.brokers import Broker
from edgeslm.contract.fleet import DeviceId
from edgeslm.contract.identity import CERT, CURRENT, Identity, read_identity
from edgeslm.contract.provision import CertificateReply, CertificateRequest
from edgeslm.contract.settings import UNPROVISIONED, AgentSettings, ProvisionSettings, certified
from edgeslm.core.provisioning import (
    AUTHORITY_NAMED,
    CertificateRequestError,
    CertificateUnknownError,
    DeviceClonedError,
    DeviceRevokedError,
    KeySharedError,
    OtherDeviceError,
    refusal,
)
from edgeslm.errors import EdgeSLMError, RejectedError
from edgeslm.ports import Clock
from edgeslm.provision import exchange
from edgeslm.provision.errors import (
    ProvisionConfigError,
    RevokedAtBrokerError,
    WrongCertificateError,
    unusable,
)
from edgeslm.provision.folder import Folder, Pending
from edgeslm.provision.keys import FACTORY_KEY, FileKeys, Keys, load_key, public_pem, signature

_MAX_TOKEN: Final = 128
_SECTION: Final = "provision"
_TOKEN_FILE: Final = f"{_SECTION}.token_file"
_REMEDY: Final = "docs/provisioning.md shows a whole set-up."
Ask = Callable[[Broker, str, str, bytes], CertificateReply]
Hear = Callable[[Broker, str], str | None]
Proof = Callable[[bytes], dict[str, str]]
"""Returns, for a request's DER, the part of the message that shows who asks."""


class Due(Enum):
    """What there is to do, and why."""

    FIRST = "it has no certificate yet"
    SOON = "its certificate ends before long"
    EXPIRED = "its certificate has expired"
    ASKED = "somebody asked for it"
    AUTHORITY = "the fleet has another authority by now"
    REVOKED = "the broker says that its certificate was revoked"
    MOVED = "its hardware is not that on which it was given: is this a copy?"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the device stands.

    Args:
        identity: in force.
        renewed: it is new.
        clock_behind: by our clock it is not valid yet; that is for the clock to mend.
    """

    identity: Identity
    renewed: bool
    clock_behind: bool


def due(
    identity: Identity | None,
    now: float,
    renew_after: float,
    *,
    asked: bool = False,
    machine: Collection[str] = (),
) -> Due | None:
    """Return what is to be done; None: nothing is."""
    if identity is None:
        return Due.FIRST
    if asked:
        return Due.ASKED
    if now > identity.not_after:
        return Due.EXPIRED
    if machine and identity.machine and set(machine).isdisjoint(identity.machine):
        return Due.MOVED
    life = identity.not_after - identity.not_before
    return Due.SOON if now > identity.not_before + renew_after * life else None


class Provisioner:
    """Does what is due for one device.

    Args:
        settings: as `read_settings` has them.
        clock: of the system.
        machine: hashes of what the hardware is called by.
        ask: sends a request, and returns its answer.
        hear: returns who signs certificates now, by what the fleet has said; None: it has not.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        clock: Clock,
        machine: tuple[str, ...],
        ask: Ask = exchange.ask,
        hear: Hear = exchange.hear,
    ) -> None:
        self._settings = settings
        self._provision = _provision_of(settings)
        self._clock = clock
        self._machine = machine
        self._ask = ask
        self._hear = hear
        self._folder = Folder(self._provision.dir, self._provision.group)
        self._keys = self._keys_of(self._folder)

    def run(self, *, renew: bool = False) -> Outcome:
        """Get or renew the certificate, where that is due.

        Args:
            renew: now, whenever it ends.

        Raises:
            EdgeSLMError: it cannot be had; what was in force still is.
        """
        with self._folder.held():
            self._folder.tidy()
            identity = read_identity(self._provision.dir)
            if identity is not None:  # the run that got it may have been killed before
                self._keys.installed(self._folder.number())
            now = self._clock.wall()
            after = self._provision.renew_after
            why = due(identity, now, after, asked=renew, machine=self._machine)
            if why is None and identity is not None:
                why = self._told(identity)
            if why is None:
                assert identity is not None  # noqa: S101 -- else it is due
                return Outcome(identity, renewed=False, clock_behind=now < identity.not_before)
            new = self._got(why, identity)
            self._keys.installed(self._folder.number())
            return Outcome(new, renewed=True, clock_behind=now < new.not_before)

    def _told(self, identity: Identity) -> Due | None:
        """Return what is due by what the fleet and its brokers say; None: nothing is.

        That others sign by now than who signed what is in force; or that a broker has that on its
        list of revoked ones. Where nobody says so, it is asked again tomorrow.
        """
        ours = x509.load_pem_x509_certificate(self._folder.read(CERT)).issuer
        names = [each.value for each in ours.get_attributes_for_oid(NameOID.COMMON_NAME)]
        root = self._settings.topic_root
        for broker in self._brokers(Due.AUTHORITY, identity, anew=False):
            try:
                said = self._hear(broker, root)
            except RevokedAtBrokerError:
                return Due.REVOKED
            except EdgeSLMError:  # who was away for long gets in by the other way alone
                continue
            known = said is None or not said.startswith(AUTHORITY_NAMED) or said in names
            return None if known else Due.AUTHORITY
        return None

    def _got(self, why: Due, identity: Identity | None) -> Identity:
        """Return who this is by the certificate that it has got.

        By the one in force; where the fleet does not take that any more, by what let this device in
        first: it may have been enrolled anew.
        """
        pending = self._folder.pending()
        anew = identity is None or (pending is not None and pending.anew)
        try:
            return self._asked(why, identity, pending, anew=anew)
        except (DeviceRevokedError, DeviceClonedError, CertificateUnknownError) as err:
            if anew or not self._may_come_anew():
                raise
            self._folder.discard()
            try:
                return self._asked(why, identity, None, anew=True)
            except RejectedError:
                raise err from None

    def _asked(
        self, why: Due, identity: Identity | None, pending: Pending | None, *, anew: bool
    ) -> Identity:
        brokers = self._brokers(why, identity, anew=anew)
        proof = self._first_proof() if anew else self._proof_in_force()
        if pending is None:
            pending = self._folder.prepare(self._new(identity, anew=anew))
        reply = self._answered(brokers, pending, proof)
        new = certificate_of(reply, pending, identity, self._machine)
        assert reply.certificate is not None  # noqa: S101 -- as checked
        self._folder.install(reply.certificate.encode(), new)
        return new

    def _may_come_anew(self) -> bool:
        try:
            self._first_proof()
        except ProvisionConfigError:  # its file was removed, say, since it has been used
            return False
        return True

    def _new(self, identity: Identity | None, *, anew: bool) -> Callable[[Path], Pending]:
        again = anew and identity is not None
        device = identity.device if identity is not None else self._said

        def make(folder: Path) -> Pending:
            csr = self._keys.make(folder, device)
            return Pending(request=secrets.token_hex(16), device=device, anew=again, csr=csr)

        return make

    @property
    def _said(self) -> str | None:
        """Who the settings say that this is."""
        said = self._settings.device_id
        return said if said != UNPROVISIONED else None

    def _answered(self, brokers: list[Broker], pending: Pending, proof: Proof) -> CertificateReply:
        der = x509.load_pem_x509_csr(pending.csr.encode()).public_bytes(Encoding.DER)
        request = CertificateRequest.model_validate(
            {
                "schema": 1,
                "device": pending.device,
                "csr": pending.csr,
                "machine": self._machine,
                **proof(der),
            }
        )
        payload = request.model_dump_json(by_alias=True, exclude_none=True).encode()
        failed: EdgeSLMError | None = None
        for broker in brokers:
            try:
                reply = self._ask(broker, self._settings.topic_root, pending.request, payload)
            except EdgeSLMError as err:
                failed = failed or err  # of the way that should have worked
            else:
                return self._taken(reply, pending)
        assert failed is not None  # noqa: S101 -- there is a broker
        raise failed

    def _taken(self, reply: CertificateReply, pending: Pending) -> CertificateReply:
        if reply.error is not None:
            found = refusal(reply.error["code"], reply.error["message"])
            never = isinstance(found, CertificateRequestError | KeySharedError | OtherDeviceError)
            if never or (pending.anew and isinstance(found, RejectedError)):
                self._folder.discard()  # never another answer; or the one in force is next again
            raise found
        return reply

    def _proof_in_force(self) -> Proof:
        """Return what makes the part of a request that shows who asks."""
        current = self._folder.read(CERT).decode("ascii", "replace")
        folder = self._provision.dir / CURRENT
        return lambda der: {"current": current, "signature": self._keys.sign(folder, der)}

    def _first_proof(self) -> Proof:
        """Return the same of a device that has no certificate, or none that counts.

        Raises:
            ProvisionConfigError: there is nothing to show.
        """
        if (file := self._provision.token_file) is not None:
            token = _token(file)
            return lambda _: {"token": token}
        if (file := self._provision.factory_key_file) is not None:
            _check_own(file, FACTORY_KEY)
            private = load_key(file, FACTORY_KEY)
            return lambda der: {
                "factory_key": public_pem(private),
                "signature": signature(private, der),
            }
        what = "neither token_file nor factory_key_file: nothing says that the fleet knows this"
        raise unusable(_SECTION, what, remedy=_REMEDY)

    def _brokers(self, why: Due, identity: Identity | None, *, anew: bool) -> list[Broker]:
        """Return where to ask, in order.

        Raises:
            ProvisionConfigError: what is asked would travel in clear.
        """
        uplink, open_to_all = self._settings.uplink, self._provision.broker
        found = []
        if identity is not None and why is not Due.EXPIRED and not anew:
            found.append(certified(self._settings))
        elif open_to_all is None:
            found.append(uplink)
        if open_to_all is not None:
            found.append(open_to_all)
        for broker in found:
            if broker.tls is None and not broker.stays_here:
                section = "provision.broker.tls" if broker is open_to_all else "uplink.tls"
                what = f"{broker.address}: a token would cross the network in clear"
                raise unusable(section, what, remedy=_REMEDY)
        return found

    def _keys_of(self, folder: Folder) -> Keys:
        if self._provision.pkcs11 is None:
            return FileKeys(folder)
        from edgeslm.provision.hardware import HardwareKeys  # noqa: PLC0415 -- a package of its own

        hardware: Keys = HardwareKeys(folder, self._provision.pkcs11, self._settings.uplink)
        return hardware


def _provision_of(settings: AgentSettings) -> ProvisionSettings:
    if settings.provision is None:
        what = "missing: nothing says how this device gets its certificate"
        raise unusable(_SECTION, what, remedy=_REMEDY)
    return settings.provision


def _token(file: Path) -> str:
    remedy = "Put the token there that `edgeslm fleet enroll` made for this device."
    _check_own(file, _TOKEN_FILE)
    try:
        token = file.read_text("ascii").strip()
    except (OSError, ValueError) as err:
        said = err.strerror if isinstance(err, OSError) and err.strerror else "not ASCII"
        raise unusable(_TOKEN_FILE, f"{file}: {said}", remedy=remedy) from None
    if not 0 < len(token) <= _MAX_TOKEN:
        raise unusable(_TOKEN_FILE, f"{file}: holds no token", remedy=remedy)
    return token


def _check_own(file: Path, setting: str) -> None:
    """Refuse what any user of the device may have put there: this would be whom they say.

    Raises:
        ProvisionConfigError: any user may write it.
    """
    try:
        mode = file.stat().st_mode
    except OSError:  # said by who reads it
        return
    if stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        what = f"{file}: every user of this device may write it"
        raise unusable(setting, what, remedy=f"chmod o= {shlex.quote(str(file))}")


def certificate_of(
    reply: CertificateReply, pending: Pending, identity: Identity | None, machine: tuple[str, ...]
) -> Identity:
    """Return what a certificate says, if it is one for our key and our id.

    Raises:
        WrongCertificateError: it is not.
    """
    try:
        found = x509.load_pem_x509_certificate((reply.certificate or "").encode())
        csr = x509.load_pem_x509_csr(pending.csr.encode())
        ours = found.public_key() == csr.public_key()
        names = [(each.oid, each.value) for each in found.subject]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        msg = "what came is no certificate. Is the broker the fleet's?"
        raise WrongCertificateError(msg) from None
    device: DeviceId = reply.device or ""
    expected = identity.device if identity is not None else pending.device or device
    if not ours or names != [(NameOID.COMMON_NAME, expected)] or device != expected:
        msg = f"what came is no certificate of {expected} and its key. Is the broker the fleet's?"
        raise WrongCertificateError(msg)
    return Identity(
        device=expected,
        serial=f"{found.serial_number:x}",
        not_before=found.not_valid_before_utc.timestamp(),
        not_after=found.not_valid_after_utc.timestamp(),
        machine=machine,
    )
