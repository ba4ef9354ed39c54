"""The fleet's authority over its devices: a key of the repository, and certificates signed by it.

`keys/devices.pem` is the key, encrypted like the others; `devices.pem` its certificate, which
brokers hold devices' certificates against. Of a request only its key counts: everything else in a
certificate is ours.

An authority is replaced in three steps, since a broker must know the next one before a device has a
certificate of it: it lies in `devices-next.pem`; then it comes first in `devices.pem`, and signs;
then those after it go. The key of a later one is `keys/devices-` and eight digits of what it is.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeslm.adapters.fs import flush_folder, write_durably
from edgeslm.core.provisioning import (
    AUTHORITY_NAMED,
    CertificateRequestError,
    IssuingUnavailableError,
    reserved,
)
from edgeslm.fleet.errors import AuthorityStepError, FleetDamagedError, KeyInvalidError
from edgeslm.fleet.keys import KEYS
from edgeslm.fleet.repository import Repository
from edgeslm.fleet.shown import fingerprint_of

CERTIFICATE: Final = "devices.pem"
NEXT: Final = "devices-next.pem"
KEY: Final = "devices"
LIFE_DAYS: Final = 25 * 365
BACKDATED_S: Final = 3600.0  # for brokers whose clocks are slow
_DAY_S: Final = 86_400.0
_DIGITS: Final = 8
_READABLE: Final = 0o644
_RESTORE: Final = "Restore it from a copy."


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that was issued.

    Args:
        serial: hex.
        device: whose.
        not_before: seconds since 1970.
        not_after: the same.
        pem: all of it.
    """

    serial: str
    device: str
    not_before: float
    not_after: float
    pem: str


@dataclass(frozen=True, slots=True)
class _Opened:
    """What signs, and when its file was written."""

    stamp: tuple[int, int]
    own: x509.Certificate
    private: ec.EllipticCurvePrivateKey


class Authority:
    """Signs devices' certificates. Any thread's.

    Args:
        repository: whose.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._opened: _Opened | None = None

    @property
    def exists(self) -> bool:
        return (self._repository.folder / CERTIFICATE).exists()

    def make(self) -> None:
        """Make key and certificate, unless they are there.

        A certificate that was lost is made again of its key: what it had signed still holds.

        Raises:
            EdgeSLMError: no passphrase, the disk refused, or another command writes for long.
        """
        with self._repository.store.locked():
            if self.exists:
                return
            self._remake()

    def _remake(self) -> None:
        keys = self._repository.keys
        if any((self._repository.folder / KEYS).glob(f"{KEY}-*.pem")):  # it may have been of that
            file = str(self._repository.folder / CERTIFICATE)
            raise FleetDamagedError(file, [("", "missing")], remedy=_RESTORE)
        if keys.kept(KEY):
            private = self._private(KEY)
        else:
            private = ec.generate_private_key(ec.SECP256R1())
            keys.keep(KEY, KEY, private)
        self._write(CERTIFICATE, [_own(private, self._repository.now())])

    def prepare(self) -> x509.Certificate:
        """Make the next authority, unless there is one; return its certificate.

        It signs nothing yet: brokers learn of it first.

        Raises:
            EdgeSLMError: as `make`.
        """
        with self._repository.store.locked():
            if (waiting := self.waiting()) is not None:
                return waiting
            private = ec.generate_private_key(ec.SECP256R1())
            own = _own(private, self._repository.now())
            self.certificate()  # there is one to be replaced
            self._repository.keys.keep(_later_key(own), KEY, private)
            self._write(NEXT, [own])
            return own

    def rotate(self) -> x509.Certificate:
        """Have the next authority sign from now on; those before are accepted still.

        Raises:
            AuthorityStepError: there is none.
            EdgeSLMError: as `open`.
        """
        with self._repository.store.locked():
            if (waiting := self.waiting()) is None:
                msg = "no other authority is there: `edgeslm fleet authority prepare` first"
                raise AuthorityStepError(msg)
            self._key_of(waiting)  # else nothing could be signed from now on
            self._write(CERTIFICATE, [waiting, *self.certificates()])
            (self._repository.folder / NEXT).unlink(missing_ok=True)
            return waiting

    def retire(self) -> list[x509.Certificate]:
        """Have only the one that signs be accepted; return those that were until now.

        Their keys are removed: nothing is to be signed by them, and nobody to find them.

        Raises:
            AuthorityStepError: there is no other.
            EdgeSLMError: as `make`.
        """
        with self._repository.store.locked():
            first, *old = self.certificates()
            if not old:
                msg = "only one authority is accepted: `edgeslm fleet authority rotate` first"
                raise AuthorityStepError(msg)
            names = [self._key_name(each) for each in old]
            self._write(CERTIFICATE, [first])
            for name in names:
                self._repository.keys.forget(name)
            flush_folder(self._repository.folder / KEYS)
            return old

    def waiting(self) -> x509.Certificate | None:
        """Return the authority that is next; None: there is none.

        Raises:
            EdgeSLMError: as `certificates`.
        """
        if not (self._repository.folder / NEXT).exists():
            return None
        (found,) = self._read(NEXT)[:1]
        # One that signs by now: whoever was to remove it was killed.
        return found if found not in self.certificates() else None

    def open(self) -> None:
        """Unlock the key, now and not when the first device asks.

        Raises:
            IssuingUnavailableError: there is none.
            EdgeSLMError: it is not where it should be, or its passphrase is wrong.
        """
        self._pair()

    def certificate(self) -> x509.Certificate:
        """Return the authority's own, of the one that signs.

        Raises:
            EdgeSLMError: as `certificates`.
        """
        return self.certificates()[0]

    def certificates(self) -> list[x509.Certificate]:
        """Return those of all that are accepted, the one that signs first.

        Raises:
            IssuingUnavailableError: there is none.
            FleetDamagedError: the file holds none.
        """
        return self._read(CERTIFICATE)

    def _read(self, name: str) -> list[x509.Certificate]:
        file = self._repository.folder / name
        try:
            return x509.load_pem_x509_certificates(file.read_bytes())
        except FileNotFoundError:
            msg = "this fleet gives no certificates yet: `edgeslm fleet enroll` makes its authority"
            raise IssuingUnavailableError(msg) from None
        except OSError as err:
            raise FleetDamagedError(
                str(file), [("", err.strerror or str(err))], remedy=_RESTORE
            ) from None
        except (ValueError, x509.InvalidVersion):
            raise FleetDamagedError(str(file), [("", "no certificate")], remedy=_RESTORE) from None

    def _write(self, name: str, certificates: Iterable[x509.Certificate]) -> None:
        write_durably(
            self._repository.folder / name,
            b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
            mode=_READABLE,
        )

    def issue(self, device: str, public: PublicKeyTypes, now: float) -> Certificate:
        """Sign a certificate for a device's key.

        Raises:
            CertificateRequestError: its name is that of a user who is no device.
            EdgeSLMError: as `open`.
        """
        if reserved(device):  # whoever enrolled it: on the broker it would be that user
            msg = f"{device}: no device is called so. Enrol it by another id."
            raise CertificateRequestError(msg)
        own, private = self._pair()
        until = min(
            now + self._repository.config.days.certificate * _DAY_S,
            own.not_valid_after_utc.timestamp(),
        )
        since = now - BACKDATED_S
        serial = x509.random_serial_number()
        usage = _usage(digital_signature=True)
        made = (
            x509.CertificateBuilder()
            .subject_name(_named(device))
            .issuer_name(own.subject)
            .public_key(public)  # type: ignore[arg-type] # those that `read_csr` lets pass
            .serial_number(serial)
            .not_valid_before(_utc(since))
            .not_valid_after(_utc(until))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()),
                critical=False,
            )
            .sign(private, hashes.SHA256())
        )
        pem = made.public_bytes(Encoding.PEM).decode("ascii")
        return Certificate(
            f"{serial:x}",
            device,
            made.not_valid_before_utc.timestamp(),
            made.not_valid_after_utc.timestamp(),
            pem,
        )

    def revoked_list(self, serials: Iterable[tuple[str, float]]) -> bytes:
        """Return a list of revoked certificates of each authority that brokers know, PEM.

        It is good for as long as the authority is: a broker whose list has ended lets nobody in.
        A serial is in all of them: it is drawn from so many that it says by itself whose it is.

        Args:
            serials: each with when it was revoked, seconds since 1970.

        Raises:
            EdgeSLMError: as `open`.
        """
        revoked = [
            x509.RevokedCertificateBuilder()
            .serial_number(int(serial, 16))
            .revocation_date(_utc(at))
            .build()
            for serial, at in serials
        ]
        return b"".join(self._list_of(own, revoked) for own in self.known())

    def known(self) -> list[x509.Certificate]:
        """Return the certificates that brokers are to know: of those accepted, and of the next.

        Raises:
            EdgeSLMError: as `certificates`.
        """
        waiting = self.waiting()
        return [*self.certificates(), *([waiting] if waiting is not None else [])]

    def _list_of(self, own: x509.Certificate, revoked: list[x509.RevokedCertificate]) -> bytes:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(own.subject)
            .last_update(_utc(self._repository.now() - BACKDATED_S))
            .next_update(own.not_valid_after_utc)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(each)
        return builder.sign(self._key_of(own), hashes.SHA256()).public_bytes(Encoding.PEM)

    def _private(self, name: str) -> ec.EllipticCurvePrivateKey:
        private = self._repository.keys.private(name, KEY)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            msg = f"keys/{name}.pem: no key of an elliptic curve. {_RESTORE}"
            raise KeyInvalidError(msg)
        return private

    def _key_name(self, own: x509.Certificate) -> str:
        later = _later_key(own)
        return later if self._repository.keys.kept(later) else KEY

    def _key_of(self, own: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        name = self._key_name(own)
        private = self._private(name)
        if private.public_key() != own.public_key():
            msg = f"keys/{name}.pem: another key than {CERTIFICATE} is of. {_RESTORE}"
            raise KeyInvalidError(msg)
        return private

    def _pair(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        """Return what signs now: another command may have changed that."""
        with self._lock:
            stamp = self._stamp()
            if self._opened is None or self._opened.stamp != stamp:
                own = self.certificate()
                self._opened = _Opened(stamp, own, self._key_of(own))
            return self._opened.own, self._opened.private

    def _stamp(self) -> tuple[int, int]:
        """Return what another file in its place would not have; zeros where there is none."""
        try:
            found = (self._repository.folder / CERTIFICATE).stat()
        except OSError:  # said by who reads it
            return 0, 0
        return found.st_ino, found.st_mtime_ns


def name_of(own: x509.Certificate) -> str:
    """Return what an authority is called in the certificates that it signs."""
    return str(own.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _own(private: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    # No two fleets' authorities have the same name, since a broker may hold several; one that is
    # made again has the one it had.
    public = private.public_key()
    name = _named(f"{AUTHORITY_NAMED}{fingerprint_of(public)[:_DIGITS]}")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATED_S))
        .not_valid_after(_utc(now + LIFE_DAYS * _DAY_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(private, hashes.SHA256())
    )


def _later_key(own: x509.Certificate) -> str:
    """Return what the key of an authority is called that is not the fleet's first."""
    public: PublicKeyTypes = own.public_key()
    return f"{KEY}-{fingerprint_of(public)[:_DIGITS]}"


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _utc(at: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(at), dt.UTC)
